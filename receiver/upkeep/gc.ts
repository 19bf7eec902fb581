/**
 * One pass of garbage collection over a machine: lists its objects, plans, and deletes what the plan says. The order that makes it safe:
 * ownership is confirmed after the plan was made and before anything is deleted; the boundary stands before the manifests below it go.
 *
 * Remembers in memory when it first saw an object unnamed: after a restart the delay begins anew. On a crash: some are deleted, the rest is found again.
 */
import { messageOf } from '../../shared/errors.js';
import { failpoint } from '../../shared/failpoints.js';
import { BOUNDARY_STEP, DELETE_BATCH, MANIFESTS_KEPT } from '../../shared/limits-upkeep.js';
import type { Clock } from '../../shared/clock.js';
import type { MachineId } from '../../shared/units.js';
import { readBoundary, readManifest } from '../catalog/manifest-io.js';
import {
  boundaryName,
  boundaryPrefix,
  machinePrefix,
  manifestName,
  manifestPrefix,
  numberOfName,
} from '../catalog/names.js';
import type { OwnedMachine } from '../catalog/owned-machine.js';
import { sealJson } from '../catalog/sealed-json.js';
import { COPIES } from '../catalog/second-copies.js';
import { DeleteError, type KeptObject } from '../store/delete-error.js';
import { LockedNames } from '../store/locked-names.js';
import type { ObjectInfo, ObjectStore } from '../store/store.js';
import {
  deletableManifests,
  gcPlan,
  namesOf,
  nextBoundary,
  type Count,
  type GcPins,
  type GcPlan,
  type Seen,
} from './gc-plan.js';
import type { MachineHistory } from './history.js';

export interface GcDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly delayMs: number;
}

/** What a process remembers between passes over one machine. */
export class GcMemory {
  seen: ReadonlyMap<string, Seen> = new Map();
  /** Layers, pages and lists that the store keeps by its own rule. */
  readonly locked = new LockedNames();
  /** The same of manifests and boundaries; of the former, those that were asked for. */
  readonly lockedManifests = new LockedNames();
  readonly lockedPins = new LockedNames();
  /**
   * Manifests up to this number were collected. From 0 at a start: a pass that was killed may have left some below the boundary. What the store locks
   * holds it back, so that they are found again when their lock ends.
   */
  sweptUpTo = 0;
}

export interface GcResult {
  readonly plan: GcPlan;
  readonly deleted: GcPlan['deletable'];
  readonly deletedManifests: number;
  readonly boundary: number;
  /** Of what the plan would delete, what the store keeps by its own rule for now. */
  readonly locked: Count;
  readonly problems: readonly string[];
}

/** The objects that GC looks at; all others of a machine are somebody else's to remove. */
async function listObjects(store: ObjectStore, machine: MachineId): Promise<ObjectInfo[]> {
  const objects: ObjectInfo[] = [];
  for (const folder of ['disks/', 'history/', `${COPIES}disks/`, `${COPIES}history/`]) {
    for await (const object of store.list(`${machinePrefix(machine)}${folder}`)) objects.push(object);
  }
  return objects;
}

/**
 * Reads only. `isInFlight` is of the owner, as of the moment when the manifest of `history` was the newest: what landed since is not named there. Without an
 * owner nothing of the newest epoch counts as garbage.
 */
export async function planGc(
  { store, clock, delayMs }: GcDeps,
  history: MachineHistory,
  memory: Pick<GcMemory, 'seen'>,
  pins: GcPins,
  isInFlight: (sequence: number) => boolean,
): Promise<GcPlan> {
  const { machine, epoch, number } = history.manifest;
  return gcPlan({
    machine: machine.id,
    epoch,
    manifest: number,
    named: namesOf(history),
    objects: await listObjects(store, machine.id),
    isInFlight,
    pins,
    seen: memory.seen,
    nowMonotonicMs: clock.monotonicMs(),
    delayMs,
  });
}

export async function runGc(
  deps: GcDeps,
  owned: OwnedMachine,
  history: MachineHistory,
  isInFlight: (sequence: number) => boolean,
  memory: GcMemory,
  pins: GcPins,
  signal: AbortSignal,
): Promise<GcResult> {
  const plan = await planGc(deps, history, memory, pins, isInFlight);
  memory.seen = plan.seen;
  await owned.confirm();
  const nowMs = deps.clock.nowMs();
  const deletable = new Set(namesIn(plan.deletable));
  memory.locked.retain((name) => deletable.has(name));
  const due = plan.deletable.filter(({ name }) => !memory.locked.isLocked(name, nowMs));
  const objects = await deleteAll(deps, namesIn(due), memory.locked, signal);
  const manifests = await collectManifests(deps, owned, memory, signal);
  const gone = new Set(objects.deleted);
  memory.seen = new Map([...plan.seen].filter(([name]) => !gone.has(name)));
  return {
    plan,
    deleted: due.filter(({ name }) => gone.has(name)),
    deletedManifests: manifests.deleted.length,
    boundary: manifests.boundary,
    locked: countOf(plan.deletable.filter(({ name }) => memory.locked.has(name))),
    problems: [
      ...objects.problems,
      ...manifests.problems,
      ...plan.missing.map((name) => `${name} is named and not there`),
    ],
  };
}

const namesIn = (objects: readonly ObjectInfo[]): string[] => objects.map(({ name }) => name);

const countOf = (objects: readonly ObjectInfo[]): Count => ({
  objects: objects.length,
  bytes: objects.reduce((sum, object) => sum + object.sizeBytes, 0),
});

interface Deleted {
  readonly deleted: readonly string[];
  readonly problems: readonly string[];
}

/** What the store locks is no problem: it goes into `locked`. */
async function deleteAll(
  { store, clock }: Pick<GcDeps, 'store' | 'clock'>,
  names: readonly string[],
  locked: LockedNames,
  signal: AbortSignal,
): Promise<Deleted> {
  const deleted: string[] = [];
  const problems: string[] = [];
  for (let i = 0; i < names.length && !signal.aborted; i += DELETE_BATCH) {
    const batch = names.slice(i, i + DELETE_BATCH);
    const kept = await store.deleteMany(batch).then(
      () => [] as readonly KeptObject[],
      (error: unknown) => {
        if (error instanceof DeleteError) return error.kept;
        throw error;
      },
    );
    failpoint('receiver.upkeep.batch-deleted');
    locked.note(batch, kept, clock.nowMs());
    const still = new Set(kept.map((object) => object.name));
    deleted.push(...batch.filter((name) => !still.has(name)));
    for (const { name, reason, message } of kept)
      if (reason === 'failed') problems.push(`${name} could not be deleted: ${message}`);
  }
  return { deleted, problems };
}

async function collectManifests(
  deps: GcDeps,
  owned: OwnedMachine,
  memory: GcMemory,
  signal: AbortSignal,
): Promise<Deleted & { readonly boundary: number }> {
  const { store, clock } = deps;
  const head = owned.manifest;
  const machine = head.machine.id;
  const before = await readBoundary(store, machine);
  const next = nextBoundary({ head, boundary: before, keep: MANIFESTS_KEPT, step: BOUNDARY_STEP });
  const boundary = next ?? before;
  const deleted: string[] = [];
  const problems: string[] = [];
  if (next !== null) {
    const content = { version: 1, number: next, machine, epoch: head.epoch, writtenAtMs: clock.nowMs() };
    await store.createIfAbsent(boundaryName(machine, next), sealJson(content));
  }
  if (next !== null || memory.sweptUpTo === 0) {
    const old = dueOf(await oldBoundaries(store, machine), memory, clock.nowMs());
    const result = await deleteAll(deps, old, memory.lockedManifests, signal);
    deleted.push(...result.deleted);
    problems.push(...result.problems);
  }
  while (memory.sweptUpTo < boundary && !signal.aborted) {
    const swept = await sweepManifests(deps, owned, boundary, memory, signal);
    deleted.push(...swept.deleted);
    problems.push(...swept.problems);
    if (!swept.goesOn) break;
  }
  return { deleted, problems, boundary };
}

/** One batch of manifests up to the boundary, from the lowest that was not collected on. */
async function sweepManifests(
  deps: GcDeps,
  owned: OwnedMachine,
  boundary: number,
  memory: GcMemory,
  signal: AbortSignal,
): Promise<Deleted & { readonly goesOn: boolean }> {
  const { store, clock } = deps;
  const head = owned.manifest;
  const machine = head.machine.id;
  const first = manifestName(machine, memory.sweptUpTo + 1);
  // The lowest that is locked was locked first: before it, none of those above can go.
  if (memory.lockedManifests.isLocked(first, clock.nowMs())) return { deleted: [], problems: [], goesOn: false };
  const numbers = await manifestNumbers(store, machine, memory.sweptUpTo, boundary);
  const problems: string[] = [];
  const old = await deletableManifests({ head, numbers, boundary }, async (number) => {
    try {
      return (await readManifest(store, machine, number)).epochStart;
    } catch (error) {
      problems.push(messageOf(error));
      return null;
    }
  });
  const names = old.map((number) => manifestName(machine, number));
  const result = await deleteAll(deps, dueOf(names, memory, clock.nowMs()), memory.lockedManifests, signal);
  const gone = new Set(result.deleted);
  const stays = names.find((name) => !gone.has(name));
  const isLast = numbers.length < DELETE_BATCH;
  memory.sweptUpTo = stays !== undefined ? numberOfName(stays) - 1 : isLast ? boundary : (numbers.at(-1) ?? boundary);
  const isBoundary = (name: string): boolean => name.startsWith(boundaryPrefix(machine));
  memory.lockedManifests.retain((name) => isBoundary(name) || numberOfName(name) > memory.sweptUpTo);
  return { deleted: result.deleted, problems: [...problems, ...result.problems], goesOn: stays === undefined };
}

const dueOf = (names: readonly string[], memory: GcMemory, nowMs: number): string[] =>
  names.filter((name) => !memory.lockedManifests.isLocked(name, nowMs));

/** Those that are there after one number and up to another, the lowest of them as many as one deletion takes. */
async function manifestNumbers(store: ObjectStore, machine: MachineId, after: number, upTo: number): Promise<number[]> {
  const numbers: number[] = [];
  for await (const { name } of store.list(manifestPrefix(machine), { after: manifestName(machine, after) })) {
    const number = numberOfName(name);
    if (number > upTo) break;
    numbers.push(number);
    if (numbers.length === DELETE_BATCH) break;
  }
  return numbers;
}

/** All but the two highest: only the highest counts. */
async function oldBoundaries(store: ObjectStore, machine: MachineId): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of store.list(boundaryPrefix(machine))) names.push(name);
  return names.slice(0, -2);
}
