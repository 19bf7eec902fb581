/** A schedule as people write it in configuration files: "30d", or "0 3 * * sun". Apart from the other values, as the library behind it is loaded along. */
import { z } from 'zod';
import { isCronExpression, type Schedule } from '../schedule.js';
import { parseDuration } from './parse-values.js';

export const scheduleValue = (minMs: number, maxMs: number, bounds: string) => {
  const expected = `expected a duration of ${bounds}, or a cron expression of five fields, such as '0 3 * * sun'`;
  return z.string(expected).transform((text, context): Schedule => {
    const everyMs = parseDuration(text);
    if (everyMs !== null && everyMs >= minMs && everyMs <= maxMs) return { by: 'interval', everyMs };
    if (everyMs === null && isCronExpression(text)) return { by: 'cron', expression: text };
    context.addIssue({ code: 'custom', message: expected });
    return z.NEVER;
  });
};
