import { expect, test } from 'vitest';
import { agentConfigSchema } from '../../agent/config.js';
import type { Bandwidth } from '../../agent/load/config.js';
import { refilled, Throttle } from '../../agent/load/throttle.js';
import { limitAt, type LocalTime } from '../../agent/load/timed-limit.js';
import type { Clock } from '../../shared/clock.js';

const bandwidth = (value: unknown): Bandwidth => agentConfigSchema.parse({ bandwidth: value }).bandwidth;
const at = (day: number, time: string): LocalTime => {
  const [hour, minute] = time.split(':').map(Number);
  return { day, minute: (hour ?? 0) * 60 + (minute ?? 0) };
};
const [SUN, MON, FRI, SAT] = [0, 1, 5, 6];

const OFFICE = bandwidth({
  limit: '100MB/s',
  schedule: [
    { days: 'mon-fri', from: '08:00', to: '18:00', limit: '2MB/s' },
    { days: 'fri', from: '22:00', to: '06:00', limit: 'none' },
    { days: 'sun', from: '00:00', to: '24:00', limit: '8Mbit/s' },
    { days: 'mon', from: '00:00', to: '12:00', limit: '5MB/s' },
  ],
});

test.each([
  ['before office hours', MON, '07:59', 5e6],
  ['the first minute', MON, '08:00', 2e6],
  ['the first rule counts', MON, '11:00', 2e6],
  ['the last minute', FRI, '17:59', 2e6],
  ['the end is not included', FRI, '18:00', 100e6],
  ['over midnight, before', FRI, '23:30', null],
  ['over midnight, after', SAT, '05:59', null],
  ['over midnight, end', SAT, '06:00', 100e6],
  ['not the morning of its own day', FRI, '05:00', 100e6],
  ['a whole day, start', SUN, '00:00', 1e6],
  ['a whole day, end', SUN, '23:59', 1e6],
])('%s', (_what, day, time, expected) => {
  expect(limitAt(OFFICE, at(day, time))).toBe(expected);
});

test('no limit by default', () => {
  expect(limitAt(bandwidth({}), at(MON, '12:00'))).toBeNull();
});

test('a rule whose end is its start lasts a day', () => {
  const all = bandwidth({ schedule: [{ days: 'mon', from: '08:00', to: '08:00', limit: '1MB/s' }] });
  expect(limitAt(all, at(MON, '08:00'))).toBe(1e6);
  expect(limitAt(all, at(2, '07:59'))).toBe(1e6);
  expect(limitAt(all, at(2, '08:00'))).toBeNull();
});

test.each([
  ['refills with time', 0, 1000, 100, 100],
  ['pays debts first', -500, 1000, 200, -300],
  ['never holds more than a burst', 0, 1000, 60_000, 250],
])('bucket %s', (_what, bytes, rate, elapsedMs, expected) => {
  expect(refilled(bytes, rate, elapsedMs)).toBe(expected);
});

/** Time that passes only by sleeping. */
class SleepingClock implements Clock {
  nowValueMs = 0;
  nowMs = (): number => this.nowValueMs;
  monotonicMs = (): number => this.nowValueMs;
  sleep = (ms: number): Promise<void> => {
    this.nowValueMs += ms;
    return Promise.resolve();
  };
}

test('the rate over time is exact, whatever the size of the messages', async () => {
  for (const messageBytes of [1000, 10_000, 270_000]) {
    const clock = new SleepingClock();
    const throttle = new Throttle(bandwidth({ limit: '1MB/s' }), clock);
    const total = 20_000_000;
    for (let sent = 0; sent < total; sent += messageBytes) await throttle.take(messageBytes);
    expect(clock.nowValueMs).toBeGreaterThan(19_000);
    expect(clock.nowValueMs).toBeLessThan(20_500);
  }
});

test('a pause earns a burst and no more', async () => {
  const clock = new SleepingClock();
  const throttle = new Throttle(bandwidth({ limit: '1MB/s' }), clock);
  clock.nowValueMs = 3_600_000;
  const start = clock.nowValueMs;
  for (let i = 0; i < 20; i++) await throttle.take(100_000);
  expect(clock.nowValueMs - start).toBeGreaterThan(1_500);
});

test('a new rate of the schedule is noticed while waiting', async () => {
  const clock = new SleepingClock();
  const rules = bandwidth({ schedule: [{ from: '00:00', to: '00:01', limit: '1kB/s' }] });
  const throttle = new Throttle(rules, clock, (ms) => ({ day: 1, minute: Math.floor(ms / 60_000) }));
  await throttle.take(10_000_000);
  await throttle.take(1);
  expect(clock.nowValueMs).toBeLessThan(62_000);
});

test('waiting ends when it is cancelled; the next is served', async () => {
  const clock = new SleepingClock();
  const throttle = new Throttle(bandwidth({ limit: '1kB/s' }), clock);
  await throttle.take(5_000);
  const abort = new AbortController();
  const cancelled = throttle.take(1, { signal: abort.signal });
  const next = throttle.take(1);
  abort.abort();
  await expect(cancelled).rejects.toMatchObject({ kind: 'cancelled' });
  await expect(next).resolves.toBeUndefined();
});
