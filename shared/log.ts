/**
 * Logs: pino, one JSON line per event that matters, to stdout (journald). Secrets are redacted by path, and never passed in.
 */
import { destination, pino, type Logger } from 'pino';

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
  return stream === process.stdout ? pino(options, gate) : pino(options, stream);
}

/** Lines that are kept at most while the log is held: a freeze lasts seconds, and hardly anything is worth a line in it. */
const HELD_LINES_MAX = 1_000;
/** Set while nothing may be written: the log may be a file on a filesystem that is frozen, or its reader may be blocked by one. */
let held: { readonly lines: string[]; dropped: number } | null = null;
let stdout: { write(line: string): unknown } | null = null;

const gate = {
  write(line: string): void {
    if (held === null) {
      stdout ??= destination({ fd: 1, sync: true });
      stdout.write(line);
    } else if (held.lines.length < HELD_LINES_MAX) held.lines.push(line);
    else held.dropped++;
  },
};

/** Keeps the lines of all logs to stdout in memory until the returned function is called. One holder at a time; a second one joins the first. */
export function holdLogs(): () => void {
  if (held !== null) return () => undefined;
  const mine = { lines: [] as string[], dropped: 0 };
  held = mine;
  return () => {
    if (held !== mine) return;
    held = null;
    for (const line of mine.lines) gate.write(line);
    if (mine.dropped > 0) gate.write(`${JSON.stringify({ level: 40, msg: `${mine.dropped} lines were dropped` })}\n`);
  };
}

export const silentLogger = (): Logger => pino({ level: 'silent' });
