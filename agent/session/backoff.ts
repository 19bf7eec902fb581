/**
 * How long to wait before the next attempt to connect. Pure: randomness is passed in.
 */
import { RECONNECT_BACKOFF_MAX_MS, RECONNECT_BACKOFF_MIN_MS } from '../../shared/limits.js';

export interface BackoffBounds {
  readonly minMs: number;
  readonly maxMs: number;
}

const BOUNDS: BackoffBounds = { minMs: RECONNECT_BACKOFF_MIN_MS, maxMs: RECONNECT_BACKOFF_MAX_MS };

/**
 * Wait after `failures` attempts that failed in a row (1 upwards): anywhere from the minimum to a ceiling that doubles each time. The whole range
 * is used ("full jitter"), so that a thousand agents that lost the same receiver don't come back in step.
 */
export function backoffMs(failures: number, random: () => number, { minMs, maxMs }: BackoffBounds = BOUNDS): number {
  const ceilingMs = Math.min(maxMs, minMs * 2 ** Math.max(1, failures));
  return minMs + random() * (ceilingMs - minMs);
}
