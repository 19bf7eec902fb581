/**
 * What the daemons' command lines share: errors for people with their hint, exit codes, cancelling by signal.
 */
import { CommanderError, type Command } from 'commander';
import { AfterimageError, messageOf } from './errors.js';

/** Aborted by SIGINT or SIGTERM; a second signal ends the process at once. */
export function signalOfProcess(): AbortSignal {
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stop.abort());
  return stop.signal;
}

/** `… | head` closes our output early: that is the reader's choice, not an error. */
export function endWhenOutputCloses(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit(0);
  });
}

/** Runs a command line and sets the exit code: 0 done, 1 failed, 2 bad input (nothing was changed). */
export async function runCommandLine(program: Command, args: readonly string[]): Promise<void> {
  endWhenOutputCloses();
  const json = args.includes('--json');
  // Commands don't inherit it from a program that gets it after them.
  for (const command of [program, ...program.commands]) command.exitOverride();
  try {
    await program.parseAsync(args, { from: 'user' });
  } catch (error) {
    // Commander has printed its own message already; help and version are no errors.
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : 2;
      return;
    }
    process.exitCode = error instanceof AfterimageError ? error.exitCode : 1;
    process.stderr.write(`${describeError(program.name(), error, json)}\n`);
  }
}

function describeError(program: string, error: unknown, json: boolean): string {
  const ours = error instanceof AfterimageError ? error : null;
  if (json) {
    const { code = 'internal', kind = 'internal', hint = null } = ours ?? {};
    return JSON.stringify({ error: { code, kind, message: messageOf(error), hint } });
  }
  const lines = [`${program}: ${messageOf(error)}`];
  if (ours?.hint !== undefined) lines.push(`  ${ours.hint}`);
  // A bug of ours: whoever reports it needs the stack.
  if (ours === null && error instanceof Error && error.stack !== undefined) lines.push(error.stack);
  return lines.join('\n');
}
