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
import { DeleteError, type KeptObject } from '../store/delete-error.js';
import type { ObjectInfo, ObjectStore } from '../store/store.js';
import { deletableManifests, gcPlan, namesOf, nextBoundary, type GcPins, type GcPlan, type Seen } from './gc-plan.js';
import type { MachineHistory } from './history.js';

export interface GcDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly delayMs: number;
}

/** What a process remembers between passes over one machine. */
export class GcMemory {
  seen: ReadonlyMap<string, Seen> = new Map();
  /** Objects that the store locks, and until when (wall time; 0: it doesn't say). */
  readonly locked = new Map<string, number>();
  /** Whether manifests below the boundary were looked for once: leftovers of a pass that was killed. */
  sweptManifests = false;
}

export interface GcResult {
  readonly plan: GcPlan;
  readonly deletedObjects: number;
  readonly deletedBytes: number;
  readonly deletedManifests: number;
  readonly boundary: number;
  /** The store keeps them by its own rule. */
  readonly lockedObjects: number;
  readonly problems: readonly string[];
}

/** The objects that GC looks at; all others of a machine are somebody else's to remove. */
async function listObjects(store: ObjectStore, machine: MachineId): Promise<ObjectInfo[]> {
  const objects: ObjectInfo[] = [];
  for (const folder of ['disks/', 'history/']) {
    for await (const object of store.list(`${machinePrefix(machine)}${folder}`)) objects.push(object);
  }
  return objects;
}

/** Reads only. `epoch` and `isInFlight` are of the owner; without one nothing of the newest epoch counts as garbage. */
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
  memory: GcMemory,
  pins: GcPins,
  signal: AbortSignal,
): Promise<GcResult> {
  const plan = await planGc(deps, history, memory, pins, owned.isInFlight);
  memory.seen = plan.seen;
  await owned.confirm();
  const nowMs = deps.clock.nowMs();
  const due = plan.deletable.filter(({ name }) => !((memory.locked.get(name) ?? -1) > nowMs));
  const objects = await deleteAll(
    deps.store,
    due.map(({ name }) => name),
    memory,
    signal,
  );
  const manifests = await collectManifests(deps, owned, memory, signal);
  const gone = new Set(objects.deleted);
  memory.seen = new Map([...plan.seen].filter(([name]) => !gone.has(name)));
  return {
    plan,
    deletedObjects: objects.deleted.length,
    deletedBytes: due.filter(({ name }) => gone.has(name)).reduce((sum, object) => sum + object.sizeBytes, 0),
    deletedManifests: manifests.deleted.length,
    boundary: manifests.boundary,
    lockedObjects: memory.locked.size,
    problems: [
      ...objects.problems,
      ...manifests.problems,
      ...plan.missing.map((name) => `${name} is named and not there`),
    ],
  };
}

interface Deleted {
  readonly deleted: readonly string[];
  readonly problems: readonly string[];
}

async function deleteAll(
  store: ObjectStore,
  names: readonly string[],
  memory: GcMemory,
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
    const still = new Set(kept.map((object) => object.name));
    for (const name of batch) {
      if (still.has(name)) continue;
      deleted.push(name);
      memory.locked.delete(name);
    }
    for (const { name, reason, lockedUntilMs, message } of kept) {
      if (reason === 'locked') memory.locked.set(name, lockedUntilMs ?? 0);
      else problems.push(`${name} could not be deleted: ${message}`);
    }
  }
  return { deleted, problems };
}

async function collectManifests(
  { store, clock }: GcDeps,
  owned: OwnedMachine,
  memory: GcMemory,
  signal: AbortSignal,
): Promise<Deleted & { readonly boundary: number }> {
  const head = owned.manifest;
  const machine = head.machine.id;
  const before = await readBoundary(store, machine);
  const next = nextBoundary({ head, boundary: before, keep: MANIFESTS_KEPT, step: BOUNDARY_STEP });
  if (next === null && memory.sweptManifests) return { deleted: [], problems: [], boundary: before };
  const boundary = next ?? before;
  if (next !== null) {
    const content = { version: 1, number: next, machine, epoch: head.epoch, writtenAtMs: clock.nowMs() };
    await store.createIfAbsent(boundaryName(machine, next), sealJson(content));
  }
  // What lay below the boundary before was collected when it was raised, but for what a killed pass left: looked for once.
  const after = memory.sweptManifests ? { after: manifestName(machine, before) } : {};
  const numbers: number[] = [];
  for await (const { name } of store.list(manifestPrefix(machine), after)) {
    const number = numberOfName(name);
    if (number > boundary) break;
    numbers.push(number);
  }
  const problems: string[] = [];
  const old = await deletableManifests({ head, numbers, boundary }, async (number) => {
    try {
      return (await readManifest(store, machine, number)).epochStart;
    } catch (error) {
      problems.push(messageOf(error));
      return null;
    }
  });
  const boundaries = await oldBoundaries(store, machine);
  const names = [...old.map((number) => manifestName(machine, number)), ...boundaries];
  const result = await deleteAll(store, names, memory, signal);
  memory.sweptManifests = !signal.aborted && result.problems.length === 0;
  return { ...result, problems: [...problems, ...result.problems], boundary };
}

/** All but the two highest: only the highest counts. */
async function oldBoundaries(store: ObjectStore, machine: MachineId): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of store.list(boundaryPrefix(machine))) names.push(name);
  return names.slice(0, -2);
}
