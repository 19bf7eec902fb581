/**
 * Upkeep of one machine: the tasks one after the other, each planned from the newest manifest and carried out in bounded steps through the OwnedMachine that
 * ingest commits with. Keeps between runs what makes the next cheaper (pages, what layers hold, when garbage was first seen), all of it expendable.
 *
 * On a crash anywhere: layers, pages and lists that no manifest names yet are orphans, which GC removes under the next epoch; the next run begins from
 * what the manifest says.
 */
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import {
  DROPPED_ENTRIES_MAX,
  DROPS_PER_COMMIT_MAX,
  MERGE_INPUT_BYTES_MAX,
  STEPS_PER_RUN,
} from '../../shared/limits-upkeep.js';
import type { Logger } from '../../shared/log.js';
import type { DiskId } from '../../shared/units.js';
import type { LayerRef, Manifest, RecoveryPoint } from '../catalog/manifest.js';
import type { RetentionPolicy } from '../catalog/policy.js';
import type { OwnedMachine } from '../catalog/owned-machine.js';
import type { ObjectStore } from '../store/store.js';
import { cancelled } from '../volume/plan-point.js';
import { applyEdit, NO_EDIT, type CatalogEdit, type ListEdit } from './apply-edit.js';
import { buildBases } from './build-bases.js';
import { buildShortcut, shortcutEdit } from './build-shortcuts.js';
import { layerKey, type Replacement } from './edit-history.js';
import { GcMemory, planGc, runGc, type GcResult } from './gc.js';
import { HeadCopy } from './head-copy.js';
import { CatalogCache, loadHistory, type DiskHistory, type MachineHistory } from './history.js';
import { basesAt, LayerStats } from './layer-stats.js';
import type { MergePlan, MergeStep } from './merge-plan.js';
import { BASE_LIMITS, type BaseLimits, type BaseStep } from './base-plan.js';
import type { GcPlan } from './gc-plan.js';
import type { RetentionPlan } from './retention.js';
import { indexesOf, readerOf, writeWinners, type MergeDeps } from './merge-layers.js';
import type { Pace } from './pace.js';
import { blocksPerSegment, learnLayers, readsOf, type DiskRead } from './disk-loads.js';
import { planBases, planMerges, planPoints, planShortcuts, withoutPoints } from './plan.js';
import { loadHeld, loadHeldAndEndPins } from './retention-held.js';
import type { ShortcutLimits, ShortcutStep } from './shortcut-plan.js';
import { newWork, UPKEEP_TASKS, type TaskResult, type UpkeepTask, type Work } from './task-result.js';
import type { SetAside } from './take-over.js';
import { winnersOf } from './winners.js';
import { compareLayers } from '../volume/read-plan.js';

export interface UpkeepDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly log: Logger;
  readonly pace: Pace;
  readonly deletionDelayMs: number;
  /** The machine's policy, or the receiver's default. Throws when it can't be read: then nothing is dropped. */
  readonly policyOf: (manifest: Manifest) => Promise<RetentionPolicy>;
  readonly bases?: Partial<BaseLimits>;
  readonly sortBytes?: number;
  readonly shortcuts?: ShortcutLimits;
}

/** The plans of all tasks. What points are dropped is taken for done by those of merges and bases. */
export interface DryRun {
  /** Not empty: nothing is dropped or deleted. */
  readonly blockers: readonly string[];
  readonly points: RetentionPlan<RecoveryPoint>;
  readonly merges: MergePlan;
  readonly shortcuts: readonly ShortcutStep[];
  readonly bases: readonly BaseStep[];
  readonly gc: GcPlan;
  /** As the machine is now. */
  readonly reads: readonly DiskRead[];
}

const SET_ASIDE_SHOWN = 20;

export class MachineUpkeep {
  readonly #deps: UpkeepDeps;
  readonly #cache: CatalogCache;
  readonly #limits: BaseLimits;
  readonly #stats = new LayerStats();
  readonly #gc = new GcMemory();
  readonly #head = new HeadCopy();
  /** Merges that can't be done, by their inputs: tried again by the next process. */
  readonly #refused = new Set<string>();
  /** Numbers of objects that tasks wrote, or began to, since the last collection: in flight until then, whatever became of them. */
  readonly #taken: { readonly epoch: number; readonly sequence: number }[] = [];
  readonly results = new Map<UpkeepTask, TaskResult>();
  /** What a restore of the newest point reads, as the last building of bases left it. */
  reads: readonly DiskRead[] = [];
  /** Of the last GC: what there is, and why it stays. */
  garbage: GcResult | null = null;
  /** Staged objects that were damaged when the machine was taken over: how many since the start, and the last. */
  setAside: { readonly count: number; readonly last: readonly SetAside[] } = { count: 0, last: [] };

  tookOver(setAside: readonly SetAside[]): void {
    const { count, last } = this.setAside;
    this.setAside = { count: count + setAside.length, last: [...last, ...setAside].slice(-SET_ASIDE_SHOWN) };
  }

  constructor(deps: UpkeepDeps) {
    this.#deps = deps;
    this.#limits = { ...BASE_LIMITS, ...deps.bases };
    this.#cache = new CatalogCache(deps.store);
  }

  /**
   * Runs the tasks in their order. A task that fails is noted, and the next goes on, unless the machine is lost: kind `fenced` is thrown, and so is
   * a cancel.
   */
  async run(
    owned: OwnedMachine,
    signal: AbortSignal,
    tasks: readonly UpkeepTask[] = UPKEEP_TASKS,
  ): Promise<TaskResult[]> {
    const done: TaskResult[] = [];
    for (const task of UPKEEP_TASKS) if (tasks.includes(task)) done.push(await this.#task(task, owned, signal));
    await this.keepHead(owned.manifest);
    return done;
  }

  /** What a run would do to the machine as it is in the store, with reasons. Changes nothing. */
  async dryRun(manifest: Manifest): Promise<DryRun> {
    const { store, clock, deletionDelayMs } = this.#deps;
    const history = await loadHistory(this.#cache, manifest);
    const held = await loadHeld(store, manifest.machine.id, clock.nowMs());
    const policy = await this.#deps.policyOf(manifest);
    const points = planPoints(history, policy, clock.nowMs(), held.points);
    const after = withoutPoints(history, new Set(points.drop.map(({ point }) => point.number)));
    await learnLayers(store, after, this.#stats, this.#limits);
    const gc = await planGc({ store, clock, delayMs: deletionDelayMs }, history, this.#gc, held.pins, () => true);
    return {
      blockers: held.blockers,
      points,
      merges: planMerges(after, this.#stats),
      shortcuts: [...planShortcuts(after, this.#deps.shortcuts).values()].flatMap((plan) => plan.steps),
      bases: [...planBases(after, this.#stats, this.#limits).values()].flatMap((plan) => plan.steps),
      gc,
      reads: readsOf(history, this.#stats, this.#limits),
    };
  }

  /**
   * Whether a run would change anything, as far as reading tells: for a machine that would have to be taken over first. Sees garbage as GC does, so a
   * second look after the delay finds it due.
   */
  async hasWork(manifest: Manifest): Promise<boolean> {
    const { store, clock, deletionDelayMs } = this.#deps;
    const history = await loadHistory(this.#cache, manifest);
    const held = await loadHeld(store, manifest.machine.id, clock.nowMs());
    if (held.blockers.length > 0) return false;
    const policy = await this.#deps.policyOf(manifest);
    const points = planPoints(history, policy, clock.nowMs(), held.points);
    if (points.drop.length > 0) return true;
    await learnLayers(store, history, this.#stats, this.#limits);
    if (planMerges(history, this.#stats).steps.some((step) => !this.#refused.has(stepKey(step)))) return true;
    if ([...planShortcuts(history, this.#deps.shortcuts).values()].some((plan) => plan.steps.length > 0)) return true;
    const bases = planBases(history, this.#stats, this.#limits);
    if ([...bases.values()].some((plan) => plan.steps.length > 0)) return true;
    // What the newest epoch left may be in flight with whoever has it.
    const plan = await planGc({ store, clock, delayMs: deletionDelayMs }, history, this.#gc, held.pins, () => true);
    this.#gc.seen = plan.seen;
    return plan.deletable.some(({ name }) => !this.#gc.locked.isLocked(name, clock.nowMs()));
  }

  /** Also for a machine that nobody owns and that has no work: a copy needs no ownership. */
  keepHead(manifest: Manifest): Promise<void> {
    return this.#head.keep(this.#deps.store, manifest);
  }

  async #task(task: UpkeepTask, owned: OwnedMachine, signal: AbortSignal): Promise<TaskResult> {
    const work = newWork();
    let problem: string | null = null;
    try {
      await this.#carryOut(task, owned, work, signal);
    } catch (error) {
      if (!(error instanceof AfterimageError) || error.kind === 'fenced' || error.kind === 'cancelled') throw error;
      problem = messageOf(error);
    }
    const result: TaskResult = { task, endedAtMs: this.#deps.clock.nowMs(), ...work, problem };
    this.results.set(task, result);
    this.#tell(owned, result);
    return result;
  }

  #tell(owned: OwnedMachine, { task, endedAtMs: _, problem, reasons, ...figures }: TaskResult): void {
    const { id, name } = owned.manifest.machine;
    const log = this.#deps.log.child({ machine: id, name, task });
    const said = Object.fromEntries(Object.entries(figures).filter(([, value]) => value > 0));
    if (problem !== null) log.warn({ ...said, problem }, `upkeep: ${task} failed: ${problem}`);
    else if (reasons.length > 0) log.info({ ...said, reasons: reasons.slice(0, 5) }, `upkeep: ${task}`);
  }

  async #carryOut(task: UpkeepTask, owned: OwnedMachine, work: Work, signal: AbortSignal): Promise<void> {
    if (task === 'retention') await this.#retention(owned, work, signal);
    else if (task === 'merge') await this.#merge(owned, work, signal);
    else if (task === 'shortcuts') await this.#shortcuts(owned, work, signal);
    else if (task === 'bases') await this.#bases(owned, work, signal);
    else await this.#collect(owned, work, signal);
  }

  #mergeDeps(owned: OwnedMachine, signal: AbortSignal): MergeDeps {
    const { store, pace, sortBytes } = this.#deps;
    return {
      store,
      owned,
      nextSequence: this.#sequencesOf(owned),
      pace,
      signal,
      ...(sortBytes === undefined ? {} : { sortBytes }),
    };
  }

  #sequencesOf(owned: OwnedMachine): () => number {
    return () => {
      const sequence = owned.nextSequence();
      this.#taken.push({ epoch: owned.epoch, sequence });
      return sequence;
    };
  }

  async #commit(owned: OwnedMachine, history: MachineHistory, edit: CatalogEdit, work: Work): Promise<void> {
    await applyEdit(this.#deps.store, owned, history, edit, this.#sequencesOf(owned));
    work.commits++;
  }

  /** Drops points as the policy says, oldest first, and merges in between when many are: entries of layers must not pile up in a page. */
  async #retention(owned: OwnedMachine, work: Work, signal: AbortSignal): Promise<void> {
    const { store, clock } = this.#deps;
    for (;;) {
      if (signal.aborted) throw cancelled('upkeep');
      const history = await loadHistory(this.#cache, owned.manifest);
      const machine = history.manifest.machine.id;
      const held = await loadHeld(store, machine, clock.nowMs());
      mustNotBeBlocked(held.blockers);
      const policy = await this.#deps.policyOf(history.manifest);
      const plan = planPoints(history, policy, clock.nowMs(), held.points);
      const { drop, isAll } = boundedDrops(
        history,
        plan.drop.map(({ point }) => point.number),
      );
      if (drop.size === 0) return;
      const check = async (): Promise<void> => {
        const now = await loadHeld(store, machine, clock.nowMs());
        mustNotBeBlocked(now.blockers);
        const held = [...drop].find((point) => now.points.has(point));
        if (held !== undefined) throw heldMeanwhile(held);
      };
      await this.#commit(owned, history, { ...NO_EDIT, drop, check }, work);
      work.droppedPoints += drop.size;
      work.reasons.push(
        ...plan.drop.slice(0, 3).map(({ point, reason }) => `point ${point.number} dropped: ${reason}`),
      );
      work.reasons.push(...plan.doubts);
      if (isAll) return;
      await this.#merge(owned, work, signal);
    }
  }

  async #merge(owned: OwnedMachine, work: Work, signal: AbortSignal): Promise<void> {
    for (let steps = 0; steps < STEPS_PER_RUN;) {
      const history = await loadHistory(this.#cache, owned.manifest);
      await learnLayers(this.#deps.store, history, this.#stats, this.#limits);
      const plan = planMerges(history, this.#stats);
      const todo = plan.steps.filter((step) => !this.#refused.has(stepKey(step)));
      if (todo.length === 0) return;
      const replace: Replacement[] = [];
      let bytes = 0;
      for (const step of todo) {
        if (bytes >= MERGE_INPUT_BYTES_MAX || steps >= STEPS_PER_RUN) break;
        if (signal.aborted) throw cancelled('upkeep');
        steps++;
        const done = await this.#mergeOne(owned, history, step, work, signal);
        if (done === null) continue;
        replace.push(done);
        bytes += step.inputs.reduce((sum, layer) => sum + layer.sizeBytes, 0);
        work.reasons.push(`${step.disk}: ${step.inputs.length} layers to ${done.outputs.length}: ${step.reason}`);
      }
      if (replace.length === 0) continue;
      await this.#commit(owned, history, { ...NO_EDIT, replace }, work);
      for (const one of replace) {
        work.mergedLayers += one.inputs.length;
        work.writtenLayers += one.outputs.length;
      }
    }
  }

  /** Null when it can't be done: it isn't tried again by this process. */
  async #mergeOne(
    owned: OwnedMachine,
    history: MachineHistory,
    step: MergeStep,
    work: Work,
    signal: AbortSignal,
  ): Promise<Replacement | null> {
    const disk = history.disks.get(step.disk);
    if (disk === undefined) return null;
    const deps = this.#mergeDeps(owned, signal);
    const { blockBytes } = disk.entry;
    const { disk: id, inputs, firstPoint, lastPoint } = step;
    try {
      const reader = readerOf(deps, id, blockBytes);
      const indexed = await indexesOf(reader, inputs);
      const winners = winnersOf(indexed, step.bottom ? { needed: notHidden(disk, blockBytes) } : {});
      const none = { layers: [], readBytes: 0, writtenBytes: 0, copiedChunks: 0 };
      const what = { disk: id, blockBytes, kind: 'delta' as const, segment: null, firstPoint, lastPoint };
      const made = winners.length === 0 ? none : await writeWinners(deps, reader, winners, what);
      work.readBytes += made.readBytes;
      work.writtenBytes += made.writtenBytes;
      return { disk: id, inputs, outputs: made.layers };
    } catch (error) {
      this.#refuse(error, stepKey(step), owned, id);
      return null;
    }
  }

  /** One damaged layer must not stop what has nothing to do with it; its points are named by verification and scrub. */
  #refuse(error: unknown, key: string, owned: OwnedMachine, disk: DiskId): void {
    if (!(error instanceof AfterimageError) || (error.kind !== 'corrupt' && error.code !== 'merge-too-large'))
      throw error;
    this.#refused.add(key);
    const { id: machine, name } = owned.manifest.machine;
    this.#deps.log.error({ err: error, machine, name, disk }, `upkeep: layers stay as they are: ${messageOf(error)}`);
  }

  /** One list for each disk, one commit for all of them. */
  async #shortcuts(owned: OwnedMachine, work: Work, signal: AbortSignal): Promise<void> {
    const deps = this.#mergeDeps(owned, signal);
    const history = await loadHistory(this.#cache, owned.manifest);
    const edits = new Map<DiskId, ListEdit>();
    const built: LayerRef[] = [];
    for (const [id, { steps, retired }] of planShortcuts(history, this.#deps.shortcuts)) {
      const disk = history.disks.get(id);
      if (disk === undefined) continue;
      const own: LayerRef[] = [];
      for (const step of steps.slice(0, STEPS_PER_RUN)) {
        if (signal.aborted) throw cancelled('upkeep');
        own.push(...(await this.#shortcut(owned, disk, step, work, signal)));
      }
      if (own.length === 0 && retired.length === 0 && disk.shortcuts !== null) continue;
      const kept = (disk.shortcuts ?? []).filter((shortcut) => !retired.includes(shortcut));
      edits.set(id, await shortcutEdit(deps, disk, [...kept, ...own]));
      built.push(...own);
    }
    if (edits.size === 0) return;
    await this.#commit(owned, history, { ...NO_EDIT, shortcuts: edits }, work);
    work.builtShortcuts += built.length;
  }

  /** None where it can't be built: it isn't tried again by this process. */
  async #shortcut(
    owned: OwnedMachine,
    disk: DiskHistory,
    step: ShortcutStep,
    work: Work,
    signal: AbortSignal,
  ): Promise<readonly LayerRef[]> {
    const key = `shortcut ${stepKey(step)}`;
    if (this.#refused.has(key)) return [];
    try {
      const made = await buildShortcut(this.#mergeDeps(owned, signal), step, disk);
      work.readBytes += made.readBytes;
      work.writtenBytes += made.writtenBytes;
      work.reasons.push(`${step.disk}: ${step.reason}`);
      return made.layers;
    } catch (error) {
      this.#refuse(error, key, owned, step.disk);
      return [];
    }
  }

  async #bases(owned: OwnedMachine, work: Work, signal: AbortSignal): Promise<void> {
    for (let round = 0; round < STEPS_PER_RUN; round++) {
      const history = await loadHistory(this.#cache, owned.manifest);
      await learnLayers(this.#deps.store, history, this.#stats, this.#limits);
      this.reads = readsOf(history, this.#stats, this.#limits);
      const plans = [...planBases(history, this.#stats, this.#limits)].filter(([id, plan]) => {
        const key = `bases ${id}`;
        return !this.#refused.has(key) && (plan.steps.length > 0 || isListed(history, id, plan.retired));
      });
      const [next] = plans;
      if (next === undefined) return;
      const [id, plan] = next;
      const disk = history.disks.get(id);
      if (disk === undefined) return;
      if (signal.aborted) throw cancelled('upkeep');
      try {
        const built = await buildBases(this.#mergeDeps(owned, signal), id, disk, plan);
        const bases = new Map([[id, { before: built.before, after: built.after }]]);
        await this.#commit(owned, history, { ...NO_EDIT, bases }, work);
        work.builtBases += built.built.length;
        work.readBytes += built.readBytes;
        work.writtenBytes += built.writtenBytes;
        work.reasons.push(
          ...plan.steps.slice(0, 3).map((s) => `${id}, segment ${s.segment} at point ${s.point}: ${s.reason}`),
        );
      } catch (error) {
        if (!(error instanceof AfterimageError) || (error.kind !== 'corrupt' && error.code !== 'merge-too-large'))
          throw error;
        this.#refused.add(`bases ${id}`);
        throw error;
      }
    }
  }

  async #collect(owned: OwnedMachine, work: Work, signal: AbortSignal): Promise<void> {
    const { store, clock, deletionDelayMs } = this.#deps;
    await owned.settle();
    // Nothing is written by tasks now, and no commit is in doubt: what the manifest doesn't name of theirs, a failed task left.
    owned.landed(this.#taken.splice(0));
    // With the manifest: a layer that lands while things are listed would be taken for one that nobody names, and for how long is remembered.
    const isInFlight = owned.inFlightNow();
    const history = await loadHistory(this.#cache, owned.manifest);
    const held = await loadHeldAndEndPins(store, history.manifest.machine.id, clock.nowMs(), this.#gc.lockedPins);
    mustNotBeBlocked(held.blockers);
    const gc = { store, clock, delayMs: deletionDelayMs };
    const result = await runGc(gc, owned, history, isInFlight, this.#gc, held.pins, signal);
    this.garbage = result;
    this.#stats.retain(liveKeys(history));
    work.deletedObjects += result.deleted.length + result.deletedManifests;
    work.deletedBytes += result.deleted.reduce((sum, object) => sum + object.sizeBytes, 0);
    if (work.deletedObjects > 0) work.reasons.push(...reasonsOf(result));
    const [problem] = result.problems;
    if (problem === undefined) return;
    throw new AfterimageError(
      `${problem}${result.problems.length > 1 ? ` (and ${result.problems.length - 1} more)` : ''}`,
      {
        code: 'gc-problems',
        kind: 'io',
      },
    );
  }
}

const stepKey = ({ disk, inputs }: Pick<MergeStep, 'disk' | 'inputs'>): string =>
  inputs.map((layer) => layerKey(disk, layer)).join(' ');

/** Blocks that the bases at the oldest point hide are of no use to any listed point. */
function notHidden(
  { bases, points }: DiskHistory,
  blockBytes: number,
): { blocksPerSegment: number; isNeeded: (layer: LayerRef, segment: number) => boolean } {
  const atOldest = basesAt(bases, points[0] ?? 0);
  return {
    blocksPerSegment: blocksPerSegment(blockBytes),
    isNeeded: (layer, segment) => {
      const base = atOldest.get(segment);
      return base === undefined || compareLayers(layer, base) > 0;
    },
  };
}

const isListed = (history: MachineHistory, id: DiskId, bases: readonly LayerRef[]): boolean =>
  bases.some((base) => history.disks.get(id)?.listedBases.includes(base) === true);

function liveKeys(history: MachineHistory): Set<string> {
  const keys = new Set<string>();
  for (const [disk, { deltas, bases, shortcuts }] of history.disks)
    for (const layer of [...deltas, ...bases, ...(shortcuts ?? [])]) keys.add(layerKey(disk, layer));
  return keys;
}

function reasonsOf({ deleted, deletedManifests, boundary }: GcResult): string[] {
  const lines = deleted.slice(0, 3).map(({ name, reason }) => `${name}: ${reason}`);
  if (deletedManifests > 0) lines.push(`${deletedManifests} manifests up to ${boundary}`);
  return lines;
}

/** The oldest of them, as many as one commit may drop. */
function boundedDrops(
  history: MachineHistory,
  drop: readonly number[],
): { readonly drop: ReadonlySet<number>; readonly isAll: boolean } {
  const entries = new Map<number, number>();
  for (const { deltas } of history.disks.values())
    for (const { lastPoint } of deltas) entries.set(lastPoint, (entries.get(lastPoint) ?? 0) + 1);
  const bounded: number[] = [];
  let moved = 0;
  for (const point of drop) {
    moved += entries.get(point) ?? 0;
    if (bounded.length > 0 && (bounded.length >= DROPS_PER_COMMIT_MAX || moved > DROPPED_ENTRIES_MAX)) break;
    bounded.push(point);
  }
  return { drop: new Set(bounded), isAll: bounded.length === drop.length };
}

function mustNotBeBlocked(blockers: readonly string[]): void {
  const [first] = blockers;
  if (first === undefined) return;
  throw new AfterimageError(`nothing is dropped or deleted: ${first}`, {
    code: 'upkeep-blocked',
    kind: 'refused',
    hint: 'Nobody knows what it protects. Remove the object once that is known.',
  });
}

const heldMeanwhile = (point: number): AfterimageError =>
  new AfterimageError(`point ${point} was pinned or held in the meantime`, {
    code: 'history-moved',
    kind: 'refused',
    hint: 'Nothing was changed; it is tried again.',
  });
