/**
 * What every verb is given: options for all, streams, the clock, a signal that Ctrl-C aborts.
 */
import { systemClock, type Clock } from '../../shared/clock.js';

export const DEFAULT_CONFIG = '/etc/afterimage/receiver.yaml';

export interface GlobalOptions {
  readonly store?: string;
  readonly config: string;
  readonly json?: boolean;
  readonly socket?: string;
  /** Recovery key files. */
  readonly key?: readonly string[];
}

export interface CliIo {
  /** Absent: nobody can be asked. */
  readonly in?: NodeJS.ReadableStream & { readonly isTTY?: boolean };
  readonly out: NodeJS.WritableStream;
  readonly err: NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number };
  readonly env: NodeJS.ProcessEnv;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

export const systemIo = (signal: AbortSignal): CliIo => ({
  in: process.stdin,
  out: process.stdout,
  err: process.stderr,
  env: process.env,
  clock: systemClock,
  signal,
});
