/**
 * What people and programs see: tables, times, JSON, errors. Data goes to stdout, all else to stderr.
 */
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { formatBytes, formatDuration } from '../../shared/units.js';
import type { CliIo } from './io.js';

export interface Column {
  readonly title: string;
  readonly right?: boolean;
}

/** Aligned columns, two spaces apart, no lines: easy to read and to cut. */
export function table(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const widths = columns.map((c, i) => Math.max(c.title.length, ...rows.map((r) => (r[i] ?? '').length)));
  const line = (cells: readonly string[]): string =>
    columns
      .map((c, i) =>
        c.right === true ? (cells[i] ?? '').padStart(widths[i] ?? 0) : (cells[i] ?? '').padEnd(widths[i] ?? 0),
      )
      .join('  ')
      .trimEnd();
  return [line(columns.map((c) => c.title)), ...rows.map(line)].map((l) => `${l}\n`).join('');
}

const two = (n: number): string => String(n).padStart(2, '0');

/** `2026-03-01T14:30:05+01:00`: local time that says so. */
export function localIso(ms: number): string {
  const d = new Date(ms);
  const offset = -d.getTimezoneOffset();
  const zone = `${offset < 0 ? '-' : '+'}${two(Math.floor(Math.abs(offset) / 60))}:${two(Math.abs(offset) % 60)}`;
  const date = `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
  return `${date}T${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}${zone}`;
}

/** Age for people: days from two days on. A point from the future (clocks differ) has age 0. */
export function age(nowMs: number, thenMs: number): string {
  const ms = Math.max(0, nowMs - thenMs);
  const days = Math.floor(ms / 86_400_000);
  return days >= 2 ? `${days} d ${Math.floor((ms % 86_400_000) / 3_600_000)} h` : formatDuration(ms);
}

export const bytes = formatBytes;

export function printJson(io: CliIo, value: unknown): void {
  io.out.write(`${JSON.stringify(value, null, 2)}\n`);
}

/** Message and hint for people, or one JSON object for programs. */
export function printError(io: CliIo, error: unknown, json: boolean): void {
  const ours = error instanceof AfterimageError ? error : undefined;
  if (json) {
    const { code, kind, hint } = ours ?? { code: 'internal', kind: 'internal', hint: undefined };
    io.err.write(`${JSON.stringify({ error: { code, kind, message: messageOf(error), hint: hint ?? null } })}\n`);
    return;
  }
  io.err.write(`afterimage: ${messageOf(error)}\n`);
  if (ours?.hint !== undefined) io.err.write(`  ${ours.hint}\n`);
  // A bug of ours: whoever reports it needs the stack.
  if (ours === undefined && error instanceof Error) io.err.write(`${error.stack ?? ''}\n`);
}

export const exitCodeOf = (error: unknown): number => (error instanceof AfterimageError ? error.exitCode : 1);

/** What whoever takes a point has to be told. */
export function tellConcerns(io: CliIo, concerns: readonly string[]): void {
  for (const concern of concerns) io.err.write(`afterimage: ${concern}\n`);
}
