/**
 * Mends layers of one disk of which nobody knows what they held, all of them at once: one that is lost must not stand in the way of another. Asks the agent
 * for what they may have held, has new ones made, and commits them in the place of the old by one manifest; points that can't be told any more are not
 * listed from there on, unless one is held or pinned: then nothing is done.
 * On a crash: when the blocks were asked for is noted before; what the agent has sent by then is in points of the chain, and is found again.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import { AfterimageError } from '../../shared/errors.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import type { DamageItem, PointRange } from '../catalog/damage.js';
import type { LayerRef, RecoveryPoint } from '../catalog/manifest.js';
import type { MachineHistory } from './history.js';
import { loadHeld } from './retention-held.js';
import { askFor } from './scrub-ask.js';
import { lossCase, notSent, openBlocks, rebuildLayers, type LossCase } from './scrub-rebuild.js';
import { replaceLayers } from './scrub-replace.js';
import type { RepairDeps } from './scrub-repair.js';
import type { LayerReader } from '../volume/layer-reader.js';

export interface LostItem {
  readonly item: DamageItem;
  readonly layer: LayerRef;
  /** What its chunks say, if they are there: to be proven. */
  readonly index: LayerIndex | null;
}

type Change = Pick<DamageItem, 'state' | 'reason' | 'askedAfter'>;

export interface UnknownDeps extends RepairDeps {
  /** All that is known to be damaged of the machine. */
  readonly damage: readonly DamageItem[];
  readonly history: () => Promise<MachineHistory>;
  readonly mark: (item: DamageItem, change: Change) => Promise<void>;
}

export interface UnknownResult {
  /** Points that are not listed any more. */
  readonly lost: readonly PointRange[];
  /** Where the new layers are from. */
  readonly from: string;
}

export async function repairUnknown(
  deps: UnknownDeps,
  reader: LayerReader,
  items: readonly LostItem[],
): Promise<UnknownResult> {
  const asked = await ask(deps, reader, items);
  const history = await deps.history();
  const of = caseOf(deps, reader, history, items, asked.after);
  const { made, broken } = await rebuildLayers(deps, of, (layers) => deps.owned.landed(layers));
  if (broken.length > 0 && items.some(({ index }) => index !== null)) {
    // What the chunks said was not all of it.
    deps.owned.landed(made.flat());
    return repairUnknown(
      deps,
      reader,
      items.map(({ item, layer, index }) => ({ item: index === null ? asked.noted(item) : item, layer, index: null })),
    );
  }
  const drop = new Set(broken.map(({ number }) => number));
  const check = (): Promise<void> => mustNotBeHeld(deps, drop);
  await check().catch((error: unknown) => {
    // Tried again and again until it is released: what was made for nothing must not pile up.
    deps.owned.landed(made.flat());
    throw error;
  });
  const replaced = of.lost.map(({ layer }, i) => ({ layer, outputs: made[i] ?? [] }));
  await replaceLayers(deps, history, reader.owner.disk, replaced, drop, check);
  return { lost: rangesOf(broken), from: asked.from };
}

function caseOf(
  { damage }: UnknownDeps,
  reader: LayerReader,
  history: MachineHistory,
  items: readonly LostItem[],
  askedAfter: (item: DamageItem) => number,
): LossCase {
  const disk = history.disks.get(reader.owner.disk);
  if (disk === undefined) throw diskIsGone(reader.owner.disk);
  const lost = items.map(({ item, layer, index }) => ({ layer, index, askedAfter: askedAfter(item) }));
  return lossCase(reader, history, disk, lost, damage);
}

interface Asked {
  /** The last point there was when the blocks of an item were asked for. */
  readonly after: (item: DamageItem) => number;
  /** The item with that in it. */
  readonly noted: (item: DamageItem) => DamageItem;
  readonly from: string;
}

/** Has the agent send what it has not sent yet. */
async function ask(deps: UnknownDeps, reader: LayerReader, items: readonly LostItem[]): Promise<Asked> {
  const history = await deps.history();
  const { lastPoint } = history.manifest;
  const after = (item: DamageItem): number => item.askedAfter ?? lastPoint;
  const noted = (item: DamageItem): DamageItem => ({ ...item, askedAfter: after(item) });
  const of = caseOf(deps, reader, history, items, after);
  const unknown = of.lost.filter(({ index }) => index === null);
  if (unknown.length === 0) return { after, noted, from: 'made anew of its own chunks' };
  const wanted = new BlockSet();
  let isOpen = false;
  for (const one of unknown) {
    const open = await openBlocks(of, one);
    isOpen ||= !open.isEmpty;
    wanted.addAll(await notSent(of, open, one.askedAfter));
  }
  for (const { item, index } of items) {
    if (index !== null) continue;
    const reason = `${wanted.size} blocks were asked of the agent`;
    await deps.mark(item, { state: 'asked', reason, askedAfter: after(item) });
  }
  if (!isOpen) return { after, noted, from: 'all of it was overwritten since' };
  const point = wanted.isEmpty ? lastPoint : await askFor(deps, reader.owner.disk, wanted);
  return { after, noted, from: `its agent sent what is left of it with point ${point ?? lastPoint}` };
}

async function mustNotBeHeld(
  { store, clock, owned, wholeCopy }: UnknownDeps,
  drop: ReadonlySet<number>,
): Promise<void> {
  if (drop.size === 0) return;
  const held = await loadHeld(store, owned.manifest.machine.id, clock.nowMs(), wholeCopy?.() ?? null);
  const first = [...drop].find((point) => held.points.has(point));
  if (first !== undefined) throw isHeld(`point ${first} is kept (${held.points.get(first)?.join('; ') ?? ''})`);
  if (held.blockers.length > 0) throw isHeld(held.blockers.join('; '));
}

/** Neighbours in the list of points stay apart: what lies between two numbers may be listed. */
const rangesOf = (points: readonly RecoveryPoint[]): PointRange[] =>
  points.map(({ number, cutAtMs }) => ({
    first: number,
    last: number,
    firstCutAtMs: cutAtMs,
    lastCutAtMs: cutAtMs,
  }));

const isHeld = (why: string): AfterimageError =>
  new AfterimageError(`${why}: it would be lost with the layer`, {
    code: 'repair-held',
    kind: 'refused',
    hint: 'Release it with `afterimage release`, or bring the object back from a copy of the store.',
  });

const diskIsGone = (disk: string): AfterimageError =>
  new AfterimageError(`disk ${disk} has left the machine`, {
    code: 'disk-gone',
    kind: 'refused',
    hint: 'Nothing of it is needed any more.',
  });
