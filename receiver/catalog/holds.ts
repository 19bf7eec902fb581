/**
 * Holds ("legal hold"): points that stay, by a name that a person gave, until a person releases them. Numbered, immutable objects
 * (`machines/<m>/holds/<n>`), each with all holds of its time: the highest counts, the older ones are the history of who held what.
 *
 * Promise: a hold that is `confirmed` is kept. Whoever drops points reads the holds while nobody can commit in between: after manifest N stood, and
 * drops points in N+1 or not at all. So N+1 is the last manifest that can drop a point although it was held when N stood: a point that N+1 still
 * lists stays.
 * On a crash: the new number is there or it isn't.
 */
import { z } from 'zod';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, corrupt, usageError } from '../../shared/errors.js';
import { HOLD_CONFIRM_MS, HOLD_CONFIRM_POLL_MS, HOLDS_BYTES_MAX, HOLDS_MAX } from '../../shared/limits-retention.js';
import type { MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { holdsName, holdsPrefix, numberOfName } from './names.js';
import { createNumbered } from './numbered.js';
import { MachineReader } from './reader.js';
import { openSealedJson, sealJson } from './sealed-json.js';
import { highestOfEither, readEither } from './second-copies.js';

export const HOLDS_VERSION = 1;

const count = z.number().int().nonnegative();

export const holdSchema = z.strictObject({
  name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/),
  point: count.min(1),
  note: z.string().max(500),
  heldAtMs: count,
});
export type Hold = z.infer<typeof holdSchema>;

export const holdsSchema = z.strictObject({
  version: z.literal(HOLDS_VERSION),
  number: count.min(1),
  writtenAtMs: count,
  /** What this number changed, for people: `hold LEGAL-17`, `release LEGAL-17`. */
  change: z.string().max(200),
  holds: z.array(holdSchema).max(HOLDS_MAX),
});
export type Holds = z.infer<typeof holdsSchema>;

/** Those that count; null when nothing was ever held. Throws when they can't be read: then nothing may be dropped. */
export async function loadHolds(store: ObjectStore, machine: MachineId): Promise<Holds | null> {
  const newest = await highestOfEither(store, holdsPrefix(machine));
  if (newest === null) return null;
  const holds = await readEither(store, newest, HOLDS_BYTES_MAX, (bytes) => {
    const found = openSealedJson(bytes, holdsSchema, HOLDS_VERSION, newest);
    if (found.number === numberOfName(newest)) return found;
    throw corrupt('holds-misplaced', `object ${newest} holds number ${found.number}`);
  });
  if (holds !== null) return holds;
  throw corrupt('holds-missing', `object ${newest} is not in the store`);
}

/** The live holds of a machine. */
export const readHolds = async (store: ObjectStore, machine: MachineId): Promise<readonly Hold[]> =>
  (await loadHolds(store, machine))?.holds ?? [];

export interface HoldDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
}

/** Holds a point by a new name. Throws, with nothing changed, when the name is in use or somebody else changed the holds at the same time. */
export async function addHold(deps: HoldDeps, machine: MachineId, hold: Omit<Hold, 'heldAtMs'>): Promise<Hold> {
  const before = await loadHolds(deps.store, machine);
  const same = before?.holds.find((h) => h.name === hold.name);
  if (same !== undefined) {
    throw new AfterimageError(`the name ${hold.name} holds point ${same.point} already`, {
      code: 'hold-exists',
      kind: 'refused',
      hint: 'Give another name, or release that one first.',
    });
  }
  if ((before?.holds.length ?? 0) >= HOLDS_MAX) {
    throw new AfterimageError(`the machine has ${HOLDS_MAX} holds, which is the most there can be`, {
      code: 'holds-full',
      kind: 'refused',
      hint: 'Release those that are needed no more.',
    });
  }
  const made = { ...hold, heldAtMs: deps.clock.nowMs() };
  await writeHolds(deps, machine, before, `hold ${hold.name}`, [...(before?.holds ?? []), made]);
  return made;
}

/** Lets the point of a hold go its way. */
export async function removeHold(deps: HoldDeps, machine: MachineId, name: string): Promise<Hold> {
  const before = await loadHolds(deps.store, machine);
  const found = before?.holds.find((h) => h.name === name);
  if (found === undefined) {
    const names = before?.holds.map((h) => h.name).join(', ') ?? '';
    throw usageError(`the machine has no hold ${name}`, `Its holds: ${names === '' ? 'none' : names}.`);
  }
  const rest = (before?.holds ?? []).filter((h) => h !== found);
  await writeHolds(deps, machine, before, `release ${name}`, rest);
  return found;
}

async function writeHolds(
  { store, clock }: HoldDeps,
  machine: MachineId,
  before: Holds | null,
  change: string,
  holds: readonly Hold[],
): Promise<void> {
  const number = (before?.number ?? 0) + 1;
  const object = { version: HOLDS_VERSION, number, writtenAtMs: clock.nowMs(), change, holds };
  if (await createNumbered(store, holdsName(machine, number), sealJson(object))) return;
  throw new AfterimageError(`the holds of machine ${machine} were changed by somebody else at the same time`, {
    code: 'holds-moved',
    kind: 'refused',
    hint: 'Look at them (`afterimage points`) and try again; nothing of this was written.',
  });
}

/**
 * After a hold was written: whether its point is safe by now. `kept`: for good. `gone`: retention had decided before it saw the hold. `waiting`:
 * the point is listed, but no manifest came within HOLD_CONFIRM_MS that would tell.
 */
export async function confirmHold(
  { store, clock }: HoldDeps,
  machine: MachineId,
  point: number,
  signal?: AbortSignal,
): Promise<'kept' | 'gone' | 'waiting'> {
  const startMs = clock.monotonicMs();
  let first: number | null = null;
  for (;;) {
    const view = await MachineReader.open(store, machine);
    const { number } = view.manifest;
    first ??= number;
    if (!(await view.hasPoint(point))) return 'gone';
    if (number > first) return 'kept';
    if (signal?.aborted === true || clock.monotonicMs() - startMs >= HOLD_CONFIRM_MS) return 'waiting';
    await clock.sleep(HOLD_CONFIRM_POLL_MS, signal);
  }
}
