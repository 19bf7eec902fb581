/**
 * Layers of one disk of which nobody knows what they held. Of the blocks that nothing later covers, the agent has sent what they hold: they had not
 * changed since the layer, so they are what it brought, or what was there before it. A new layer gets those that differ from what the other layers say.
 * Which of several lost layers brought a block is not known either: of few blocks the digests of the points between tell (scrub-subset.ts), of many it is
 * tried whether the oldest or the newest has brought them all. Whatever was tried, the digests say whether it is right.
 * A layer whose chunks are there, but no index that proves that they are all of it, is made of them if the digests say so.
 * What can't be brought back are blocks that were overwritten since: points from before that don't add up to their digest, and go from the list, as a
 * reader of single blocks could not tell them from whole ones.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import { geometryOf, segmentBlocks, type Geometry } from '../../shared/blocks/geometry.js';
import { digestFromText, ZERO_HASH } from '../../shared/blocks/hash.js';
import { AfterimageError } from '../../shared/errors.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import { TOLD_BLOCKS_MAX, TOLD_CANDIDATES_MAX } from '../../shared/limits-scrub.js';
import { asExtents, isOpen, type DamageItem } from '../catalog/damage.js';
import type { LayerRef, RecoveryPoint } from '../catalog/manifest.js';
import type { PointDisk } from '../catalog/reader.js';
import { digestOfUnit, hashesOfSegment } from '../volume/block-hashes.js';
import type { LayerReader } from '../volume/layer-reader.js';
import { planPoint } from '../volume/plan-point.js';
import { compareLayers, freeRuns, type ReadPlan } from '../volume/read-plan.js';
import { workOfRuns } from '../volume/unit-work.js';
import type { DiskHistory, MachineHistory } from './history.js';
import { writeWinners, type MergeDeps } from './merge-layers.js';
import { coverageOf } from './scrub-concern.js';
import { subsetWithXor } from './scrub-subset.js';
import type { Winner } from './winners.js';

/** A layer that is lost, and the last point there was when its blocks were asked for the first time. */
export interface LostLayer {
  readonly layer: LayerRef;
  readonly askedAfter: number;
  /** What its chunks say; null: nothing, or it was found not to be all of it. */
  readonly index: LayerIndex | null;
}

/** A disk with lost layers, and all that is known of it. */
export interface LossCase {
  readonly reader: LayerReader;
  readonly geometry: Geometry;
  /** Oldest first. */
  readonly lost: readonly LostLayer[];
  readonly known: readonly LayerRef[];
  /** Blocks that a known layer has by its index, and that can't be had from it; null: none. */
  readonly spoiled: (layer: LayerRef) => BlockSet | null;
  readonly points: readonly RecoveryPoint[];
}

export function lossCase(
  reader: LayerReader,
  history: MachineHistory,
  disk: DiskHistory,
  lost: readonly LostLayer[],
  damage: readonly DamageItem[],
): LossCase {
  const { sizeBytes, blockBytes } = disk.entry;
  const isLost = (layer: LayerRef): boolean => lost.some((one) => isSameLayer(one.layer, layer));
  return {
    reader,
    geometry: geometryOf(sizeBytes, blockBytes),
    lost: [...lost].sort((a, b) => compareLayers(a.layer, b.layer)),
    known: [...disk.bases, ...disk.deltas].filter((layer) => !isLost(layer)).sort(compareLayers),
    spoiled: spoiledBy(reader, damage),
    points: history.points.filter((point) => point.disks.some((d) => d.disk === reader.owner.disk)),
  };
}

function spoiledBy(reader: LayerReader, damage: readonly DamageItem[]): LossCase['spoiled'] {
  const blocks = new Map<string, BlockSet>();
  for (const item of damage) {
    if (item.kind !== 'layer' || !isOpen(item) || item.extents === null) continue;
    const bad = new BlockSet();
    for (const { first, count } of asExtents(item)) bad.addRange(first, count);
    blocks.set(item.object, bad);
  }
  return (layer) => blocks.get(reader.nameOf(layer)) ?? null;
}

/** Of these blocks those in a run that can be had from a known layer which has the run. */
function blocksOf(of: LossCase, blocks: BlockSet, layer: LayerRef, first: number, count: number): number[] {
  const spoiled = of.spoiled(layer);
  const found = blocks.blocksIn(first, count);
  return spoiled === null ? found : found.filter((block) => !spoiled.has(block));
}

export const isSameLayer = (a: LayerRef, b: LayerRef): boolean =>
  compareLayers(a, b) === 0 && a.kind === b.kind && a.segment === b.segment;

/** Blocks that a lost layer may have held and that nothing later had when they were asked for: they can be had from the source. */
export async function openBlocks(of: LossCase, { layer, askedAfter }: LostLayer): Promise<BlockSet> {
  const { geometry, reader, known } = of;
  const open = new BlockSet();
  if (layer.segment === null) open.addRange(0, geometry.blockCount);
  else if (layer.segment < geometry.segmentCount) {
    const { first, count } = segmentBlocks(geometry, layer.segment);
    open.addRange(first, count);
  }
  for (const later of known) {
    if (compareLayers(later, layer) <= 0 || later.lastPoint > askedAfter) continue;
    for (const [first, count] of await coverageOf(reader, geometry, later))
      for (const block of open.blocksIn(first, count)) open.delete(block);
  }
  return open;
}

/** Of these blocks those that no layer of a later point than this has: the agent has not sent them yet. */
export async function notSent(of: LossCase, blocks: BlockSet, after: number) {
  const { known, reader, geometry } = of;
  const left = blocks.clone();
  for (const later of known) {
    if (later.lastPoint <= after || later.kind === 'base') continue;
    for (const [first, count] of await coverageOf(reader, geometry, later))
      for (const block of blocksOf(of, left, later, first, count)) left.delete(block);
  }
  return left;
}

export interface Rebuilt {
  /** What takes the place of each lost layer, in their order. */
  readonly made: readonly (readonly LayerRef[])[];
  /** Points that still don't add up. */
  readonly broken: readonly RecoveryPoint[];
}

/**
 * Writes new layers for the lost ones, after the agent has sent what was asked for. Throws code `repair-unproven` when not even the newest point adds up.
 * `wasted` is told of layers that were written for nothing.
 */
export async function rebuildLayers(
  deps: MergeDeps,
  of: LossCase,
  wasted: (layers: readonly LayerRef[]) => void,
): Promise<Rebuilt> {
  let best: Rebuilt | null = null;
  for (const places of await likelyPlaces(of)) {
    const made = await brought(deps, of, places);
    const broken = await brokenPoints(of, [...of.known, ...made.flat()]);
    if (best !== null && broken.length >= best.broken.length) {
      wasted(made.flat());
      continue;
    }
    if (best !== null) wasted(best.made.flat());
    best = { made, broken };
    if (broken.length === 0) break;
  }
  const newest = of.points.at(-1);
  if (best !== null && (newest === undefined || !best.broken.includes(newest))) return best;
  if (best !== null) wasted(best.made.flat());
  throw notProven(of);
}

/** Blocks that each lost layer is to have brought; what a layer that is known by its chunks has is left out. */
type Places = readonly BlockSet[];

async function likelyPlaces(of: LossCase): Promise<Places[]> {
  const open: BlockSet[] = [];
  for (const lost of of.lost) open.push(lost.index === null ? await openBlocks(of, lost) : new BlockSet());
  // A base has all of its segment, whoever else has it as well.
  const isDelta = (i: number): boolean => of.lost[i]?.layer.kind === 'delta';
  const deltas = (from: number, to: number): BlockSet[] => open.filter((_, i) => i >= from && i < to && isDelta(i));
  const placed = (others: (i: number) => BlockSet[]): Places =>
    open.map((blocks, i) => (isDelta(i) ? without(blocks, others(i)) : blocks));
  const oldest = placed((i) => deltas(0, i));
  if (of.lost.filter(({ index }) => index === null).length <= 1) return [oldest];
  const newest = placed((i) => deltas(i + 1, open.length));
  const told = await placesByDigests(of, open);
  return told === null ? [oldest, newest] : [told, oldest, newest];
}

function without(blocks: BlockSet, others: readonly BlockSet[]): BlockSet {
  const left = blocks.clone();
  for (const other of others) for (const block of other.blocks()) left.delete(block);
  return left;
}

/**
 * By the points between two lost layers: what they hold beyond the layers that are whole is what the older lost ones have brought. Null when that can't be
 * told: too many blocks differ, or a base is among the lost, of which every block may.
 */
async function placesByDigests(of: LossCase, open: readonly BlockSet[]): Promise<Places | null> {
  const { reader, known, lost, points } = of;
  if (lost.some(({ layer, index }) => layer.kind === 'base' || index !== null)) return null;
  const all = new BlockSet();
  for (const blocks of open) all.addAll(blocks);
  const sent = await sentHashes(of, all);
  if (sent === null) return null;
  const places = open.map(() => new BlockSet());
  const placed = new BlockSet();
  for (const [i, { layer }] of lost.slice(0, -1).entries()) {
    const next = lost[i + 1]?.layer.lastPoint ?? Infinity;
    const point = points.filter(({ number }) => number >= layer.lastPoint && number < next).at(-1);
    const at = point?.disks.find((d) => d.disk === reader.owner.disk);
    if (point === undefined || at === undefined) continue;
    const plan = await planPoint(reader, at, split(known.filter((l) => l.lastPoint <= point.number)));
    const hashAt = hashesOf(reader, plan);
    const differing: { readonly block: number; readonly xor: bigint }[] = [];
    for (const [block, hash] of sent) {
      if (open[i]?.has(block) !== true) continue;
      const xor = hash ^ (await hashAt(block));
      if (xor !== 0n) differing.push({ block, xor });
      if (differing.length > TOLD_BLOCKS_MAX) return null;
    }
    const sum = digestFromText(at.digest) ^ (await digestOf(reader, plan));
    const found = subsetWithXor(
      differing.map(({ xor }) => xor),
      sum,
    );
    if (found === null) return null;
    for (const n of found) {
      const block = differing[n]?.block ?? 0;
      if (placed.has(block)) continue;
      placed.add(block);
      places[i]?.add(block);
    }
  }
  places[places.length - 1] = without(open.at(-1) ?? new BlockSet(), [placed]);
  return places;
}

/** Hashes of blocks as they were sent; null, when there are so many that nothing could be told from them. */
async function sentHashes(of: LossCase, blocks: BlockSet): Promise<Map<number, bigint> | null> {
  const after = Math.min(...of.lost.map(({ askedAfter }) => askedAfter));
  const sent = new Map<number, bigint>();
  for (const donor of of.known) {
    if (donor.kind === 'base' || donor.lastPoint <= after) continue;
    const index = await of.reader.index(donor);
    for (let i = 0; i < index.first.length; i++) {
      for (const block of blocksOf(of, blocks, donor, index.first[i] ?? 0, index.count[i] ?? 0)) {
        if (sent.has(block)) continue;
        const at = (index.hashAt[i] ?? 0) + block - (index.first[i] ?? 0);
        sent.set(block, index.zero[i] === 1 ? ZERO_HASH : (index.hashes[at] ?? 0n));
      }
      if (sent.size > TOLD_CANDIDATES_MAX) return null;
    }
  }
  return sent;
}

/** New layers in the place of the lost ones. */
async function brought(deps: MergeDeps, of: LossCase, places: Places): Promise<LayerRef[][]> {
  const made: LayerRef[][] = [];
  for (const [i, { layer, askedAfter, index }] of of.lost.entries()) {
    if (index !== null) {
      made.push(await ofItsChunks(deps, of, layer, index));
      continue;
    }
    const mine = places[i] ?? new BlockSet();
    made.push(await oneLayer(deps, of, layer, mine, askedAfter, made.flat()));
  }
  return made;
}

/** The layer anew, without what later layers of the same last point have: it would come after them. */
async function ofItsChunks(deps: MergeDeps, of: LossCase, layer: LayerRef, index: LayerIndex): Promise<LayerRef[]> {
  const hidden = new BlockSet();
  for (const later of of.known) {
    if (later.lastPoint !== layer.lastPoint || compareLayers(later, layer) <= 0) continue;
    for (const [first, count] of await coverageOf(of.reader, of.geometry, later)) hidden.addRange(first, count);
  }
  const runs = Array.from(index.first, (first, i) => [...freeRuns(hidden, first, index.count[i] ?? 0)]).flat();
  return write(deps, of, layer, [{ layer, index, work: workOfRuns(index, runs) }]);
}

async function write(
  deps: MergeDeps,
  { reader }: LossCase,
  { kind, segment, firstPoint, lastPoint }: LayerRef,
  winners: readonly Winner[],
): Promise<LayerRef[]> {
  const parts = winners.filter(({ work }) => work.pieces.length > 0 || work.zeroes.length > 0);
  if (parts.length === 0 && kind === 'delta') return [];
  const { disk, blockBytes } = reader.owner;
  const what = { disk, blockBytes, kind, segment, firstPoint, lastPoint };
  return [...(await writeWinners(deps, reader, parts, what)).layers];
}

async function oneLayer(
  deps: MergeDeps,
  of: LossCase,
  layer: LayerRef,
  blocks: BlockSet,
  askedAfter: number,
  madeBefore: readonly LayerRef[],
): Promise<LayerRef[]> {
  const { reader } = of;
  const before = [...of.known, ...madeBefore].filter((other) => compareLayers(other, layer) < 0);
  const plan = await planPoint(reader, pointDisk(of), split(before));
  const winners: Winner[] = [];
  const left = blocks.clone();
  // What was sent first after it was asked for: later points may have other contents.
  for (const donor of of.known) {
    if (left.isEmpty) break;
    if (donor.kind === 'base' || donor.lastPoint <= askedAfter) continue;
    const index = await reader.index(donor);
    const runs: [number, number][] = [];
    for (let i = 0; i < index.first.length; i++) {
      for (const block of blocksOf(of, left, donor, index.first[i] ?? 0, index.count[i] ?? 0)) {
        left.delete(block);
        runs.push([block, 1]);
      }
    }
    const differing = layer.kind === 'base' ? runs : await differ(reader, plan, index, runs);
    if (differing.length > 0) winners.push({ layer: donor, index, work: workOfRuns(index, differing) });
  }
  return write(deps, of, layer, winners);
}

/** Of these blocks of an index those that are not what a plan has. */
async function differ(
  reader: LayerReader,
  plan: ReadPlan,
  index: Parameters<typeof workOfRuns>[0],
  runs: readonly [number, number][],
): Promise<[number, number][]> {
  const is = new Map<number, bigint>();
  const work = workOfRuns(index, runs);
  for (const [first, count] of work.zeroes) for (let b = 0; b < count; b++) is.set(first + b, ZERO_HASH);
  for (const { first, count, hashAt } of work.pieces)
    for (let b = 0; b < count; b++) is.set(first + b, index.hashes[hashAt + b] ?? 0n);
  const found: [number, number][] = [];
  const hashAt = hashesOf(reader, plan);
  for (const [block] of runs) if ((await hashAt(block)) !== is.get(block)) found.push([block, 1]);
  return found;
}

/** Hash of a block by a plan; those of one segment are held. */
function hashesOf(reader: LayerReader, plan: ReadPlan): (block: number) => Promise<bigint> {
  let segment = -1;
  let hashes: BigUint64Array = new BigUint64Array(0);
  return async (block) => {
    if (Math.floor(block / plan.geometry.blocksPerSegment) !== segment) {
      segment = Math.floor(block / plan.geometry.blocksPerSegment);
      hashes = await hashesOfSegment(reader, plan, segment);
    }
    return hashes[block - segmentBlocks(plan.geometry, segment).first] ?? 0n;
  };
}

/** Points from the oldest lost layer on that these layers don't make up, by their indexes. Throws kind `corrupt` when one of them is damaged as well. */
export async function brokenPoints(of: LossCase, layers: readonly LayerRef[]): Promise<RecoveryPoint[]> {
  const { reader, lost, points } = of;
  const broken: RecoveryPoint[] = [];
  const from = Math.min(...lost.map(({ layer }) => layer.lastPoint));
  for (const point of points) {
    const at = point.disks.find((d) => d.disk === reader.owner.disk);
    if (at === undefined || point.number < from) continue;
    const plan = await planPoint(reader, at, split(layers.filter((layer) => layer.lastPoint <= point.number)));
    if ((await digestOf(reader, plan)) !== digestFromText(at.digest)) broken.push(point);
  }
  return broken;
}

async function digestOf(reader: LayerReader, plan: ReadPlan): Promise<bigint> {
  let digest = 0n;
  for (const unit of plan.units) digest ^= await digestOfUnit(reader, plan, unit);
  return digest;
}

const split = (layers: readonly LayerRef[]): { bases: LayerRef[]; deltas: LayerRef[] } => ({
  bases: layers.filter((layer) => layer.kind === 'base'),
  deltas: layers.filter((layer) => layer.kind === 'delta'),
});

const pointDisk = ({ reader, geometry }: LossCase): PointDisk => ({
  disk: reader.owner.disk,
  sizeBytes: geometry.sizeBytes,
  blockBytes: geometry.blockBytes,
  digest: '0'.repeat(16),
});

const notProven = ({ reader, lost }: LossCase): AfterimageError =>
  new AfterimageError(
    `layers can't be done without, as the newest point does not add up: ${lost.map(({ layer }) => reader.nameOf(layer)).join(', ')}`,
    {
      code: 'repair-unproven',
      kind: 'refused',
      hint: 'Bring the objects back from a copy of the store, or protect the machine anew.',
    },
  );
