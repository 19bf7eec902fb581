/**
 * A layer of which nobody knows what it held. Of the blocks that nothing later covers, the agent has sent what they hold: they have not changed
 * since the layer, so they are what it brought, or what was there before it. A new layer gets those that differ from what the other layers say. What
 * it can't bring back are blocks that were overwritten since: points from before that don't add up to their digest, and go from the list, as a reader
 * of single blocks could not tell them from whole ones.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import { segmentBlocks, geometryOf } from '../../shared/blocks/geometry.js';
import { digestFromText, ZERO_HASH } from '../../shared/blocks/hash.js';
import { AfterimageError } from '../../shared/errors.js';
import type { PointRange } from '../catalog/damage.js';
import type { LayerRef, RecoveryPoint } from '../catalog/manifest.js';
import type { PointDisk } from '../catalog/reader.js';
import { digestOfUnit, hashesOfSegment } from '../volume/block-hashes.js';
import { planPoint } from '../volume/plan-point.js';
import { compareLayers } from '../volume/read-plan.js';
import { workOfRuns } from '../volume/unit-work.js';
import type { DiskHistory, MachineHistory } from './history.js';
import { writeWinners } from './merge-layers.js';
import { loadHeld } from './retention-held.js';
import type { Patient, RepairDeps } from './scrub-repair.js';
import { replaceLayer } from './scrub-replace.js';
import type { Winner } from './winners.js';

export interface Rebuilt {
  /** Points that are not listed any more. */
  readonly lost: readonly PointRange[];
}

/** `sent`: the blocks that the agent was asked for; they are in the newest point. */
export async function rebuildUnknown(
  deps: RepairDeps,
  history: MachineHistory,
  patient: Patient,
  sent: BlockSet,
): Promise<Rebuilt> {
  const disk = history.disks.get(patient.disk);
  if (disk === undefined) return { lost: [] };
  const others = (of: DiskHistory): LayerRef[] =>
    [...of.bases, ...of.deltas].filter(
      (l) => compareLayers(l, patient.layer) !== 0 || l.segment !== patient.layer.segment,
    );
  const layers = others(disk);
  const made = await brought(deps, history, patient, layers, sent);
  const lost: RecoveryPoint[] = [];
  for (const point of history.points) {
    const at = point.disks.find((d) => d.disk === patient.disk);
    if (at === undefined || point.number < patient.layer.lastPoint) continue;
    if (!(await addsUp(patient, [...layers, ...made], point.number, at))) lost.push(point);
  }
  const newest = history.points.at(-1);
  if (newest !== undefined && lost.includes(newest)) throw notProven(patient);
  const drop = new Set(lost.map((point) => point.number));
  const check = async (): Promise<void> => {
    const held = await loadHeld(deps.store, history.manifest.machine.id, deps.clock.nowMs());
    const first = [...drop].find((point) => held.points.has(point));
    if (first !== undefined || (drop.size > 0 && held.blockers.length > 0)) throw isHeld(first ?? 0);
  };
  await check();
  await replaceLayer(deps, history, patient, made, drop, check);
  return { lost: rangesOf(lost) };
}

/** A new layer of those sent blocks that the other layers don't account for. */
async function brought(
  deps: RepairDeps,
  history: MachineHistory,
  patient: Patient,
  layers: readonly LayerRef[],
  sent: BlockSet,
): Promise<readonly LayerRef[]> {
  const { layer, disk, blockBytes, reader } = patient;
  const geometry = geometryOf(history.disks.get(disk)?.entry.sizeBytes ?? 0, blockBytes);
  const before = layers.filter((other) => compareLayers(other, layer) < 0);
  const plan = await planPoint(reader, pointDisk(disk, geometry.sizeBytes, blockBytes), split(before));
  const winners: Winner[] = [];
  // The newest layers first: what the agent sent last.
  const left = sent.clone();
  for (const donor of layers.filter((other) => compareLayers(other, layer) > 0).sort((a, b) => compareLayers(b, a))) {
    if (left.isEmpty) break;
    if (donor.kind === 'base') continue;
    const index = await reader.index(donor);
    const runs: [number, number][] = [];
    for (let i = 0; i < index.first.length; i++) {
      for (const block of left.blocksIn(index.first[i] ?? 0, index.count[i] ?? 0)) {
        left.delete(block);
        runs.push([block, 1]);
      }
    }
    const differing =
      layer.kind === 'base' ? runs : await differ(patient, plan, index, runs, geometry.blocksPerSegment);
    if (differing.length > 0) winners.push({ layer: donor, index, work: workOfRuns(index, differing) });
  }
  if (winners.length === 0 && layer.kind === 'delta') return [];
  const { kind, segment, firstPoint, lastPoint } = layer;
  const what = { disk, blockBytes, kind, segment, firstPoint, lastPoint };
  return (await writeWinners(deps, reader, winners, what)).layers;
}

/** Of these blocks of an index those that are not what a plan has. */
async function differ(
  { reader }: Patient,
  plan: Awaited<ReturnType<typeof planPoint>>,
  index: Parameters<typeof workOfRuns>[0],
  runs: readonly [number, number][],
  blocksPerSegment: number,
): Promise<[number, number][]> {
  const is = new Map<number, bigint>();
  const work = workOfRuns(index, runs);
  for (const [first, count] of work.zeroes) for (let b = 0; b < count; b++) is.set(first + b, ZERO_HASH);
  for (const { first, count, hashAt } of work.pieces)
    for (let b = 0; b < count; b++) is.set(first + b, index.hashes[hashAt + b] ?? 0n);
  const found: [number, number][] = [];
  let segment = -1;
  let hashes: BigUint64Array = new BigUint64Array(0);
  for (const [block] of runs) {
    if (Math.floor(block / blocksPerSegment) !== segment) {
      segment = Math.floor(block / blocksPerSegment);
      hashes = await hashesOfSegment(reader, plan, segment);
    }
    if (hashes[block - segmentBlocks(plan.geometry, segment).first] !== is.get(block)) found.push([block, 1]);
  }
  return found;
}

/** Whether layers make up a point, by their indexes. Throws kind `corrupt` when another layer is damaged as well: it has to be mended first. */
async function addsUp(
  { reader }: Patient,
  layers: readonly LayerRef[],
  point: number,
  at: PointDisk,
): Promise<boolean> {
  const plan = await planPoint(reader, at, split(layers.filter((layer) => layer.lastPoint <= point)));
  let digest = 0n;
  for (const unit of plan.units) digest ^= await digestOfUnit(reader, plan, unit);
  return digest === digestFromText(at.digest);
}

const split = (layers: readonly LayerRef[]): { bases: LayerRef[]; deltas: LayerRef[] } => ({
  bases: layers.filter((layer) => layer.kind === 'base'),
  deltas: layers.filter((layer) => layer.kind === 'delta'),
});

const pointDisk = (disk: Patient['disk'], sizeBytes: number, blockBytes: number): PointDisk => ({
  disk,
  sizeBytes,
  blockBytes,
  digest: '0'.repeat(16),
});

/** Runs of neighbours in the list of points. */
function rangesOf(points: readonly RecoveryPoint[]): PointRange[] {
  const first = points[0];
  const last = points.at(-1);
  if (first === undefined || last === undefined) return [];
  return points.map(({ number, cutAtMs }) => ({
    first: number,
    last: number,
    firstCutAtMs: cutAtMs,
    lastCutAtMs: cutAtMs,
  }));
}

const notProven = ({ reader, layer }: Patient): AfterimageError =>
  new AfterimageError(`layer ${reader.nameOf(layer)} can't be done without: the newest point does not add up`, {
    code: 'repair-unproven',
    kind: 'refused',
    hint: 'Bring the object back from a copy of the store, or protect the machine anew.',
  });

const isHeld = (point: number): AfterimageError =>
  new AfterimageError(`point ${point} is held or pinned, and would be lost with the layer`, {
    code: 'repair-held',
    kind: 'refused',
    hint: 'Release it with `afterimage hold`, or bring the object back from a copy of the store.',
  });
