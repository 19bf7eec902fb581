/**
 * Values as people write them in configuration files and options: sizes, rates, durations, times of day. Pure; apart from values.ts, so that a
 * command line can be read without loading zod.
 */
import { isIP } from 'node:net';

const BYTES_OF: Readonly<Record<string, number>> = {
  B: 1,
  kB: 1e3,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
  // Links are sold in bits.
  kbit: 1e3 / 8,
  Mbit: 1e6 / 8,
  Gbit: 1e9 / 8,
};
const MS_OF: Readonly<Record<string, number>> = { ms: 1, s: 1_000, min: 60_000, h: 3_600_000, d: 86_400_000 };

/** Number and unit; null when the text isn't both, or the result is below `least`. */
function measure(text: string, units: Readonly<Record<string, number>>, least = 1): number | null {
  const match = /^(\d+(?:\.\d+)?)\s*([A-Za-z]+)$/.exec(text.trim());
  const factor = units[match?.[2] ?? ''];
  if (match === null || factor === undefined) return null;
  const value = Math.round(Number(match[1]) * factor);
  return Number.isSafeInteger(value) && value >= least ? value : null;
}

/** "64MiB" → bytes. */
export const parseBytes = (text: string): number | null => (text.includes('bit') ? null : measure(text, BYTES_OF));
/** "20MB/s", "100Mbit/s" → bytes per second. */
export const parseRate = (text: string): number | null =>
  text.trim().endsWith('/s') ? measure(text.trim().slice(0, -2), BYTES_OF) : null;
/** "500/s" → 500. */
export const parsePerSecond = (text: string): number | null => {
  const match = /^([1-9]\d{0,8})\s*\/s$/.exec(text.trim());
  return match === null ? null : Number(match[1]);
};
/** "30%" → 0.3. */
export const parseShare = (text: string): number | null => {
  const match = /^(\d+(?:\.\d+)?)\s*%$/.exec(text.trim());
  return match === null ? null : Number(match[1]) / 100;
};
/** "5s", "10min" → milliseconds; `leastMs` 0 also takes "0s". */
export const parseDuration = (text: string, leastMs = 1): number | null => measure(text, MS_OF, leastMs);

/** Milliseconds → "2h", as parseDuration reads it: the largest unit that fits whole. */
export function durationText(ms: number): string {
  const fitting = Object.entries(MS_OF).filter(([, unitMs]) => ms % unitMs === 0);
  const [unit = 'ms', unitMs = 1] = fitting.at(-1) ?? [];
  return `${ms / unitMs}${unit}`;
}

/** "08:30" → minutes since midnight; "24:00" is the end of the day. */
export function parseTimeOfDay(text: string): number | null {
  const match = /^(\d{2}):(\d{2})$/.exec(text);
  const [hour, minute] = [Number(match?.[1]), Number(match?.[2])];
  if (match === null || minute > 59) return null;
  const minutes = hour * 60 + minute;
  return minutes <= 24 * 60 ? minutes : null;
}

const DAY_NAMES = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];

/** "mon-fri", "sat,sun", "daily" → days of the week, 0 = Sunday as in Date. */
export function parseDays(text: string): readonly number[] | null {
  if (text === 'daily') return [0, 1, 2, 3, 4, 5, 6];
  const days = new Set<number>();
  for (const part of text.toLowerCase().split(',')) {
    const [first, last, ...more] = part.trim().split('-');
    const from = DAY_NAMES.indexOf(first ?? '');
    const to = last === undefined ? from : DAY_NAMES.indexOf(last);
    if (from < 0 || to < 0 || more.length > 0) return null;
    for (let day = from; ; day = (day + 1) % 7) {
      days.add(day);
      if (day === to) break;
    }
  }
  return [...days].sort();
}

/** Whether a host is this machine alone. Names are not resolved: `localhost` is the only one that can't be anything else. */
export function isLoopback(host: string): boolean {
  if (host === 'localhost' || host === '::1') return true;
  return isIP(host) === 4 && host.startsWith('127.');
}
