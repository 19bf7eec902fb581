/**
 * Years in minutes: a machine of which 2 % change per day, a point every 5 s, kept by the default policy for 15 days, in simulated time. Catalog, layers,
 * store cache and upkeep are the real ones, on a store in memory that counts. What is stored, how large a manifest and how dear a commit is at the end,
 * requests per point, and how fast the end is restored against one fresh base (this part by the real
 * command, from a folder).
 *
 * The disk is small (2 GiB, half of it in use); what counts are proportions. BENCH_DAYS, BENCH_BLOCKS shorten it.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { geometryOf, segmentBlocks } from '../shared/blocks/geometry.js';
import { digestToText, hashBlockAt } from '../shared/blocks/hash.js';
import type { Clock } from '../shared/clock.js';
import { chunkBytesMax, decodeChunkHeader, encodeChunk } from '../shared/layer/chunk.js';
import { CHUNK_PLAIN_BYTES_MAX } from '../shared/limits.js';
import { DELETION_DELAY_MS, UPKEEP_INTERVAL_MS } from '../shared/limits-upkeep.js';
import { silentLogger } from '../shared/log.js';
import { asDiskId, asMachineId } from '../shared/units.js';
import { contentAfterCommit, type DiskLayers } from '../receiver/catalog/commit-content.js';
import { LayerWriter } from '../receiver/catalog/layer-writer.js';
import { writeLayerList } from '../receiver/catalog/manifest-io.js';
import type { DiskEntry, LayerRef } from '../receiver/catalog/manifest.js';
import { layerListName, manifestName } from '../receiver/catalog/names.js';
import { OwnedMachine } from '../receiver/catalog/owned-machine.js';
import { DEFAULT_RETENTION } from '../receiver/catalog/policy.js';
import { MachineReader } from '../receiver/catalog/reader.js';
import { CachedStore } from '../receiver/store/cached-store.js';
import { openStore } from '../receiver/store/open.js';
import type { ObjectStore } from '../receiver/store/store.js';
import { MachineUpkeep } from '../receiver/upkeep/machine-upkeep.js';
import { Pace } from '../receiver/upkeep/pace.js';
import type { Bench, BenchContext } from './bench.js';
import { CountingStore } from './counting-store.js';
import { figureOf, median } from './figures.js';
import { Lab, programPath } from './lab.js';
import { measure } from './shell.js';

export const longRun: Bench = {
  name: 'long-run',
  promise: '15 days of points every 5 s: storage, manifest, requests and restore stay within bounds',
  run,
};

const INTERVAL_MS = 5_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const BLOCK_BYTES = 4096;
/** Of each block; the rest is zeroes: blocks take about this in the store. */
const NOISE_BYTES = 1024;
const CACHE_BYTES = 256 * 2 ** 20;
const MACHINE = asMachineId('11111111-2222-4333-8444-555555555555');
const DISK = asDiskId('disk0');

class SimulatedClock implements Clock {
  ms = 1_700_000_000_000;
  nowMs = (): number => this.ms;
  monotonicMs = (): number => this.ms;
  sleep = (): Promise<void> => Promise.resolve();
}

export interface LongRunOptions {
  readonly days: number;
  /** Blocks of the disk that hold data. */
  readonly blocks: number;
  readonly changePerDay: number;
  readonly upkeepIntervalMs: number;
  /** For the store cache. */
  readonly cacheDir: string;
  readonly say: (text: string) => void;
}

export interface LongRunResult {
  readonly points: number;
  readonly listed: number;
  readonly objects: number;
  readonly storedBytes: number;
  /** One compressed image, and the distinct changes between kept points. */
  readonly boundBytes: number;
  readonly manifestBytes: { readonly firstHour: number; readonly end: number };
  readonly commitMs: { readonly firstHour: number; readonly end: number };
  readonly requestsPerPoint: number;
  readonly requestKinds: Readonly<Record<string, number>>;
  /** What there is at the end, and the same disk as one fresh machine has it. */
  readonly aged: CountingStore;
  readonly fresh: CountingStore;
}

/** A block that says what it is, and compresses to a quarter. */
function fill(block: Buffer, value: number): void {
  let state = value >>> 0;
  block.fill(0);
  for (let i = 0; i < NOISE_BYTES; i += 4)
    block.writeUInt32LE((state = (Math.imul(state, 1664525) + 1013904223) >>> 0), i);
}

class LongRun {
  readonly clock = new SimulatedClock();
  readonly counting: CountingStore;
  /** As the receiver has it: small objects that were just written are read without a request. */
  readonly store: ObjectStore;
  readonly #geometry;
  readonly #values: Uint32Array;
  #digest = 0n;
  #random = 12345;
  owned!: OwnedMachine;
  upkeep!: MachineUpkeep;

  private constructor(
    readonly options: LongRunOptions,
    counting: CountingStore,
    store: ObjectStore,
  ) {
    this.counting = counting;
    this.store = store;
    // Data stands on every second run of blocks, so that segments are half full.
    this.#geometry = geometryOf(options.blocks * 2 * BLOCK_BYTES, BLOCK_BYTES);
    this.#values = new Uint32Array(this.#geometry.blockCount);
  }

  static async open(options: LongRunOptions, name: string): Promise<LongRun> {
    const counting = new CountingStore();
    const store = await CachedStore.open(counting, join(options.cacheDir, name), CACHE_BYTES);
    const run = new LongRun(options, counting, store);
    await run.start();
    return run;
  }

  async start(): Promise<void> {
    const deps = { store: this.store, clock: this.clock, randomId: () => String(this.#next()) };
    this.owned = await OwnedMachine.takeOver(deps, MACHINE, () =>
      Promise.resolve({
        generation: 1,
        machine: { id: MACHINE, name: 'bench', description: null },
        lastPoint: 0,
        disks: [this.#entry()],
        pages: [],
        tail: { points: [], deltas: [] },
      }),
    );
    this.upkeep = new MachineUpkeep({
      store: this.store,
      clock: this.clock,
      log: silentLogger(),
      pace: new Pace(this.clock, Infinity),
      deletionDelayMs: DELETION_DELAY_MS,
      policyOf: () => Promise.resolve(DEFAULT_RETENTION),
    });
    const bases: LayerRef[] = [];
    for (let segment = 0; segment < this.#geometry.segmentCount; segment++) {
      const { first, count } = segmentBlocks(this.#geometry, segment);
      const blocks: number[] = [];
      for (let b = first; b < first + count; b++) if ((b >> 6) % 2 === 0) blocks.push(b);
      for (const b of blocks) this.#set(b);
      bases.push(await this.#layer({ kind: 'base', segment, firstPoint: 0, lastPoint: 0 }, blocks));
    }
    const name = layerListName(MACHINE, DISK, this.owned.epoch, this.owned.nextSequence());
    await this.#commit([], await writeLayerList(this.store, name, bases));
    this.owned.landed(bases);
  }

  /** One point with so many changed blocks; resolves to how long its commit took, in real time. */
  async point(changed: number): Promise<number> {
    this.clock.ms += INTERVAL_MS;
    const blocks = new Set<number>();
    while (blocks.size < changed) {
      const b = this.#next() % this.#geometry.blockCount;
      if ((b >> 6) % 2 === 0) blocks.add(b);
    }
    const sorted = [...blocks].sort((a, b) => a - b);
    for (const b of sorted) this.#set(b);
    const number = this.owned.manifest.lastPoint + 1;
    const deltas =
      sorted.length === 0
        ? []
        : [await this.#layer({ kind: 'delta', segment: null, firstPoint: number, lastPoint: number }, sorted)];
    const before = performance.now();
    await this.#commit(deltas, null);
    return performance.now() - before;
  }

  get manifestBytes(): number {
    return this.counting.sizeOf(manifestName(MACHINE, this.owned.manifest.number));
  }

  /** The same disk as one fresh machine: a base for each segment. */
  async fresh(): Promise<LongRun> {
    const other = await LongRun.open(this.options, 'fresh');
    await other.point(1);
    return other;
  }

  #entry(): DiskEntry {
    const { sizeBytes, blockBytes } = this.#geometry;
    const none = { series: null, bases: null, staged: null, lastPoint: 0 };
    return { id: DISK, device: 'memory', sizeBytes, blockBytes, ...none };
  }

  #next(): number {
    this.#random = (Math.imul(this.#random, 1103515245) + 12345) >>> 0;
    return this.#random >>> 4;
  }

  readonly #scratch = Buffer.alloc(BLOCK_BYTES);

  #set(block: number): void {
    const hashOf = (value: number): bigint => {
      if (value === 0) return 0n;
      fill(this.#scratch, value);
      return hashBlockAt(this.#scratch, 0, BLOCK_BYTES, block);
    };
    const value = this.#next() + 1;
    this.#digest ^= hashOf(this.#values[block] ?? 0) ^ hashOf(value);
    this.#values[block] = value;
  }

  async #layer(
    what: Pick<LayerRef, 'kind' | 'segment' | 'firstPoint' | 'lastPoint'>,
    blocks: readonly number[],
  ): Promise<LayerRef> {
    const writer = await LayerWriter.open(this.store, {
      ...what,
      blockBytes: BLOCK_BYTES,
      epoch: this.owned.epoch,
      sequence: this.owned.nextSequence(),
      machineId: MACHINE,
      diskId: DISK,
      seriesId: '',
    });
    const most = CHUNK_PLAIN_BYTES_MAX / BLOCK_BYTES;
    for (let i = 0; i < blocks.length; i += most) {
      const chunk = this.#chunk(blocks.slice(i, i + most));
      await writer.append(chunk, decodeChunkHeader(chunk, false));
    }
    return writer.finish();
  }

  #chunk(blocks: readonly number[]): Buffer {
    const extents: { first: number; count: number; zero: boolean }[] = [];
    const plain = Buffer.alloc(blocks.length * BLOCK_BYTES);
    const hashes = new BigUint64Array(blocks.length);
    blocks.forEach((block, i) => {
      const last = extents.at(-1);
      if (last !== undefined && last.first + last.count === block) last.count++;
      else extents.push({ first: block, count: 1, zero: false });
      fill(plain.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES), this.#values[block] ?? 0);
      hashes[i] = hashBlockAt(plain, i * BLOCK_BYTES, BLOCK_BYTES, block);
    });
    const target = Buffer.allocUnsafe(chunkBytesMax(extents.length, hashes.length, plain.length));
    const length = encodeChunk(target, BLOCK_BYTES, extents, hashes, plain);
    return target.subarray(0, length);
  }

  async #commit(deltas: readonly LayerRef[], bases: DiskEntry['bases']): Promise<void> {
    const layers = new Map<string, DiskLayers>([[DISK, { entry: this.#entry(), bases, deltas, storedBytes: 0 }]]);
    const sizes = new Map([[DISK, this.#geometry.sizeBytes]]);
    const said = {
      type: 'commit' as const,
      cycle: String(this.#next()),
      cutAtMs: this.clock.nowMs(),
      consistency: 'crash' as const,
      reason: 'interval',
      disks: [{ disk: DISK, series: null, digest: digestToText(this.#digest) }],
      lastSequence: 0,
      stats: { passes: 1, cutMs: 1, freezeMs: 0, changedBytes: 0 },
    };
    await this.owned.commit((current) => contentAfterCommit(current, said, layers, sizes, this.clock.nowMs()).content);
  }
}

export async function simulate(options: LongRunOptions): Promise<LongRunResult> {
  const run = await LongRun.open(options, 'aged');
  const imageBytes = run.counting.bytes('/base/');
  const perPoint = (options.blocks * options.changePerDay * INTERVAL_MS) / DAY_MS;
  const total = Math.round((options.days * DAY_MS) / INTERVAL_MS);
  const signal = new AbortController().signal;
  let owed = 0;
  let lastUpkeepMs = run.clock.ms;
  let firstManifestBytes = 0;
  let steady = { at: 0, requests: 0 };
  const recent: number[] = [];
  let firstCommitMs = 0;
  for (let i = 1; i <= total; i++) {
    owed += perPoint;
    const changed = Math.floor(owed);
    owed -= changed;
    recent.push(await run.point(changed));
    if (recent.length > 720) recent.shift();
    if (run.clock.ms - lastUpkeepMs >= options.upkeepIntervalMs) {
      lastUpkeepMs = run.clock.ms;
      for (const { task, problem } of await run.upkeep.run(run.owned, signal))
        if (problem !== null) throw new Error(`${task}: ${problem}`);
    }
    if (i === HOUR_MS / INTERVAL_MS) {
      firstManifestBytes = run.manifestBytes;
      firstCommitMs = median(recent);
    }
    // Steady state: points have begun to be dropped, and garbage to be deleted.
    if (i === Math.round(total / 2)) steady = { at: i, requests: run.counting.requests };
    if (i % 17_280 === 0) {
      const stored = (run.counting.bytes() / imageBytes).toFixed(2);
      options.say(`day ${i / 17_280}: ${run.counting.objects()} objects, ${stored} images`);
    }
  }
  const requestsPerPoint = (run.counting.requests - steady.requests) / (total - steady.at);
  const requestKinds = { ...run.counting.kinds };
  const listed: number[] = [];
  for await (const point of new MachineReader(run.store, run.owned.manifest).points()) listed.push(point.number);
  const distinct = listed.slice(1).map((number, i) => (number - (listed[i] ?? 0)) * perPoint);
  const perBlock = imageBytes / options.blocks;
  // Random blocks of the whole disk: of n writes so many are distinct.
  const changedBlocks = distinct.reduce((sum, n) => sum + options.blocks * (1 - Math.exp(-n / options.blocks)), 0);
  const fresh = await run.fresh();
  return {
    points: total,
    listed: listed.length,
    objects: run.counting.objects(),
    storedBytes: run.counting.bytes(),
    boundBytes: imageBytes + changedBlocks * perBlock,
    manifestBytes: { firstHour: firstManifestBytes, end: run.manifestBytes },
    commitMs: { firstHour: firstCommitMs, end: median(recent) },
    requestsPerPoint,
    requestKinds,
    aged: run.counting,
    fresh: fresh.counting,
  };
}

/** Restores of the newest point by the command, from a folder to a sparse file, in turns: speed of the aged machine against the fresh one, each round. */
async function restoreRatios(context: BenchContext, { aged, fresh }: LongRunResult): Promise<number[]> {
  const lab = new Lab(context.diskDir);
  try {
    const folders = { aged: lab.path('aged'), fresh: lab.path('fresh') };
    await aged.copyTo(await openStore(`file:${folders.aged}`, { create: true }));
    await fresh.copyTo(await openStore(`file:${folders.fresh}`, { create: true }));
    const target = lab.path('target.raw');
    const secondsOf = async (folder: string): Promise<number> => {
      const cli = `${programPath('receiver/cli/main.js')} --store file:${folder}`;
      const timed = `${cli} restore bench --point latest --to ${target} --sparse --json > /dev/null; sync ${target}`;
      const { seconds } = await measure({ setup: 'sync', timed });
      rmSync(target, { force: true });
      return seconds;
    };
    const ratios: number[] = [];
    for (let round = 0; round < context.runs; round++) {
      const agedSeconds = await secondsOf(folders.aged);
      ratios.push((await secondsOf(folders.fresh)) / agedSeconds);
    }
    return ratios;
  } finally {
    await lab.close();
  }
}

async function run(context: BenchContext): Promise<void> {
  const cacheDir = join(context.ramDir, `afterimage-long-run-${process.pid}`);
  const result = await simulate({
    days: Number(process.env['BENCH_DAYS'] ?? 15),
    blocks: Number(process.env['BENCH_BLOCKS'] ?? 2 ** 18),
    changePerDay: 0.02,
    upkeepIntervalMs: UPKEEP_INTERVAL_MS,
    cacheDir,
    say: context.say,
  });
  context.say(JSON.stringify(result.requestKinds));
  const { manifestBytes, commitMs } = result;
  const report = (name: string, unit: string, value: number, goal: string | null, met: boolean | null): void =>
    context.report(figureOf(`long-run: ${name}`, unit, [value], { goal, met }));
  const most = (name: string, unit: string, value: number, max: number): void =>
    report(name, unit, value, `≤ ${max}`, value <= max);
  most('stored against image and distinct changes', '×', result.storedBytes / result.boundBytes, 1.3);
  report('objects', '', result.objects, null, null);
  report('points listed', '', result.listed, null, null);
  most('manifest at the end against the first hour', '×', manifestBytes.end / manifestBytes.firstHour, 2);
  most('commit at the end against the first hour', '×', commitMs.end / commitMs.firstHour, 2);
  most('requests per point', '', result.requestsPerPoint, 3);
  const ratios = await restoreRatios(context, result);
  const met = median(ratios) >= 0.7;
  context.report(figureOf('long-run: restore speed against one fresh base', '×', ratios, { goal: '≥ 0.7', met }));
  rmSync(cacheDir, { recursive: true, force: true });
}
