import { expect, test } from 'vitest';
import { backoffMs } from '../../agent/session/backoff.js';

const BOUNDS = { minMs: 500, maxMs: 60_000 };

test.each([
  [1, 0, 500],
  [1, 0.5, 750],
  [1, 1, 1_000],
  [2, 1, 2_000],
  [3, 0.5, 2_250],
  [7, 1, 60_000],
  [1000, 1, 60_000],
  [1000, 0, 500],
  [0, 1, 1_000],
])('after %i failures with randomness %d: %i ms', (failures, random, expected) => {
  expect(backoffMs(failures, () => random, BOUNDS)).toBe(expected);
});
