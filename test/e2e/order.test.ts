/**
 * Order: writers that write X, wait until it is complete, then write Y, never appear in a recovery point as Y without X, also when X and Y lie on
 * different disks. Thousands of points under writers that do nothing else; and the proof that this test sees a broken order, by
 * the same with a reader that doesn't look whether its blocks were written again while it read them.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { CUT_WINDOW_BYTES_MAX } from '../../shared/limits.js';
import { MIB, type DiskId } from '../../shared/units.js';
import type { DiskTake, MarkTracker } from '../../agent/tracker/tracker.js';
import { StressWriter } from '../tracker/support/writer.js';
import { FileOnDisk } from './file-on-disk.js';
import { canRunLab, WHY_NO_LAB } from './lab.js';
import { MiniMachine, wrapTracker, type MiniCounts, type MiniOptions } from './mini-machine.js';
import { burnCpu, NativeWriter, SOAK_SECONDS } from './native-load.js';
import { orderArguments, orderDiskBytes, orderViolations, stepsReached, type OrderLoad } from './order-check.js';

interface Scene {
  readonly name: string;
  /** Half of all writes go to as many hot blocks as there are threads. */
  readonly load: OrderLoad;
  readonly options?: Omit<MiniOptions, 'disks'>;
  readonly burners?: number;
  /** A third disk with bursts of random writes, more than fits into the window of a cut. */
  readonly noise?: boolean;
  /** Writers write to files on filesystems, which are frozen when a cut isn't reached. */
  readonly files?: boolean;
  readonly pointsMin: number;
}

const DENSE: OrderLoad = { threads: 4, thinkUs: 1500, slots: 100, stride: 2 };
const SCENES: readonly Scene[] = [
  { name: 'few reads', load: DENSE, pointsMin: 700 },
  { name: 'classic tracepoints', load: DENSE, options: { tracker: { mode: 'tracepoint' } }, pointsMin: 200 },
  { name: 'busy CPUs', load: { threads: 8, thinkUs: 4000, slots: 50, stride: 2 }, burners: 2, pointsMin: 300 },
  { name: 'very hot blocks', load: { threads: 2, thinkUs: 300, slots: 200, stride: 2 }, pointsMin: 500 },
  { name: 'reads in flight', load: { threads: 6, thinkUs: 2000, slots: 60, stride: 64 }, pointsMin: 300 },
  { name: 'streaming', load: DENSE, noise: true, pointsMin: 30 },
  { name: 'frozen', load: DENSE, files: true, options: { freeze: true, cutDeadlineMs: 0 }, pointsMin: 30 },
];
/** Some completions pass kernels unseen, which the audit finds; soon after tracking began that ends a series. Nothing else may. */
const KERNEL_DOUBT = /^completions went unseen/;
const SECONDS = 9;
/** On a starved machine it may take longer to make enough points. */
const SECONDS_MAX = 40;
const NOISE_BYTES = 64 * MIB;

interface Outcome extends MiniCounts {
  readonly violations: readonly string[];
  /** Blocks that differ from the disks when all has been written and one more point was made. */
  readonly left: readonly number[];
  readonly summary: string;
}

/** A tracker that never tells of new submissions to one of its disks. */
function overlooking(diskId: string): (tracker: MarkTracker) => MarkTracker {
  return (tracker) =>
    wrapTracker(tracker, {
      take: () => {
        const take = tracker.take();
        const blind = ([id, disk]: [DiskId, DiskTake]): [DiskId, DiskTake] => [
          id,
          id === diskId ? { ...disk, submitted: { mayHold: () => false } } : disk,
        ];
        return { ...take, disks: new Map([...take.disks].map(blind)) };
      },
    });
}

describe.skipIf(!canRunLab)(`order across disks (${WHY_NO_LAB})`, () => {
  const undo: (() => unknown)[] = [];
  afterEach(async () => {
    for (const step of undo.splice(0).reverse()) await step();
  });

  /** Bursts of writes at full speed until told to stop. */
  function startNoise(device: string): () => Promise<void> {
    const writer = new StressWriter({ device, threads: 4, thinkUs: 0, maxBlocks: 64, seed: Date.now() });
    let isStopping = false;
    const bursts = (async () => {
      while (!isStopping) {
        await writer.run(60);
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
    })();
    return async () => {
      isStopping = true;
      await bursts;
      await writer.end();
    };
  }

  /** Makes points while the load runs, and looks at each. */
  async function run(scene: Scene, isEnough: (points: number, violations: number, seconds: number) => boolean) {
    const { load } = scene;
    const contentBytes = orderDiskBytes(load);
    const diskBytes = scene.files === true ? contentBytes + 32 * MIB : contentBytes;
    const sizes = [diskBytes, diskBytes, ...(scene.noise === true ? [NOISE_BYTES] : [])];
    const machine = await MiniMachine.open({ disks: sizes, ...scene.options });
    undo.push(() => machine.cleanUp());
    const devices = machine.disks.map((d) => d.device);
    const files = scene.files === true ? makeFiles(machine, contentBytes) : null;
    const images = (): Buffer[] => machine.receiver.images.map((image, i) => files?.[i]?.within(image) ?? image);
    const [a = '', b = '', noisy = ''] = devices;
    const writer = new NativeWriter('order-writer', [
      files?.[0]?.path ?? a,
      files?.[1]?.path ?? b,
      ...orderArguments(load),
    ]);
    const endNoise = scene.noise === true ? startNoise(noisy) : async () => undefined;
    let ended: Promise<string> | undefined;
    const endAll = (): Promise<string> => (ended ??= endNoise().then(() => writer.end()));
    undo.push(endAll);
    if (scene.burners !== undefined) undo.push(burnCpu(scene.burners));
    const { counts } = machine;
    const violations: string[] = [];
    const startMs = performance.now();
    const seconds = (): number => (performance.now() - startMs) / 1000;
    while (!isEnough(counts.points, violations.length, seconds())) {
      const result = await machine.cycle();
      if (result === null) continue;
      for (const broken of orderViolations(images(), load)) violations.push(`point ${result.point}: ${broken}`);
    }
    const took = seconds();
    const written = await endAll();
    for (const file of files ?? []) file.remove();
    while ((await machine.cycle()) === null) continue;
    const left = machine.differences();
    const { points, skipped, skipReason, frozen, passes, cutMsMax, doubts } = counts;
    const summary =
      `${scene.name}: ${points} points in ${took.toFixed(1)} s, ${skipped} skipped (${skipReason}), ${frozen} frozen, ` +
      `${(passes / Math.max(1, points)).toFixed(1)} passes, longest cut ${cutMsMax.toFixed(0)} ms, writer ${written}, ` +
      `${stepsReached(images(), load)} steps, ${violations.length} violations, doubts: ${JSON.stringify(doubts)}`;
    console.log(summary);
    return { ...counts, violations, left, summary } satisfies Outcome;
  }

  function makeFiles(machine: MiniMachine, sizeBytes: number): FileOnDisk[] {
    const folder = mkdtempSync('/dev/shm/afterimage-order-');
    undo.push(() => rmSync(folder, { recursive: true, force: true }));
    return machine.disks.map((disk, i) => {
      const file = new FileOnDisk(disk, `${folder}/mount${i}`, sizeBytes);
      undo.push(() => file.remove());
      return file;
    });
  }

  const soak = SOAK_SECONDS / SCENES.length;
  for (const scene of SCENES) {
    const timeout = (Math.max(SECONDS_MAX, soak) + 60) * 1000;
    it(`is kept: ${scene.name}`, { timeout }, async () => {
      const outcome = await run(
        scene,
        (points, _, s) => s > Math.max(SECONDS, soak) && (points >= scene.pointsMin || s > SECONDS_MAX),
      );
      const { violations, left, points, frozen, doubts, summary } = outcome;
      expect(violations.slice(0, 10), summary).toEqual([]);
      expect(left, `blocks that differ in the end; ${summary}`).toEqual([]);
      expect(points, summary).toBeGreaterThan(20);
      expect(doubts.filter((why) => !KERNEL_DOUBT.test(why))).toEqual([]);
      if (scene.noise === true) expect(outcome.changedBytesMax, summary).toBeGreaterThan(CUT_WINDOW_BYTES_MAX);
      if (scene.files === true) expect(frozen, summary).toBeGreaterThan(0);
    });
  }

  it('is lost, and noticed, when new writes to one of the disks are overlooked', { timeout: 60_000 }, async () => {
    const scene: Scene = { name: 'one-eyed', load: DENSE, options: { wrap: overlooking('disk1') }, pointsMin: 0 };
    const { violations, summary } = await run(scene, (_, broken, s) => broken > 0 || s > 40);
    expect(violations.length, summary).toBeGreaterThan(0);
  });

  it('is lost, and noticed, when blocks are read without looking for new writes', { timeout: 60_000 }, async () => {
    const scene: Scene = { name: 'naive', load: { ...DENSE, thinkUs: 300 }, options: { naive: true }, pointsMin: 0 };
    const { violations, summary } = await run(scene, (_, broken, s) => broken > 0 || s > 40);
    expect(violations.length, summary).toBeGreaterThan(0);
  });
});
