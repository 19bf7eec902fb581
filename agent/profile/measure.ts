/**
 * Measures how disks change over time: a sample now and then until the time is over or somebody has seen enough. Reads only.
 */
import { BlockSet, type Extent } from '../../shared/blocks/block-set.js';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { lz4 } from '../../shared/layer/codec.js';
import { PROFILE_SAMPLED_BLOCKS, PROFILE_SAMPLES_MAX, PROFILE_WINDOWS_MS } from '../../shared/limits-profile.js';
import { SECTOR_BYTES } from '../../shared/units.js';
import type { ReadPool } from '../cycle/read-pool.js';
import { DiskReader } from '../cycle/reader.js';
import type { InspectedDevice } from '../disks/inspect.js';
import type { Sysfs } from '../disks/sysfs.js';
import { isPresent } from '../disks/watch.js';
import type { MarkTracker } from '../tracker/tracker.js';
import { changesOf, type DiskChanges } from './changes.js';
import { HotCounter } from './hot.js';
import { spreadOf, type DiskReport, type Profile } from './report.js';
import { DistinctWindows, samplesOf, type Changed } from './windows.js';

export interface MeasureOptions {
  readonly devices: readonly InspectedDevice[];
  readonly forMs: number;
  readonly everyMs: number;
  readonly sysfs: Sysfs;
  readonly pool: ReadPool;
  /** One of its own; null where this kernel can't track, with the reason. */
  readonly tracker: MarkTracker | null;
  readonly trackerReason: string;
  readonly clock: Clock;
  readonly random: () => number;
  /** Told of each sample: time since the start, bytes written and changed in it. */
  readonly onSample?: (sample: Profile['samples'][number]) => void;
}

export async function measure(options: MeasureOptions, signal: AbortSignal): Promise<Profile> {
  const { clock, forMs, everyMs, tracker } = options;
  const disks = options.devices.map((device) => new MeasuredDisk(device, options));
  try {
    tracker?.take();
    for (const disk of disks) await disk.begin();
    const startedAt = new Date(clock.nowMs()).toISOString();
    const startMs = clock.monotonicMs();
    const blockBytes = disks.map((d) => d.blockBytes);
    const windows = PROFILE_WINDOWS_MS.map((lengthMs) => {
      const samples = samplesOf(lengthMs, everyMs);
      return { lengthMs, distinct: samples === null ? null : new DistinctWindows(samples, blockBytes) };
    });
    const samples: Profile['samples'][number][] = [];
    let beforeMs = startMs;
    while (beforeMs - startMs < forMs && samples.length < PROFILE_SAMPLES_MAX) {
      const nextMs = startMs + (samples.length + 1) * everyMs;
      await clock.sleep(Math.max(0, nextMs - clock.monotonicMs()), signal);
      if (signal.aborted) break;
      const nowMs = clock.monotonicMs();
      const take = tracker?.take();
      const changed: Changed[] = [];
      for (const disk of disks) changed.push(await disk.sample(take?.disks.get(disk.id)?.marked, nowMs - beforeMs));
      for (const { distinct } of windows) distinct?.add(changed);
      const sample = {
        atMs: Math.round(nowMs - startMs),
        writtenBytes: disks.reduce((sum, d) => sum + d.lastWrittenBytes, 0),
        changedBytes: changed.reduce((sum, c, i) => sum + c.blocks.size * (blockBytes[i] ?? 0) + c.uncountedBytes, 0),
      };
      samples.push(sample);
      options.onSample?.(sample);
      beforeMs = nowMs;
    }
    if (samples.length === 0)
      throw new AfterimageError('it was ended before the first sample', {
        code: 'nothing-measured',
        kind: 'cancelled',
        hint: `A sample is taken every ${everyMs / 1000} s: wait for some of them.`,
      });
    const reports = disks.map((d) => d.report());
    return {
      startedAt,
      measuredMs: Math.round(beforeMs - startMs),
      everyMs,
      isInterrupted: signal.aborted,
      disks: reports,
      windows: windows.flatMap(({ lengthMs, distinct }) => {
        const bytes = distinct?.wholeBytes ?? [];
        return bytes.length === 0 ? [] : [{ lengthMs, windows: bytes.length, bytes: spreadOf(bytes) }];
      }),
      notMeasuredMs: windows.flatMap(({ lengthMs, distinct }) =>
        (distinct?.wholeBytes.length ?? 0) === 0 ? [lengthMs] : [],
      ),
      compressedShare: shareOf(disks),
      samples,
    };
  } finally {
    for (const disk of disks) disk.close();
  }
}

const shareOf = (disks: readonly MeasuredDisk[]): number | null => {
  const plain = disks.reduce((sum, d) => sum + d.sampledBytes, 0);
  return plain === 0 ? null : disks.reduce((sum, d) => sum + d.compressedBytes, 0) / plain;
};

class MeasuredDisk {
  readonly #device: InspectedDevice;
  readonly #sysfs: Sysfs;
  readonly #random: () => number;
  readonly #reader: DiskReader;
  readonly #changes: DiskChanges;
  readonly #hot: HotCounter;
  readonly #rates: number[] = [];
  readonly #doubts = new Set<string>();
  #writtenSectors: number | null = null;
  #writtenBytes = 0;
  lastWrittenBytes = 0;
  sampledBytes = 0;
  compressedBytes = 0;

  constructor(device: InspectedDevice, options: MeasureOptions) {
    const { sysfs, pool, tracker, trackerReason, random } = options;
    this.#device = device;
    this.#sysfs = sysfs;
    this.#random = random;
    const { geometry, state, source } = device;
    this.#reader = new DiskReader({ path: source.path, geometry, pool, isPresent: () => isPresent(sysfs, state) });
    this.#hot = new HotCounter(geometry.sizeBytes, geometry.blockBytes);
    this.#changes = changesOf(device, this.#reader, tracker, trackerReason);
  }

  get id(): InspectedDevice['id'] {
    return this.#device.id;
  }

  get blockBytes(): number {
    return this.#device.geometry.blockBytes;
  }

  async begin(): Promise<void> {
    this.#writtenSectors = this.#countedSectors();
    await this.#changes.changed(undefined);
  }

  async sample(marked: BlockSet | undefined, spanMs: number): Promise<Changed> {
    const blocks = await this.#changes.changed(marked);
    const sectors = this.#countedSectors();
    // A device that was replaced counts anew; an image file isn't counted by the kernel at all.
    const counted =
      sectors === null || this.#writtenSectors === null
        ? null
        : Math.max(0, sectors - this.#writtenSectors) * SECTOR_BYTES;
    this.#writtenSectors = sectors;
    this.lastWrittenBytes = counted ?? blocks.size * this.blockBytes;
    this.#writtenBytes += this.lastWrittenBytes;
    this.#rates.push((this.lastWrittenBytes * 1000) / Math.max(1, spanMs));
    this.#hot.add(blocks);
    await this.#compress(blocks);
    const uncountedBytes = this.#changes.method === 'writes-only' ? this.lastWrittenBytes : 0;
    return { blocks, uncountedBytes };
  }

  #countedSectors(): number | null {
    const { source } = this.#device;
    return source.kind === 'file' ? null : (this.#sysfs.counters(source.name)?.writeSectors ?? null);
  }

  /** A run of changed blocks, as a chunk would hold them. */
  async #compress(blocks: BlockSet): Promise<void> {
    const extents = someOf(blocks, PROFILE_SAMPLED_BLOCKS, this.#random);
    const parts: Buffer[] = [];
    try {
      await this.#reader.readRuns(extents, (buffer) => void parts.push(Buffer.from(buffer)));
    } catch (error) {
      if (!(error instanceof AfterimageError)) throw error;
      this.#doubts.add(messageOf(error));
    }
    const plain = Buffer.concat(parts);
    if (plain.length === 0) return;
    this.sampledBytes += plain.length;
    const compressed = lz4.compress(plain, Buffer.allocUnsafe(plain.length));
    // What doesn't become smaller is stored as it is.
    this.compressedBytes += compressed === 0 ? plain.length : compressed;
  }

  report(): DiskReport {
    const { source, id, geometry } = this.#device;
    return {
      device: source.path,
      id,
      sizeBytes: geometry.sizeBytes,
      method: this.#changes.method,
      methodReason: this.#changes.methodReason,
      writeRate: spreadOf(this.#rates),
      writtenBytes: this.#writtenBytes,
      hot: this.#hot.places(),
      compressedShare: this.sampledBytes === 0 ? null : this.compressedBytes / this.sampledBytes,
      doubts: [...this.#doubts, ...this.#changes.doubts],
    };
  }

  close(): void {
    this.#reader.close();
  }
}

/** Up to so many blocks of a set, neighbours from a random place on. */
function someOf(blocks: BlockSet, count: number, random: () => number): Extent[] {
  const skip = Math.floor(random() * Math.max(0, blocks.size - count));
  const extents: { first: number; count: number }[] = [];
  let [passed, left] = [0, count];
  for (const { first, count: length } of blocks.extents()) {
    if (left === 0) break;
    const from = Math.max(0, skip - passed);
    passed += length;
    if (from >= length) continue;
    const taken = Math.min(left, length - from);
    extents.push({ first: first + from, count: taken });
    left -= taken;
  }
  return extents;
}
