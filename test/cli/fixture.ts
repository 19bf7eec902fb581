/** A control server over a fake service, and the command run against it in this process. */
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { startControlServer } from '../../receiver/api/control.js';
import type { CliIo } from '../../receiver/cli/io.js';
import { runCli } from '../../receiver/cli/program.js';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { tempFolder } from '../helpers/folders.js';
import { FakeService, T0 } from './fake-service.js';

export interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export interface RunOptions {
  /** Standard input and standard error are a terminal, and this is typed. */
  readonly typed?: string;
  readonly stdin?: string;
  readonly signal?: AbortSignal;
  readonly env?: NodeJS.ProcessEnv;
  readonly onErr?: (text: string) => void;
  readonly onOut?: (text: string) => void;
  /** Waiting takes no time: what is waited for is a fake's. */
  readonly hurried?: boolean;
}

export async function runWith(args: readonly string[], options: RunOptions = {}): Promise<Ran> {
  const isTTY = options.typed !== undefined;
  const stream = (text?: string): PassThrough => {
    const made = new PassThrough();
    if (text !== undefined) made.end(text);
    return made;
  };
  const [out, err] = [stream(), Object.assign(stream(), { isTTY, columns: 60 })];
  const text = { out: '', err: '' };
  out.on('data', (bytes) => {
    text.out += String(bytes);
    options.onOut?.(text.out);
  });
  err.on('data', (bytes) => {
    text.err += String(bytes);
    options.onErr?.(text.err);
  });
  let skippedMs = 0;
  const io: CliIo = {
    in: Object.assign(stream(options.typed ?? options.stdin ?? ''), { isTTY }),
    out,
    err,
    env: options.env ?? {},
    clock: {
      ...systemClock,
      nowMs: () => T0 + 2000,
      monotonicMs: () => systemClock.monotonicMs() + skippedMs,
      sleep: (ms, signal) => {
        const reallyMs = options.hurried === true ? Math.min(ms, 2) : ms;
        skippedMs += ms - reallyMs;
        return systemClock.sleep(reallyMs, signal);
      },
    },
    signal: options.signal ?? new AbortController().signal,
  };
  const code = await runCli(args, io);
  await new Promise((resolve) => setImmediate(resolve));
  return { code, ...text };
}

export interface Control {
  readonly service: FakeService;
  readonly socket: string;
  run(args: readonly string[], options?: RunOptions): Promise<Ran>;
  stop(): Promise<void>;
}

export async function startControl(): Promise<Control> {
  const service = new FakeService();
  const socket = join(await tempFolder('control'), 'run', 'control.sock');
  const server = await startControlServer({ socketPath: socket, service, log: silentLogger() });
  return {
    service,
    socket,
    run: (args, options) => runWith([...args, '--socket', socket], { hurried: true, ...options }),
    stop: () => server.stop(),
  };
}
