/**
 * Values of configuration files as zod types: what is wrong is said in our words. Pure.
 */
import { z } from 'zod';
import { parseHostPort } from '../wire/host-port.js';
import {
  isLoopback,
  parseBytes,
  parseDays,
  parseDuration,
  parsePerSecond,
  parseRate,
  parseShare,
  parseTimeOfDay,
} from './parse-values.js';

/** Text by a rule of ours, as a zod type: what is wrong is said in our words. */
const parsedText = <T>(parse: (text: string) => T | null, expected: string) =>
  z.string(`expected ${expected}`).transform((text, context): T => {
    const value = parse(text);
    if (value !== null) return value;
    context.addIssue({ code: 'custom', message: `expected ${expected}` });
    return z.NEVER;
  });

export const bytesValue = parsedText(parseBytes, 'a size with its unit, such as 64MiB or 2GB');
export const rateValue = parsedText(parseRate, 'a rate with its unit, such as 20MB/s or 100Mbit/s');

export const perSecondValue = parsedText(parsePerSecond, 'a number per second, such as 500/s');
export const shareValue = parsedText(parseShare, 'a share of one processor, such as 30%');

/** A duration within bounds (ms); "0s" where the bounds allow it. */
export const durationValue = (minMs: number, maxMs: number, bounds: string) =>
  parsedText(
    (text) => parseDuration(text, Math.min(minMs, 1)),
    'a duration with its unit, such as 500ms, 5s, 10min or 2h',
  ).refine((ms) => ms >= minMs && ms <= maxMs, `expected a duration of ${bounds}`);

export const timeOfDayValue = parsedText(parseTimeOfDay, "a time of day in quotes, such as '08:00'");

export const daysValue = parsedText(parseDays, 'days such as mon-fri, sat,sun or daily');

/** An address as others reach it. */
export const hostPortValue = z
  .string('expected host:port')
  .refine((text) => parseHostPort(text) !== null, 'expected host:port');

export const absolutePath = z
  .string('expected a path')
  .regex(/^\/[^\0]*$/, 'expected an absolute path, such as /var/lib/example');

export const portValue = z.int('expected a port, 1 to 65535').min(1, 'expected a port, 1 to 65535').max(65535);

/** Status endpoints have no authentication: whoever reaches them may read. */
export const loopbackHost = z
  .string('expected a loopback address')
  .refine(
    isLoopback,
    'expected a loopback address (127.0.0.1, ::1, localhost): the status endpoint has no authentication, so it is not offered to the network',
  );

export const logLevelValue = z.enum(['debug', 'info', 'warn', 'error', 'silent']);
