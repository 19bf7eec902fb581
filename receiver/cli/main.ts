#!/usr/bin/env node
/**
 * `afterimage`: the operator's command. Ctrl-C (or a TERM) cancels cleanly; a second one ends it at once.
 */
import { endWhenOutputCloses } from '../../shared/cli.js';
import { systemIo } from './io.js';
import { runCli } from './program.js';

endWhenOutputCloses();
const stop = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());

process.exitCode = await runCli(process.argv.slice(2), systemIo(stop.signal));
