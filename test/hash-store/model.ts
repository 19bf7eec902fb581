/** What a hash store should be, in plain memory, and random calls that are made to both. */
import { geometryOf, segmentBlocks } from '../../shared/blocks/geometry.js';
import { systemClock } from '../../shared/clock.js';
import { KIB, MIB, asDiskId, asPoint, asSeriesId, type PointNumber, type SeriesId } from '../../shared/units.js';
import { HashStore, type OpenedHashStore, type SweepKind } from '../../agent/cycle/hash-store/store.js';
import type { StateFolder } from '../../agent/cycle/hash-store/files.js';
import type { Random } from './random.js';

/** Three segments, the last one short; 512 hashes are one page, so a segment has two. */
export const geometry = geometryOf(160 * MIB + 32 * KIB, 64 * KIB);
export const disk = asDiskId('vda');

export const openStore = (dir: StateFolder | string, bootId: string, syncJournal = true): Promise<OpenedHashStore> =>
  HashStore.open({ dir, disk, geometry, bootId, clock: systemClock, syncJournal });

export interface Model {
  readonly point: PointNumber;
  readonly series: SeriesId | null;
  readonly pointDigest: bigint | null;
  readonly sweep: HashStore['sweep'];
  readonly prepared: { readonly cycle: string; readonly changes: ReadonlyMap<number, bigint> } | null;
  readonly hashes: BigUint64Array;
  readonly unknown: ReadonlySet<number>;
}

const allSegments = Array.from({ length: geometry.segmentCount }, (_, i) => i);

export const emptyModel: Model = {
  point: asPoint(0),
  series: null,
  pointDigest: null,
  sweep: null,
  prepared: null,
  hashes: new BigUint64Array(geometry.blockCount),
  unknown: new Set(allSegments),
};

/** By brute force. */
export const digestOf = (model: Model): bigint | null =>
  model.unknown.size > 0 ? null : model.hashes.reduce((sum, hash) => sum ^ hash, 0n);

/** What can be seen of a store or model without reading hashes. */
export const seenOf = (model: Model): string =>
  text([model.point, model.series, model.pointDigest, model.sweep, model.prepared?.cycle ?? null, digestOf(model)]);
export const seenOfStore = (s: HashStore): string =>
  text([s.point, s.committedSeries, s.pointDigest, s.sweep, s.inDoubtCycle, s.digest]);

const text = (value: unknown): string =>
  JSON.stringify(value, (_, v: unknown) => (typeof v === 'bigint' ? v.toString(16) : v));

export const segmentHashes = (model: Model, segment: number): BigUint64Array => {
  const { first, count } = segmentBlocks(geometry, segment);
  return model.hashes.slice(first, first + count);
};

export interface Step {
  readonly name: string;
  readonly after: Model;
  /** Survives a power cut once it has returned. */
  readonly durable: boolean;
  run(store: HashStore): Promise<unknown>;
}

const withChanges = (hashes: BigUint64Array, changes: ReadonlyMap<number, bigint>): BigUint64Array => {
  const copy = hashes.slice();
  for (const [block, hash] of changes) copy[block] = hash;
  return copy;
};

/** A call that is allowed now, with arguments by chance. */
export function randomStep(model: Model, random: Random): Step {
  const makers = [checkpointStep, ...(model.prepared === null ? freeSteps : [commitStep, commitStep, dropStep])];
  for (;;) {
    const step = makers[random.below(makers.length)]?.(model, random);
    if (step) return step;
  }
}

/** The end of the prepared cycle, either way. */
export function randomEnd(model: Model, random: Random): Step {
  const step = (random.chance(0.7) ? commitStep : dropStep)(model, random);
  if (step === null) throw new Error('no cycle is prepared');
  return step;
}

type Maker = (model: Model, random: Random) => Step | null;

const checkpointStep: Maker = (model) => ({
  name: 'checkpoint',
  after: model,
  durable: true,
  run: (s) => s.checkpoint(),
});

const prepareStep: Maker = (model, random) => {
  if (model.unknown.size > 0) return null;
  const length = random.below(random.chance(0.2) ? 2000 : 20);
  const blocks = new Uint32Array(length + 3);
  const hashes = new BigUint64Array(length + 3);
  const changes = new Map<number, bigint>();
  let block = 0;
  for (let i = 0; i < length; i++) {
    block = random.chance(0.5) ? (block + 1) % geometry.blockCount : random.below(geometry.blockCount);
    blocks[i] = block;
    hashes[i] = random.hash();
    changes.set(block, hashes[i] ?? 0n);
  }
  const cycle = random.uuid();
  const expected = digestOf({ ...model, hashes: withChanges(model.hashes, changes) });
  return {
    name: `prepare ${length}`,
    after: { ...model, prepared: { cycle, changes } },
    durable: true,
    run: async (s) => {
      const { digest } = await s.prepare(cycle, { blocks, hashes, length });
      if (digest !== expected) throw new Error(`digest ${digest} instead of ${expected}`);
    },
  };
};

const commitStep: Maker = (model, random) => {
  if (model.prepared === null) return null;
  const { cycle, changes } = model.prepared;
  const point = asPoint(model.point + 1 + random.below(3));
  const series = random.chance(0.3) ? asSeriesId(random.uuid()) : model.series;
  const after = { ...model, point, series, sweep: null, prepared: null, hashes: withChanges(model.hashes, changes) };
  return {
    name: 'commit',
    after: { ...after, pointDigest: digestOf(after) },
    durable: false,
    run: (s) => s.commit(cycle, point, series),
  };
};

const dropStep: Maker = (model) => {
  const cycle = model.prepared?.cycle ?? '';
  return { name: 'drop', after: { ...model, prepared: null }, durable: false, run: (s) => s.drop(cycle) };
};

const beginStep: Maker = (model, random) => {
  const kind: SweepKind = random.chance(0.5) ? 'comparison' : 'first-copy';
  const series = asSeriesId(random.uuid());
  const sweep = { kind, series, nextSegment: 0, stagedLayers: model.sweep?.stagedLayers ?? 0 };
  return { name: 'begin', after: { ...model, sweep }, durable: false, run: (s) => s.beginSweep(kind, series) };
};

const stageStep: Maker = (model, random) => {
  const { sweep } = model;
  if (sweep === null || sweep.nextSegment >= geometry.segmentCount) return null;
  const segment = sweep.nextSegment + (random.chance(0.2) ? 1 : 0);
  if (segment >= geometry.segmentCount) return null;
  const hashes = segmentHashes(model, segment);
  const whole = model.unknown.has(segment) || random.chance(0.4);
  for (let i = 0; i < hashes.length; i++) if (whole || random.chance(0.02)) hashes[i] = random.hash();
  const made = random.chance(0.7);
  const stagedLayers = sweep.stagedLayers + (made ? 1 : 0);
  const after = withSegment(model, segment, hashes);
  return {
    name: `stage ${segment}`,
    after: { ...after, sweep: { ...sweep, nextSegment: segment + 1, stagedLayers } },
    durable: false,
    run: (s) => s.stageSegment(segment, hashes, made),
  };
};

const endStep: Maker = (model) => {
  if (model.sweep === null || model.sweep.stagedLayers > 0) return null;
  return { name: 'end', after: { ...model, sweep: null }, durable: false, run: (s) => s.endSweep() };
};

const replaceStep: Maker = (model, random) => {
  const segment = random.below(geometry.segmentCount);
  const hashes = segmentHashes(model, segment);
  const take = random.chance(0.5);
  if (take || model.unknown.has(segment)) hashes.set(random.hashes(hashes.length));
  return {
    name: `replace ${segment}`,
    after: withSegment(model, segment, hashes),
    durable: false,
    run: (s) => s.replaceSegment(segment, hashes, take ? 'take' : 'must-agree'),
  };
};

const resetStep: Maker = (model, random) => {
  if (random.chance(0.7)) return null;
  const zero = random.chance(0.6);
  const point = zero ? asPoint(0) : model.point;
  const after = { ...emptyModel, point, unknown: new Set(zero ? [] : allSegments) };
  return {
    name: `reset ${zero}`,
    after,
    durable: true,
    run: (s) => s.reset({ hashes: zero ? 'zero' : 'unknown', point, committedSeries: null, reason: 'test' }),
  };
};

const freeSteps = [
  prepareStep,
  prepareStep,
  prepareStep,
  beginStep,
  stageStep,
  stageStep,
  endStep,
  replaceStep,
  resetStep,
];

function withSegment(model: Model, segment: number, content: BigUint64Array): Model {
  const hashes = model.hashes.slice();
  hashes.set(content, segment * geometry.blocksPerSegment);
  const unknown = new Set(model.unknown);
  unknown.delete(segment);
  return { ...model, hashes, unknown };
}
