/**
 * Mends what is damaged: small objects (scrub-small.ts), then layers. What their own good chunks have, what other layers have of the same blocks, and what the agent sends once more goes into a new
 * layer that takes the old one's place: same points, a new (epoch, sequence), each block proven by the hash that the damaged layer's index has for it.
 * Where that index is gone too, the agent's copy of what the newest point needs is proven by the digests of the points instead.
 *
 * A new layer is later than all of its last point: so it leaves out what a later layer of that point has. Blocks that are nowhere stay with the damaged
 * layer, where reading them fails: they never turn into what was there before. Points that can't be told any more, as nobody knows what the lost
 * layer held, are not listed any longer; the list of what is damaged names them.
 * On a crash: new layers and pages are orphans, and the repair is done again; what the agent sent is in a point and serves the next try.
 */
import type { Logger } from 'pino';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { segmentBlocks, geometryOf } from '../../shared/blocks/geometry.js';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import type { DiskId } from '../../shared/units.js';
import {
  describePoints,
  isOpen,
  withState,
  type DamageChange,
  type DamageItem,
  type PointRange,
} from '../catalog/damage.js';
import { loadDamage, updateDamage } from '../catalog/damage-io.js';
import type { LayerRef } from '../catalog/manifest.js';
import { layerName } from '../catalog/names.js';
import type { OwnedMachine } from '../catalog/owned-machine.js';
import type { ObjectStore } from '../store/store.js';
import { IndexCache } from '../volume/index-cache.js';
import { LayerReader } from '../volume/layer-reader.js';
import { compareLayers, freeRuns } from '../volume/read-plan.js';
import { workOfRuns } from '../volume/unit-work.js';
import { CatalogCache, loadHistory, type DiskHistory, type MachineHistory } from './history.js';
import { writeWinners } from './merge-layers.js';
import type { Pace } from './pace.js';
import { askFor } from './scrub-ask.js';
import { concernOfLayer, extentsOrNull, type Concern } from './scrub-concern.js';
import { findDonors, wantedOf, type Donors } from './scrub-donors.js';
import { isSameLayer } from './scrub-rebuild.js';
import { dropShortcut, replaceLayers } from './scrub-replace.js';
import { salvageLayer } from './scrub-salvage.js';
import { mendSmall } from './scrub-small.js';
import { repairUnknown, type LostItem } from './scrub-unknown.js';
import type { Winner } from './winners.js';

/** Asks the agent, or the copy that runs here, for blocks once more; resolves to the point that holds them. Throws code `home-absent` when nobody is there. */
export type AskAgent = (
  disk: DiskId,
  extents: readonly (readonly [number, number])[],
) => Promise<{ readonly point: number }>;

export interface RepairDeps {
  readonly store: ObjectStore;
  /** What the store really holds, where `store` keeps copies of its objects: a healthy copy says nothing about the object. */
  readonly beneath: ObjectStore;
  readonly clock: Clock;
  readonly log: Logger;
  readonly owned: OwnedMachine;
  readonly pace: Pace;
  readonly signal: AbortSignal;
  readonly ask: AskAgent;
  /** Id of the copy of the machine that runs here and has all of itself on this host. */
  readonly wholeCopy?: () => string | null;
}

/** A layer that is to be mended, and what is known of its disk. */
export interface Patient {
  readonly disk: DiskId;
  readonly layer: LayerRef;
  readonly blockBytes: number;
  readonly reader: LayerReader;
}

/**
 * All that is open of a machine's damage: first what can be told from the store, then, disk by disk, layers of which nothing is known. What can't be
 * mended now stays open, with the reason.
 */
export async function repairMachine(deps: RepairDeps): Promise<void> {
  const { store, owned, signal } = deps;
  const items = (await loadDamage(store, owned.manifest.machine.id))?.items ?? [];
  // First what says which layers there are.
  for (const item of items.filter((one) => isSmall(one) && isOpen(one))) {
    if (signal.aborted) return;
    await attempt(deps, [item], () => repairSmall(deps, item));
  }
  let left = items.filter((item) => item.kind === 'layer' && isOpen(item) && item.state !== 'lost');
  // A second time those that could not be put behind a neighbour which is whole now.
  for (let round = 0; round < 2 && left.length > 0; round++) {
    const again: DamageItem[] = [];
    const unknown = new Map<DiskId, LostItem[]>();
    for (const item of left) {
      if (signal.aborted) return;
      const { disk, layer } = item;
      if (disk === null || layer === null) continue;
      await attempt(deps, [item], async () => {
        const lost = await new Repair(deps, item, disk, layer, items).run();
        if (lost !== null) unknown.set(disk, [...(unknown.get(disk) ?? []), lost]);
      }).then((code) => (code === REPAIR_ORDER ? again.push(item) : null));
    }
    for (const [disk, lost] of unknown) {
      if (signal.aborted) return;
      const concerned = lost.map(({ item }) => item);
      await attempt(deps, concerned, () => repairLost(deps, disk, lost, items));
    }
    left = unknown.size > 0 ? again : [];
  }
}

const isSmall = ({ kind }: DamageItem): boolean => kind !== 'layer' && kind !== 'point';

async function repairSmall(deps: RepairDeps, item: DamageItem): Promise<void> {
  const change = await mendSmall(deps, item);
  if (change.state === item.state && change.reason === item.reason) return;
  await mark(deps, item, change);
  if (change.state === 'repaired') return told(deps, item, 'info', `${item.object}: ${change.reason}`);
  if (isOpen({ ...item, ...change })) told(deps, item, 'error', `${item.object} is not mended: ${change.reason}`);
}

/** What went wrong is noted with its objects; the code of it is returned. Throws when the machine is lost, or the work was cancelled. */
async function attempt(
  deps: RepairDeps,
  items: readonly DamageItem[],
  work: () => Promise<void>,
): Promise<string | null> {
  try {
    await work();
    return null;
  } catch (error) {
    if (!(error instanceof AfterimageError) || error.kind === 'fenced' || error.kind === 'cancelled') throw error;
    const { id: machine, name } = deps.owned.manifest.machine;
    for (const item of items) {
      deps.log.warn({ err: error, machine, name, object: item.object }, `not mended yet: ${messageOf(error)}`);
      await mark(deps, item, { state: 'found', reason: messageOf(error) });
    }
    return error.code;
  }
}

async function mark(deps: RepairDeps, item: DamageItem, change: DamageChange): Promise<void> {
  await updateDamage(deps, deps.owned.manifest.machine.id, (items, nowMs) => withState(items, item, change, nowMs));
}

function told({ owned, log }: RepairDeps, item: DamageItem, level: 'info' | 'error', text: string): void {
  const { id: machine, name } = owned.manifest.machine;
  log[level]({ machine, name, object: item.object }, text);
}

async function markLost(deps: RepairDeps, item: DamageItem, points: readonly PointRange[], why: string): Promise<void> {
  await mark(deps, item, { state: 'lost', reason: why, points: [...points] });
  told(deps, item, 'error', `points ${describePoints(points)} can not be had any more: ${why}`);
}

const historyOf = ({ store, owned }: RepairDeps): Promise<MachineHistory> =>
  loadHistory(new CatalogCache(store), owned.manifest);

/** Layers of one disk of which nobody knows what they held. */
async function repairLost(
  deps: RepairDeps,
  disk: DiskId,
  lost: readonly LostItem[],
  damage: readonly DamageItem[],
): Promise<void> {
  const { store, owned } = deps;
  const history = (): Promise<MachineHistory> => historyOf(deps);
  const { blockBytes } = owned.manifest.disks.find((entry) => entry.id === disk) ?? { blockBytes: 0 };
  const reader = new LayerReader(store, { machine: owned.manifest.machine.id, disk, blockBytes }, new IndexCache());
  const marking = (item: DamageItem, change: DamageChange): Promise<void> => mark(deps, item, change);
  const result = await repairUnknown({ ...deps, history, damage, mark: marking }, reader, lost);
  for (const { item } of lost) {
    if (result.lost.length > 0) {
      const why = `nobody knows what the layer held; ${result.from}; its points are not listed any more`;
      await markLost(deps, item, result.lost, why);
      continue;
    }
    await mark(deps, item, { state: 'repaired', reason: `${result.from}, and the digests of its points fit` });
    told(deps, item, 'info', 'a lost layer was made anew');
  }
}

class Repair {
  readonly #deps: RepairDeps;
  readonly #item: DamageItem;
  readonly #disk: DiskId;
  readonly #layer: LayerRef;
  readonly #bad: ReadonlySet<string>;

  constructor(deps: RepairDeps, item: DamageItem, disk: DiskId, layer: LayerRef, all: readonly DamageItem[]) {
    this.#deps = deps;
    this.#item = item;
    this.#disk = disk;
    this.#layer = layer;
    this.#bad = new Set(all.filter(isOpen).map((other) => other.object));
  }

  /** Null when all that can be done was done; else what is known of a layer that has to be made anew together with others. */
  async run(): Promise<LostItem | null> {
    const { store, beneath, owned } = this.#deps;
    const history = await historyOf(this.#deps);
    const disk = history.disks.get(this.#disk);
    if (disk === undefined || !isReferred(disk, this.#layer)) {
      return this.#done({ state: 'gone', reason: 'nothing refers to it any more' });
    }
    const { blockBytes } = disk.entry;
    const owner = { machine: owned.manifest.machine.id, disk: this.#disk, blockBytes };
    const patient: Patient = {
      disk: this.#disk,
      layer: this.#layer,
      blockBytes,
      reader: new LayerReader(store, owner, new IndexCache()),
    };
    if ((disk.shortcuts ?? []).some((shortcut) => isSameLayer(shortcut, this.#layer))) {
      await dropShortcut(this.#deps, history, patient);
      return this.#done({
        state: 'repaired',
        reason: 'it was a shortcut: the layers that it stood for are read instead',
      });
    }
    const salvaged = await salvageLayer(beneath, owner, this.#layer);
    if (salvaged.report.problems.length === 0) {
      return this.#done({ state: 'repaired', reason: 'it was read again, and is whole' });
    }
    const copy = beneath === store ? null : await salvageLayer(store, owner, this.#layer);
    if (copy?.index != null && copy.report.problems.length === 0) {
      await this.#known(patient, history, copy.index, copy.badChunks, 'the copy that this receiver had kept');
      return null;
    }
    const { index, isProven, badChunks } = salvaged;
    if (index === null || !isProven) return { item: this.#item, layer: this.#layer, index };
    await this.#known(patient, history, index, badChunks, 'what the store has');
    return null;
  }

  async #done(change: DamageChange): Promise<null> {
    await mark(this.#deps, this.#item, change);
    return null;
  }

  /** Its index is known: every block can be proven by its hash. */
  async #known(
    patient: Patient,
    before: MachineHistory,
    index: LayerIndex,
    badChunks: ReadonlySet<number>,
    source: string,
  ): Promise<void> {
    const wanted = wantedOf(index, { badChunks });
    let history = before;
    let donors = await this.#donors(patient, history, index, wanted);
    let askedPoint: number | null = null;
    if (donors.missing.size > 0) {
      askedPoint = await this.#ask(runsOf(donors.missing.keys()));
      history = await historyOf(this.#deps);
      donors = await this.#donors(patient, history, index, wanted);
    }
    const missing = runsOf(donors.missing.keys());
    const lost = missing.length === 0 ? [] : (await this.#concern(missing)).points;
    if (lost.length > 0 && patient.layer.kind === 'base') {
      await this.#keepBase(wanted, donors.missing.size);
      return;
    }
    const own = lost.length > 0 ? [] : [goodPart(patient.layer, index, wanted)];
    const made = await this.#write(patient, history, [...own, ...donors.winners]);
    // Lost blocks stay with the damaged layer, where they can't be taken for what was there before.
    const outputs = lost.length > 0 ? [this.#layer, ...made] : made;
    if (lost.length === 0 || made.length > 0) {
      await replaceLayers(this.#deps, history, this.#disk, [{ layer: this.#layer, outputs }], new Set());
    }
    const from = askedPoint === null ? source : `${source} and what its agent sent with point ${askedPoint}`;
    if (lost.length === 0) {
      await mark(this.#deps, this.#item, { state: 'repaired', reason: `made anew of ${from}` });
      return told(this.#deps, this.#item, 'info', 'a damaged layer was made anew');
    }
    await markLost(this.#deps, this.#item, lost, `${donors.missing.size} blocks of disk ${this.#disk} are nowhere`);
  }

  /** A base is all of its segment: a new one beside it would hide what it lacks. So it stays alone, and the newest point has the agent's blocks instead. */
  async #keepBase(wanted: ReadonlyMap<number, bigint>, missing: number): Promise<void> {
    const extents = runsOf(wanted.keys());
    await this.#ask(extents);
    const { points } = await this.#concern(extents);
    const why = `${missing} blocks of disk ${this.#disk} are nowhere, and a base is replaced as a whole or not at all`;
    await markLost(this.#deps, this.#item, points, why);
  }

  #concern(extents: readonly (readonly [number, number])[]): Promise<Concern> {
    const { store, owned } = this.#deps;
    return concernOfLayer(store, owned.manifest, { disk: this.#disk, layer: this.#layer, extents });
  }

  /** What can be asked for is that part of it which the newest point needs: nothing else is on the source any more. Returns the last point that holds it. */
  async #ask(extents: readonly (readonly [number, number])[]): Promise<number | null> {
    const { newest } = await this.#concern(extents);
    if (newest.isEmpty) return null;
    const reason = `${newest.size} blocks were asked of the agent`;
    await mark(this.#deps, this.#item, { state: 'asked', reason });
    return askFor(this.#deps, this.#disk, newest);
  }

  #donors(
    patient: Patient,
    history: MachineHistory,
    index: LayerIndex,
    wanted: ReturnType<typeof wantedOf>,
  ): Promise<Donors> {
    const { bases = [], deltas = [], shortcuts = null } = history.disks.get(this.#disk) ?? {};
    const machine = history.manifest.machine.id;
    const isBad = (layer: LayerRef): boolean => this.#bad.has(layerName(machine, this.#disk, layer));
    return findDonors(
      patient.reader,
      [...bases, ...deltas, ...(shortcuts ?? [])],
      { layer: patient.layer, index },
      wanted,
      isBad,
    );
  }

  /** The new layer, without what later layers of the same last point have. */
  async #write(patient: Patient, history: MachineHistory, winners: readonly Winner[]): Promise<readonly LayerRef[]> {
    const { kind, segment, firstPoint, lastPoint } = patient.layer;
    const { disk, blockBytes } = patient;
    const hidden = await hiddenBlocks(patient, history);
    const parts = winners.map((winner) => without(winner, hidden)).filter(hasBlocks);
    if (parts.length === 0 && kind === 'delta') return [];
    if (kind === 'base' && !hidden.isEmpty) throw notMovable(this.#item.object);
    const what = { disk, blockBytes, kind, segment, firstPoint, lastPoint };
    return (await writeWinners(this.#deps, patient.reader, parts, what)).layers;
  }
}

const isReferred = ({ bases, deltas, shortcuts }: DiskHistory, layer: LayerRef): boolean =>
  [...bases, ...deltas, ...(shortcuts ?? [])].some((other) => isSameLayer(other, layer));

/** What its own good chunks and zero runs have. */
function goodPart(layer: LayerRef, index: LayerIndex, wanted: ReadonlyMap<number, bigint>): Winner {
  const runs: [number, number][] = [];
  for (let i = 0; i < index.first.length; i++) {
    for (let b = 0; b < (index.count[i] ?? 0); b++) {
      const block = (index.first[i] ?? 0) + b;
      if (wanted.has(block)) continue;
      const last = runs.at(-1);
      if (last !== undefined && last[0] + last[1] === block) last[1]++;
      else runs.push([block, 1]);
    }
  }
  return { layer, index, work: workOfRuns(index, runs) };
}

/** Blocks that layers of the same last point, later than this one, have: a new layer would come after them. */
async function hiddenBlocks({ disk, layer, blockBytes, reader }: Patient, history: MachineHistory): Promise<BlockSet> {
  const hidden = new BlockSet();
  const of = history.disks.get(disk);
  if (of === undefined) return hidden;
  const geometry = geometryOf(of.entry.sizeBytes, blockBytes);
  for (const other of [...of.bases, ...of.deltas]) {
    if (other.lastPoint !== layer.lastPoint || compareLayers(other, layer) <= 0) continue;
    if (other.kind === 'base') {
      // A base of the same point is what the segment was at it, as a newer base would be.
      if (layer.kind === 'base' || other.segment === null || other.segment >= geometry.segmentCount) continue;
      const { first, count } = segmentBlocks(geometry, other.segment);
      hidden.addRange(first, count);
      continue;
    }
    const index = await extentsOrNull(reader, other);
    if (index === null) throw notMovable(reader.nameOf(layer));
    for (let i = 0; i < index.first.length; i++) hidden.addRange(index.first[i] ?? 0, index.count[i] ?? 0);
  }
  if (layer.kind === 'delta' || layer.segment === null) return hidden;
  const { first, count } = segmentBlocks(geometry, layer.segment);
  return BlockSet.of(hidden.blocksIn(first, count));
}

function without(winner: Winner, hidden: BlockSet): Winner {
  if (hidden.isEmpty) return winner;
  const { pieces, zeroes } = winner.work;
  const runs = [...pieces.map(({ first, count }) => [first, count] as const), ...zeroes].sort((a, b) => a[0] - b[0]);
  const left = runs.flatMap(([first, count]) => [...freeRuns(hidden, first, count)]);
  return { ...winner, work: workOfRuns(winner.index, left) };
}

const hasBlocks = ({ work }: Winner): boolean => work.pieces.length > 0 || work.zeroes.length > 0;

function runsOf(blocks: Iterable<number>): [number, number][] {
  return [...BlockSet.of(blocks).extents()].map(({ first, count }) => [first, count]);
}

const REPAIR_ORDER = 'repair-order';

const notMovable = (name: string): AfterimageError =>
  new AfterimageError(`layer ${name} can't be put behind later layers of its point`, {
    code: REPAIR_ORDER,
    kind: 'refused',
    hint: 'Bring the object back from a copy of the store; newer points are whole once its agent has sent the blocks again.',
  });
