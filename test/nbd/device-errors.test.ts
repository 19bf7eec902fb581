/** What clients and logs hear of a device that fails. */
import { expect, it } from 'vitest';
import { AfterimageError } from '../../shared/errors.js';
import { NBD_ERROR_LOG_INTERVAL_MS } from '../../shared/limits.js';
import type { Logger } from '../../shared/log.js';
import { DeviceErrorLog, wireErrno } from '../../receiver/volume/nbd/device-errors.js';

const ours = (code: string, cause?: unknown): AfterimageError => new AfterimageError('x', { code, kind: 'io', cause });

it.each([
  [ours('overlay-full'), 28],
  [ours('volume', Object.assign(new Error('x'), { code: 'EDQUOT' })), 28],
  [Object.assign(new Error('x'), { code: 'ENOSPC' }), 28],
  [ours('fullish'), 5],
  ['text', 5],
  [undefined, 5],
])('%s', (error, errno) => expect(wireErrno(error)).toBe(errno));

it('logs the first of a burst, then how many were left out', () => {
  let nowMs = 1000;
  const lines: { suppressed: number }[] = [];
  const log = { error: (fields: { suppressed: number }) => lines.push(fields) } as unknown as Logger;
  const clock = { nowMs: () => 0, monotonicMs: () => nowMs, sleep: async () => undefined };
  const errors = new DeviceErrorLog(log, clock);
  for (let i = 0; i < 100; i++) errors.note(new Error('broken'), 'disk', 0, 0, 4096);
  expect(lines.map((line) => line.suppressed)).toEqual([0]);
  nowMs += NBD_ERROR_LOG_INTERVAL_MS;
  errors.note(new Error('broken'), 'disk', 0, 0, 4096);
  expect(lines.map((line) => line.suppressed)).toEqual([0, 99]);
});
