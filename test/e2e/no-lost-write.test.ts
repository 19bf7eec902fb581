/**
 * No lost write: whatever is written, discarded or zeroed while points are made is in the point that follows it, bit for bit. On a raw device
 * with hundreds of short rounds in one process, and the proof that these would see a loss; on ext4 and xfs (and a raw disk beside them)
 * with the real programs, where points made amid the work must also be what a power cut would have left: mountable, clean, in order.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { CycleResult } from '../../agent/cycle/machine-cycle.js';
import type { MarkTracker } from '../../agent/tracker/tracker.js';
import { KIB, MIB, SECTOR_BYTES } from '../../shared/units.js';
import { canRunLab, Lab, sleep, WHY_NO_LAB } from './lab.js';
import { MiniMachine, wrapTracker, type MiniOptions } from './mini-machine.js';
import { burnCpu, NativeWriter, SOAK_SECONDS } from './native-load.js';

/** Some completions pass kernels unseen, which the audit finds; soon after tracking began that ends a series. Nothing else may. */
const KERNEL_DOUBT = /^completions went unseen/;

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

interface Raw {
  readonly rounds: number;
  /** Blocks that a point lacked, over all rounds. */
  readonly lost: number;
  /** Why series ended. */
  readonly doubts: readonly string[];
  readonly summary: string;
}

const ROUND_MS = 40;

/** Rounds of writers at full speed while cycles run; after each, one more point is compared with the whole device. */
async function rawRounds(
  options: MiniOptions,
  isEnough: (rounds: number, lost: number, seconds: number) => boolean,
): Promise<Raw> {
  const machine = await MiniMachine.open(options);
  undo.push(() => machine.cleanUp());
  const writers = machine.disks.map(
    (d, i) => new NativeWriter('stress-writer', [d.device, 6, 500, 64, Date.now() + i]),
  );
  for (const writer of writers) undo.push(() => writer.end());
  const { counts } = machine;
  const startMs = performance.now();
  const seconds = (): number => (performance.now() - startMs) / 1000;
  let [rounds, lost] = [0, 0];
  while (!isEnough(rounds, lost, seconds())) {
    rounds++;
    let isWriting = true;
    const writing = Promise.all(writers.map((w) => w.run(ROUND_MS))).finally(() => (isWriting = false));
    while (isWriting) await machine.cycle();
    await writing;
    for (const disk of machine.disks) disk.writeTail();
    while ((await machine.cycle()) === null) continue;
    lost += machine.differences().length;
  }
  const summary =
    `${rounds} rounds in ${seconds().toFixed(1)} s, ${counts.points} points, ${counts.skipped} skipped (${counts.skipReason}), ` +
    `${lost} blocks lost, doubts: ${JSON.stringify([...new Set(counts.doubts)])} × ${counts.doubts.length}`;
  console.log(summary);
  return { rounds, lost, doubts: counts.doubts, summary };
}

/** Never doubts itself: what the audit would find is ignored. */
const trusting = (tracker: MarkTracker): MarkTracker => wrapTracker(tracker, { audit: () => ({ kind: 'balanced' }) });

describe.skipIf(!canRunLab)(`no lost write: raw devices (${WHY_NO_LAB})`, () => {
  const soak = SOAK_SECONDS / 6;
  const ROUNDS = 70;

  interface Scene {
    readonly name: string;
    readonly options: MiniOptions;
    readonly burners?: number;
  }
  const SCENES: readonly Scene[] = [
    { name: 'btf, two disks', options: { disks: [32 * MIB, 16 * MIB], tracker: { mode: 'btf' } } },
    { name: 'classic tracepoints', options: { disks: [32 * MIB, 16 * MIB], tracker: { mode: 'tracepoint' } } },
    { name: 'busy CPUs', options: { disks: [32 * MIB] }, burners: 2 },
    { name: 'an odd end, large blocks', options: { disks: [16 * MIB + 5 * SECTOR_BYTES], blockBytes: 16 * KIB } },
  ];
  for (const { name, options, burners } of SCENES) {
    it(`nothing is lost: ${name}`, { timeout: 120_000 + soak * 1000 }, async () => {
      if (burners !== undefined) undo.push(burnCpu(burners));
      const { lost, doubts, summary } = await rawRounds(options, (rounds, _, s) => s > soak && rounds >= ROUNDS);
      expect(lost, summary).toBe(0);
      expect(doubts.filter((why) => !KERNEL_DOUBT.test(why))).toEqual([]);
    });
  }

  it('a loss would be seen: no marks at completion, nobody doubts', { timeout: 120_000 }, async () => {
    const { lost, summary } = await rawRounds(
      // The clean sample would notice as well: it is made to look at one block only.
      { disks: [32 * MIB], tracker: { testOnlyDisable: 'completion' }, wrap: trusting, random: () => 0 },
      (_, losses, s) => losses > 0 || s > 90,
    );
    expect(lost, summary).toBeGreaterThan(0);
  });

  it('the clean sample notices a tracker that loses writes', { timeout: 120_000 }, async () => {
    const machine = await MiniMachine.open({
      disks: [4 * MIB],
      tracker: { testOnlyDisable: 'completion' },
      wrap: trusting,
    });
    undo.push(() => machine.cleanUp());
    const writer = new NativeWriter('stress-writer', [machine.disks[0]?.device ?? '', 6, 500, 8, Date.now()]);
    undo.push(() => writer.end());
    const endMs = performance.now() + 90_000;
    while (machine.counts.doubts.length === 0 && performance.now() < endMs) {
      let isWriting = true;
      const writing = writer.run(ROUND_MS).finally(() => (isWriting = false));
      while (isWriting) await machine.cycle();
      await writing;
      for (let i = 0; i < 50 && machine.counts.doubts.length === 0; i++) await machine.cycle();
    }
    expect(machine.counts.doubts[0]).toMatch(/no write to it was seen/);
    // The comparison that followed has found all of it.
    while ((await machine.cycle()) === null) continue;
    expect(machine.differences()).toEqual([]);
  });
});

const EXT4 = 0;
const XFS = 1;
const RAW = 2;
/** The least that mkfs.xfs takes is 300 MiB. */
const SIZES = [128 * MIB, 320 * MIB, 32 * MIB];

/** Tracking may come into doubt for a reason of the kernel's (it shows why): then the next point is the right one. */
const ALLOWED = [/change tracking is in doubt/, /cut-not-reached/];

describe.skipIf(!canRunLab)(`no lost write: filesystems (${WHY_NO_LAB})`, () => {
  const ROUNDS = 5;
  const WORK_MS = 2_500;
  const soak = SOAK_SECONDS / 3;

  async function syncNow(lab: Lab): Promise<CycleResult> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await lab.syncNow();
      } catch (error) {
        if (attempt === 5) throw error;
        await sleep(200);
      }
    }
  }

  /** The agent may just be holding it frozen for a point of its own. */
  async function freeze(mount: string): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        execFileSync('fsfreeze', ['-f', mount], { stdio: ['ignore', 'ignore', 'pipe'] });
        return;
      } catch (error) {
        if (attempt === 20) throw error;
        await sleep(200);
      }
    }
  }

  /** One point of still disks, and what the disks held. */
  async function stillPoint(lab: Lab, mounts: readonly string[]): Promise<{ point: number; held: Buffer[] }> {
    for (const mount of mounts) execFileSync('sync', ['-f', mount]);
    for (const mount of mounts) await freeze(mount);
    try {
      const { point } = await syncNow(lab);
      return { point, held: lab.disks.map((d) => d.content()) };
    } finally {
      for (const mount of mounts) execFileSync('fsfreeze', ['-u', mount]);
    }
  }

  function firstDifference(held: Buffer, restored: Buffer): number | null {
    for (let at = 0; at < held.length; at += 4096)
      if (held.compare(restored, at, at + 4096, at, at + 4096) !== 0) return at / 4096;
    return null;
  }

  async function expectRestored(lab: Lab, point: number, held: readonly Buffer[]): Promise<void> {
    await lab.restore(point);
    for (const [i, expected] of held.entries()) {
      const restored = readFileSync(lab.restoredPath(i));
      expect(restored.length).toBe(expected.length);
      if (!restored.equals(expected))
        expect.fail(`point ${point}, disk ${i}: block ${firstDifference(expected, restored)} differs`);
    }
  }

  /** Mounts what was restored, which replays the journals, and reads the logs. */
  function readLogs(lab: Lab): number[][] {
    return [EXT4, XFS].map((i) => {
      const at = join(lab.folder, `restored-mount${i}`);
      mkdirSync(at, { recursive: true });
      const options = i === XFS ? 'loop,nouuid' : 'loop';
      execFileSync('mount', ['-t', i === XFS ? 'xfs' : 'ext4', '-o', options, lab.restoredPath(i), at]);
      try {
        const bytes = readFileSync(join(at, 'log'));
        return Array.from({ length: Math.floor(bytes.length / 8) }, (_, n) => Number(bytes.readBigUInt64LE(n * 8)));
      } finally {
        execFileSync('umount', [at]);
      }
    });
  }

  /** A point made amid the work is what a power cut would have left. */
  async function expectCrashConsistent(lab: Lab, point: number): Promise<void> {
    await lab.restore(point);
    const [first = [], second = []] = readLogs(lab);
    for (const log of [first, second]) expect(log).toEqual(log.map((_, n) => n + 1));
    expect(first.length, `point ${point}: the log that is written first`).toBeGreaterThanOrEqual(second.length);
    expect(first.length).toBeLessThanOrEqual(second.length + 1);
    execFileSync('e2fsck', ['-fn', lab.restoredPath(EXT4)], { stdio: 'pipe' });
    execFileSync('xfs_repair', ['-n', '-f', lab.restoredPath(XFS)], { stdio: 'pipe' });
  }

  it('nothing is lost, and points amid the work are consistent', { timeout: 240_000 + soak * 1000 }, async () => {
    const lab = await Lab.open({ disks: SIZES, interval: '1s' });
    undo.push(() => lab.cleanUp());
    await lab.setUp();
    const mounts = [lab.mount(EXT4, 'ext4', 'discard'), lab.mount(XFS, 'xfs', 'discard')];
    const files = new NativeWriter('fs-writer', [...mounts, 6, 4000, Date.now()]);
    undo.push(() => files.end());
    const raw = new NativeWriter('stress-writer', [lab.disks[RAW]?.device ?? '', 2, 4000, 32, Date.now()]);
    undo.push(() => raw.end());
    const endMs = performance.now() + soak * 1000;
    let amid = 0;
    let stillAt = 0;
    for (let round = 1; round <= ROUNDS || performance.now() < endMs; round++) {
      const working = Promise.all([files.run(WORK_MS), raw.run(WORK_MS)]);
      await sleep(WORK_MS * 0.6);
      for (const mount of mounts) execFileSync('fstrim', [mount]);
      // Made while the writers work; on even rounds by the interval, on odd ones on demand.
      if (round % 2 === 1) await lab.syncNow().catch(() => undefined);
      await working;
      const during = (await lab.status()).lastPoint?.number ?? 0;
      const { point, held } = await stillPoint(lab, mounts);
      await expectRestored(lab, point, held);
      const isAmid = during > stillAt && during < point;
      stillAt = point;
      if (!isAmid) continue;
      await expectCrashConsistent(lab, during);
      amid++;
    }
    const verdicts = await lab.verifyAll();
    expect(verdicts.filter((v) => !v.restorable)).toEqual([]);
    const status = await lab.status();
    console.log(
      `${verdicts.length} points verified, ${amid} made amid the work were checked, ${status.pointsSkipped} skipped, ` +
        `${status.freezes} frozen; the agent's log: ${JSON.stringify(lab.loudReasons())}`,
    );
    expect(lab.unexpectedLines(ALLOWED)).toEqual([]);
    expect(amid).toBeGreaterThan(0);
  });
});
