/**
 * Options and help that many verbs share.
 */
import { InvalidArgumentError } from 'commander';
import { parseRate } from '../../shared/config/parse-values.js';

export const JSON_OPTION = ['--json', 'print data as JSON on stdout, errors as JSON on stderr'] as const;
export const SOCKET_OPTION = [
  '--socket <path>',
  'control socket of the receiver (else `controlSocket:` of its configuration)',
] as const;
export const MACHINE_HELP = 'its name, its id, or a beginning of its id';
export const POINT_HELP =
  'number, "latest", "latest-filesystem-consistent", "latest-app-consistent", or a time (the newest point not after it)';

export function positive(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('Give a whole number from 1.');
  return value;
}

export function rate(text: string): number {
  const value = parseRate(text);
  if (value === null) throw new InvalidArgumentError('Give a rate with its unit, such as 20MB/s.');
  return value;
}

export const CHECK_HELP = 'what proves that it came up: serial:TEXT, tcp:HOST:PORT, http://…, command:PATH or none';
export const DEFAULT_CHECK_TIMEOUT = '5min';
