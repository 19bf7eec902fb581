/**
 * Reads and writes the list of what is damaged, and the notes of the scrub. No decisions here.
 * On a crash: an object exists whole or not at all; of two writers at once one finds the other's list and adds to it.
 */
import type { z } from 'zod';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, corrupt } from '../../shared/errors.js';
import { DAMAGE_BYTES_MAX, SCRUB_NOTE_BYTES_MAX } from '../../shared/limits-scrub.js';
import type { MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { bounded, DAMAGE_VERSION, damageSchema, type Damage, type DamageItem } from './damage.js';
import { damageName, damagePrefix, numberOfName, scrubName, scrubPrefix } from './names.js';
import { SCRUB_NOTE_VERSION, scrubNoteSchema, type ScrubNote } from './scrub-note.js';
import { openSealedJson, sealJson } from './sealed-json.js';
import { createWithCopy, highestOfEither, namesOfEither, readEither } from './second-copies.js';

/** Tries against others who write at the same time. */
const WRITE_TRIES = 16;

interface Numbered {
  readonly number: number;
  readonly machine: MachineId;
}

async function read<T extends Numbered>(
  store: ObjectStore,
  machine: MachineId,
  name: string,
  bytesMax: number,
  schema: z.ZodType<T>,
  version: number,
): Promise<T> {
  const read = await readEither(store, name, bytesMax, (bytes) => {
    const value = openSealedJson(bytes, schema, version, name);
    if (value.number === numberOfName(name) && value.machine === machine) return value;
    throw corrupt('record-misplaced', `object ${name} holds number ${value.number} of machine ${value.machine}`);
  });
  if (read !== null) return read;
  throw corrupt('record-missing', `object ${name} is not in the store`);
}

/** Null: nothing was ever found. */
export async function loadDamage(store: ObjectStore, machine: MachineId): Promise<Damage | null> {
  const name = await highestOfEither(store, damagePrefix(machine));
  return name === null ? null : read(store, machine, name, DAMAGE_BYTES_MAX, damageSchema, DAMAGE_VERSION);
}

/** Null: no scrub was ever noted. Notes have no second copies: the next pass writes another. */
export async function loadScrubNote(store: ObjectStore, machine: MachineId): Promise<ScrubNote | null> {
  let name: string | null = null;
  for await (const object of store.list(scrubPrefix(machine))) name = object.name;
  return name === null ? null : read(store, machine, name, SCRUB_NOTE_BYTES_MAX, scrubNoteSchema, SCRUB_NOTE_VERSION);
}

/** The newest note that can be read, what is wrong with newer ones, and the highest number, be it readable or not: the next note comes after it. */
export async function lastScrubNote(
  store: ObjectStore,
  machine: MachineId,
): Promise<{ readonly number: number; readonly note: ScrubNote | null; readonly bad: readonly BadNote[] }> {
  const names: string[] = [];
  for await (const { name } of store.list(scrubPrefix(machine))) names.push(name);
  const number = Math.max(0, ...names.map(numberOfName));
  const bad: BadNote[] = [];
  for (const name of names.reverse()) {
    try {
      const note = await read(store, machine, name, SCRUB_NOTE_BYTES_MAX, scrubNoteSchema, SCRUB_NOTE_VERSION);
      return { number, note, bad };
    } catch (error) {
      if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') throw error;
      bad.push({ name, error });
    }
  }
  return { number, note: null, bad };
}

export interface BadNote {
  readonly name: string;
  readonly error: AfterimageError;
}

/** What the next list is made from: the newest that can be read, and the highest number, be it readable or not. */
async function lastDamage(
  store: ObjectStore,
  machine: MachineId,
): Promise<{ readonly number: number; readonly items: readonly DamageItem[] }> {
  const names = await namesOfEither(store, damagePrefix(machine));
  const number = Math.max(0, ...names.map(numberOfName));
  for (const name of names.reverse()) {
    try {
      return {
        number,
        items: (await read(store, machine, name, DAMAGE_BYTES_MAX, damageSchema, DAMAGE_VERSION)).items,
      };
    } catch (error) {
      // The scrub tells of it as of any record; what only it knew is found again.
      if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') throw error;
    }
  }
  return { number, items: [] };
}

export interface DamageDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
}

/** Writes the list that `change` makes of the newest one, unless that changes nothing; it may run several times. Returns what counts then. */
export async function updateDamage(
  deps: DamageDeps,
  machine: MachineId,
  change: (items: readonly DamageItem[], nowMs: number) => readonly DamageItem[],
): Promise<readonly DamageItem[]> {
  for (let i = 0; i < WRITE_TRIES; i++) {
    const before = await lastDamage(deps.store, machine);
    const nowMs = deps.clock.nowMs();
    const changed = change(before.items, nowMs);
    const { items, more } = bounded(changed);
    if (JSON.stringify(items) === JSON.stringify(before.items)) return items;
    const number = before.number + 1;
    const next: Damage = { version: DAMAGE_VERSION, number, machine, writtenAtMs: nowMs, items, more };
    if ((await createWithCopy(deps.store, damageName(machine, number), sealJson(next))) === 'created') return items;
  }
  throw contended('damage list', machine);
}

/** Writes the next note. False: somebody else wrote one meanwhile, whose place in the store counts as well as ours. */
export async function writeScrubNote(store: ObjectStore, note: ScrubNote): Promise<boolean> {
  return (await store.createIfAbsent(scrubName(note.machine, note.number), sealJson(note))) === 'created';
}

const contended = (what: string, machine: MachineId): AfterimageError =>
  new AfterimageError(`the ${what} of machine ${machine} is being changed by somebody else all the time`, {
    code: 'damage-contended',
    kind: 'io',
    hint: 'Try again; let one scrub of a machine run at a time.',
  });
