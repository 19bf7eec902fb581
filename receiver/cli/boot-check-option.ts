/**
 * `--check`: what proves that a copy came up, as an operator types it. Pure.
 */
import { isAbsolute } from 'node:path';
import { parseDuration } from '../../shared/config/parse-values.js';
import { usageError } from '../../shared/errors.js';
import { parseHostPort } from '../../shared/wire/host-port.js';
import { bootCheckSchema, type BootCheck } from '../catalog/launch.js';
import { DEFAULT_CHECK_TIMEOUT } from './verb-options.js';

const HINT = 'Give serial:TEXT, tcp:HOST:PORT, an http:// or https:// address, command:/PATH, or none.';

export function parseBootCheck(text: string, timeout: string = DEFAULT_CHECK_TIMEOUT): BootCheck {
  const timeoutMs = parseDuration(timeout);
  if (timeoutMs === null) throw usageError(`${timeout} is not a duration`, 'Give it as 90s, 5min or 1h.');
  const parsed = bootCheckSchema.safeParse(wishOf(text, timeoutMs));
  if (parsed.success) return parsed.data;
  throw usageError(`--check ${text}: ${parsed.error.issues.map((i) => i.message).join('; ')}`, HINT);
}

function wishOf(text: string, timeoutMs: number): BootCheck {
  if (text === 'none') return { type: 'none' };
  if (/^https?:\/\//.test(text)) return { type: 'http', url: text, timeoutMs };
  const [, kind, rest = ''] = /^(\w+):(.*)$/s.exec(text) ?? [];
  if (kind === 'serial') return { type: 'serial', text: rest, timeoutMs };
  if (kind === 'tcp') {
    const address = parseHostPort(rest);
    if (address === null) throw usageError(`--check ${text}: ${rest} is not HOST:PORT`, HINT);
    return { type: 'tcp', ...address, timeoutMs };
  }
  if (kind === 'command') {
    // The receiver runs it, in a folder of its own.
    if (!isAbsolute(rest)) throw usageError(`--check ${text}: the program's path must be absolute`, HINT);
    return { type: 'command', command: [rest], timeoutMs };
  }
  throw usageError(`--check ${text} is not a check`, HINT);
}
