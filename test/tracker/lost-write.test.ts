/**
 * The stress: random writers at full speed, takes all the time, and no write may be lost; and the proof that this test
 * would see it, by the same with completion marks switched off.
 */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MIB } from '../../shared/units.js';
import type { EbpfTrackerOptions } from '../../agent/tracker/ebpf/tracker.js';
import { Ground } from './support/ground.js';
import { canTrack, WHY_SKIPPED } from './support/loop.js';
import { Replica } from './support/replica.js';
import { StressWriter } from './support/writer.js';

const SIZE_BYTES = 32 * MIB;
const ROUND_MS = 40;
const TAKES_PER_COMMIT = 10;
const yieldToEvents = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

interface Outcome {
  readonly lost: number;
  readonly summary: string;
}

describe.skipIf(!canTrack)(`no lost write (${WHY_SKIPPED})`, () => {
  let ground: Ground;
  let writer: StressWriter | undefined;
  beforeEach(() => {
    ground = new Ground();
  });
  afterEach(async () => {
    await writer?.end();
    ground.cleanUp();
  });

  async function stress(options: EbpfTrackerOptions, forMs: number, stopAtLoss: boolean): Promise<Outcome> {
    const loop = ground.loop(SIZE_BYTES);
    const tracker = ground.tracker(options);
    const disk = loop.trackable('stress');
    tracker.arm(disk);
    const replica = new Replica(tracker, disk, loop);
    writer = new StressWriter({ device: loop.device, threads: 6, thinkUs: 500, maxBlocks: 64, seed: Date.now() });
    let [lost, rounds] = [0, 0];
    const end = performance.now() + forMs;
    while (performance.now() < end && !(stopAtLoss && lost > 0)) {
      rounds++;
      const state = { writing: true };
      const round = writer.run(ROUND_MS).finally(() => (state.writing = false));
      for (let i = 1; state.writing; i++) {
        replica.follow();
        if (i % TAKES_PER_COMMIT === 0) expect(replica.commit()).toBeUndefined();
        await yieldToEvents();
      }
      await round;
      replica.follow();
      expect(replica.commit()).toBeUndefined();
      lost += replica.differences().length;
    }
    const { takes, copied, recopies } = replica;
    const summary = `${rounds} rounds, ${takes} takes, ${writer.writes} writes, ${copied} blocks copied, ${recopies} recopies, ${lost} lost`;
    return { lost, summary };
  }

  it('btf', { timeout: 60_000 }, async () => {
    const { lost, summary } = await stress({ mode: 'btf' }, 12_000, false);
    expect(lost, summary).toBe(0);
  });

  it('classic tracepoints', { timeout: 60_000 }, async () => {
    const { lost, summary } = await stress({ mode: 'tracepoint' }, 4_000, false);
    expect(lost, summary).toBe(0);
  });

  it('is noticed by this test without marks at completion', { timeout: 120_000 }, async () => {
    const { lost, summary } = await stress({ testOnlyDisable: 'completion' }, 90_000, true);
    expect(lost, summary).toBeGreaterThan(0);
  });
});
