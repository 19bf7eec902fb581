/** Limits of load in a time of their own: who waits for whom, what is forgiven, what is told. */
import { describe, expect, test } from 'vitest';
import { agentConfigSchema } from '../../agent/config.js';
import { heldBetween, lateness } from '../../agent/load/lateness.js';
import type { Pace } from '../../agent/load/pace.js';
import { WorkLimits, type LimitName, type LimitStatus } from '../../agent/load/work-limits.js';
import { ManualClock } from '../helpers/manual-clock.js';

const MB = 1_000_000;

class World {
  readonly clock = new ManualClock();
  readonly end = new AbortController();
  cpuUsedMs = 0;
  urgent = false;
  readonly limits: WorkLimits;

  constructor(config: unknown) {
    const ioPriority = { status: 'normal', idle: () => undefined, normal: () => undefined };
    this.limits = new WorkLimits(agentConfigSchema.parse(config), this.clock, {
      cpuUsedMs: () => this.cpuUsedMs,
      ioPriority: ioPriority as never,
    });
  }

  pace(kind: 'sweep' | 'cycle'): Pace {
    return this.limits.pace({ kind, end: this.end.signal, isUrgent: () => this.urgent });
  }

  /** Reads as fast as the pace allows, for so long; resolves to the bytes read. */
  async readFor(ms: number, pace: Pace, bytes: number, onRead: () => void = () => undefined): Promise<number> {
    let done = 0;
    const stop = new AbortController();
    const reading = (async () => {
      // What never waits would never let the clock pass.
      while (done < 100_000 * bytes) {
        await pace.read(bytes, stop.signal);
        if (stop.signal.aborted) return;
        done += bytes;
        onRead();
      }
    })().catch(() => undefined);
    await this.clock.pass(ms);
    stop.abort();
    await this.clock.pass(0);
    await reading;
    return done;
  }

  status(name: LimitName): LimitStatus | undefined {
    return this.limits.status().limits.find((l) => l.name === name);
  }
}

const never = new AbortController().signal;

/** Resolves to the time that passes until the promise is settled. */
async function timeOf(world: World, promise: Promise<unknown>, limitMs = 120_000): Promise<number> {
  const startMs = world.clock.monotonicMs();
  let over = false;
  void promise.then(
    () => (over = true),
    () => (over = true),
  );
  await world.clock.pass(0);
  while (!over && world.clock.monotonicMs() - startMs < limitMs) await world.clock.pass(100);
  return world.clock.monotonicMs() - startMs;
}

test('bytes, reads and processor each bound the work', async () => {
  for (const kind of ['sweep', 'cycle'] as const) {
    const rate = new World({ io: { rate: { limit: '10MB/s' } } });
    const bytes = await rate.readFor(20_000, rate.pace(kind), MB);
    expect(bytes).toBeGreaterThan(190 * MB);
    expect(bytes).toBeLessThan(210 * MB);

    const requests = new World({ io: { requests: { limit: '50/s' } } });
    const reads = (await requests.readFor(20_000, requests.pace(kind), 4096)) / 4096;
    expect(reads).toBeGreaterThan(950);
    expect(reads).toBeLessThan(1050);

    const cpu = new World({ cpu: { limit: '20%' } });
    // Each read costs 5 ms of a processor: 200 ms of each second are 40 reads.
    const paced = (await cpu.readFor(20_000, cpu.pace(kind), 4096, () => (cpu.cpuUsedMs += 5))) / 4096;
    expect(paced).toBeGreaterThan(750);
    expect(paced).toBeLessThan(850);
    expect(cpu.status('cpu')).toMatchObject({ limit: 0.2 });
    expect(cpu.status('cpu')?.heldSeconds).toBeGreaterThan(10);
    expect(cpu.status('io-rate')).toMatchObject({ limit: null, heldSeconds: 0 });
  }
});

test('the schedule of each limit is followed', async () => {
  const rule = (limit: string): unknown => ({ schedule: [{ from: '00:00', to: '24:00', limit }] });
  const world = new World({ cpu: rule('5%'), io: { rate: rule('1MB/s'), requests: rule('none') } });
  expect(world.status('cpu')?.limit).toBeCloseTo(0.05);
  expect(world.status('io-rate')?.limit).toBe(MB);
  expect(world.status('io-requests')?.limit).toBeNull();
});

test('no limit: nothing waits', async () => {
  const world = new World({});
  for (let i = 0; i < 1000; i++) await world.pace('sweep').read(MB, never);
  expect(world.clock.monotonicMs()).toBe(0);
});

describe('cycles and sweeps', () => {
  test('a cycle does not wait for what a sweep has taken; a sweep waits for what cycles took', async () => {
    const world = new World({ io: { rate: { limit: '1MB/s' } } });
    world.pace('sweep').count(60 * MB);
    expect(await timeOf(world, world.pace('cycle').settled())).toBe(0);
    const other = new World({ io: { rate: { limit: '1MB/s' } } });
    other.pace('cycle').count(5 * MB);
    const waited = await timeOf(other, other.pace('sweep').settled());
    expect(waited).toBeGreaterThanOrEqual(5_000);
    expect(waited).toBeLessThan(6_500);
  });

  test('an urgent sweep goes on at once, within a second when it waits already, and pays later', async () => {
    const world = new World({ io: { rate: { limit: '1MB/s' } } });
    const pace = world.pace('sweep');
    pace.count(30 * MB);
    const reading = pace.read(MB, never);
    await world.clock.pass(2_000);
    world.urgent = true;
    expect(await timeOf(world, reading)).toBeLessThanOrEqual(1_000);
    for (let i = 0; i < 20; i++) await pace.read(MB, never);
    world.urgent = false;
    expect(await timeOf(world, pace.settled())).toBeGreaterThan(40_000);
  });

  test('what cycles exceed delays the next by ten seconds at most; the rest is told', async () => {
    const world = new World({ io: { rate: { limit: '1MB/s' } } });
    world.pace('cycle').count(100 * MB);
    const waited = await timeOf(world, world.pace('cycle').settled());
    expect(waited).toBeGreaterThanOrEqual(10_000);
    expect(waited).toBeLessThan(11_500);
    expect(world.status('io-rate')?.exceededSeconds).toBeCloseTo(90, 0);
  });

  test('processor time of a sweep is not the cycle’s', async () => {
    const world = new World({ cpu: { limit: '10%' } });
    await world.pace('sweep').read(1, never);
    world.cpuUsedMs += 10_000;
    expect(await timeOf(world, world.pace('cycle').settled())).toBe(0);
    world.cpuUsedMs += 100;
    expect(await timeOf(world, world.pace('sweep').settled())).toBeGreaterThan(100_000);
  });
});

test('the end of a session ends the waits with its reason', async () => {
  const world = new World({ io: { rate: { limit: '100kB/s' } } });
  const pace = world.pace('sweep');
  pace.count(100 * MB);
  const reading = pace.read(MB, never);
  const settled = pace.settled();
  const both = Promise.allSettled([reading, settled]);
  await world.clock.pass(500);
  world.end.abort(new Error('connection lost'));
  expect(await timeOf(world, both)).toBeLessThanOrEqual(2_000);
  for (const result of await both) expect(result).toMatchObject({ reason: { message: 'connection lost' } });
});

describe('lateness', () => {
  const held = (ms: Partial<Record<LimitName, number>>): Map<LimitName, number> =>
    new Map(Object.entries(ms) as [LimitName, number][]);
  const before = held({ cpu: 1_000, 'io-rate': 0 });

  test.each([
    ['in time', held({ cpu: 3_000, 'io-rate': 0 }), 4_000, null],
    ['late by itself', before, 9_000, null],
    [
      'late by limits, longest first',
      held({ cpu: 1_200, 'io-rate': 7_500 }),
      9_000,
      'the last point took 9.0 s of an interval of 5.0 s; limits held it up: io.rate 7.5 s, cpu 0.2 s',
    ],
  ])('%s', (_what, after, durationMs, expected) => {
    expect(lateness(before, after, durationMs, 5_000)).toBe(expected);
  });

  test('what nothing held up is empty', () => expect(heldBetween(before, before)).toBe(''));

  test('stands in the status until a cycle keeps its interval', async () => {
    const world = new World({ io: { rate: { limit: '1MB/s' } } });
    const start = world.limits.held();
    world.pace('cycle').count(8 * MB);
    await timeOf(world, world.pace('cycle').settled());
    expect(world.limits.cycleEnded(start, 8_100, 5_000)).toContain('io.rate 8.0 s');
    expect(world.limits.status().late).toContain('io.rate');
    expect(world.limits.cycleEnded(world.limits.held(), 100, 5_000)).toBeNull();
    expect(world.limits.status().late).toBeNull();
  });
});
