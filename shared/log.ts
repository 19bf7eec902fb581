/**
 * Logs: pino, one JSON line per event that matters, to stdout (journald). Secrets are redacted by path, and never passed in.
 */
import { pino, type Logger } from 'pino';

export type { Logger };
export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent';

const REDACT = ['token', 'secret', 'key', 'privateKey', '*.token', '*.secret', '*.key', '*.privateKey'];

/**
 * `program` is bound to each line; children bind machine and disk. `pretty` is not offered: `journalctl -o cat | npx pino-pretty`.
 * `stream`: instead of stdout, for commands whose stdout is data.
 */
export function createLogger(
  program: string,
  level: LogLevel = 'info',
  stream: NodeJS.WritableStream = process.stdout,
): Logger {
  const options = {
    name: program,
    level,
    base: { pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: { paths: REDACT, censor: '[secret]' },
    serializers: { err: pino.stdSerializers.err },
  };
  return stream === process.stdout ? pino(options) : pino(options, stream);
}

export const silentLogger = (): Logger => pino({ level: 'silent' });
