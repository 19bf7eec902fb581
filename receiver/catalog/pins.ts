/**
 * Pins: objects by which a reader (an open volume, a restore, a verification) says which point it reads, so that nothing it needs is deleted meanwhile.
 *
 * `machines/<m>/pins/<id>-<sequence>`, immutable. A pin is renewed by an object with the next sequence number, whose predecessor is then removed, so of
 * one id the highest counts. One that is renewed no more (its holder died) ends by itself: it is honoured for `ttlMs` after it expired, so that clocks
 * that differ by less than that don't matter.
 *
 * The order that makes pins safe: the reader writes its pin, which names the newest manifest that it knew, then reads the head again and plans from
 * that. Whoever deletes keeps all that any manifest from `manifest` on named and that point needs.
 * Reading and names only; holding one is in pin-holder.ts.
 */
import { z } from 'zod';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { PIN_BYTES_MAX } from '../../shared/limits-retention.js';
import { isUuid, type MachineId } from '../../shared/units.js';
import { DeleteError } from '../store/delete-error.js';
import { LockedNames } from '../store/locked-names.js';
import type { ObjectStore } from '../store/store.js';
import { pinName, pinsPrefix } from './names.js';
import { openSealedJson, sealJson } from './sealed-json.js';

export const PIN_VERSION = 1;

const count = z.number().int().nonnegative();

export const pinSchema = z.strictObject({
  version: z.literal(PIN_VERSION),
  id: z.string().refine(isUuid, 'not a UUID'),
  sequence: count.min(1),
  /** The point that is read; also older ones may be, of the same manifest. */
  point: count,
  /** Number of the newest manifest that the holder knew before it wrote this pin's first object: its plan is of that one or a later one. */
  manifest: count.min(1),
  /** For people: `restore on host1`. */
  holder: z.string().max(500),
  writtenAtMs: count,
  ttlMs: count.min(1),
  expiresAtMs: count,
});
export type Pin = z.infer<typeof pinSchema>;

export interface PinObject {
  readonly name: string;
  readonly id: string;
  readonly sequence: number;
}

export interface PinsRead {
  /** One per id: that with the highest sequence; also those that expired. */
  readonly pins: readonly Pin[];
  /** Objects that count no more: an older sequence of a pin whose newer one was read. */
  readonly superseded: readonly PinObject[];
  /** Pins that can't be read, and why: nobody knows what they protect, so whoever deletes must delete nothing. */
  readonly unreadable: readonly { readonly name: string; readonly why: string }[];
}

/** A pin can be renewed between listing and reading: look again so many times. */
const LISTINGS_MAX = 10;

/** All pins of a machine: one listing and one small read per pin. */
export async function readPins(store: ObjectStore, machine: MachineId): Promise<PinsRead> {
  const known = new Map<string, Pin>();
  for (let i = 0; ; i++) {
    const { newest, superseded, unreadable } = await listPins(store, machine);
    const pins: Pin[] = [];
    let isMoving = false;
    for (const { name, id, sequence } of newest) {
      const read = known.get(name) ?? (await readPin(store, name));
      if (read === null) {
        // Released, or renewed under another name: only another listing tells, and a pin that was passed over would be as good as none.
        isMoving = true;
        if (i + 1 === LISTINGS_MAX) unreadable.push({ name, why: 'it is renewed faster than it can be read' });
      } else if ('why' in read) unreadable.push({ name, why: read.why });
      else if (read.id !== id || read.sequence !== sequence) {
        unreadable.push({ name, why: `holds pin ${read.id}, sequence ${read.sequence}` });
      } else {
        known.set(name, read);
        pins.push(read);
      }
    }
    if (!isMoving || i + 1 === LISTINGS_MAX) return { pins, superseded, unreadable };
  }
}

async function listPins(
  store: ObjectStore,
  machine: MachineId,
): Promise<{ newest: PinObject[]; superseded: PinObject[]; unreadable: { name: string; why: string }[] }> {
  const newest = new Map<string, PinObject>();
  const superseded: PinObject[] = [];
  const unreadable: { name: string; why: string }[] = [];
  for await (const { name } of store.list(pinsPrefix(machine))) {
    const found = parsePinName(machine, name);
    if (found === null) {
      unreadable.push({ name, why: 'not a name of a pin' });
      continue;
    }
    // Names sort by id and then by sequence.
    const before = newest.get(found.id);
    if (before !== undefined) superseded.push(before);
    newest.set(found.id, found);
  }
  return { newest: [...newest.values()], superseded, unreadable };
}

/**
 * Removes what counts no more and returns what is left: what whoever deletes layers has to respect. Pins go before layers do: a holder that comes back
 * either renews before this looks again, and counts, or finds its pin gone, and plans anew. `locked`: what the store refused to remove before, which is
 * not asked for again until its lock ends.
 */
export async function endPins(
  store: ObjectStore,
  machine: MachineId,
  nowMs: number,
  locked = new LockedNames(),
): Promise<PinsRead> {
  const before = await readPins(store, machine);
  const ended = before.pins.filter((pin) => !isPinLive(pin, nowMs));
  // The one before the newest is its holder's sign that nobody has ended it.
  const needed = new Map(before.pins.map((pin) => [pin.id, isEnded(pin) ? pin.sequence : pin.sequence - 1]));
  const old = before.superseded.filter((o) => o.sequence < (needed.get(o.id) ?? 0));
  const wanted = [...ended.map((p) => pinName(machine, p.id, p.sequence)), ...old.map((o) => o.name)];
  const asked = new Set(wanted);
  locked.retain((name) => asked.has(name));
  const names = wanted.filter((name) => !locked.isLocked(name, nowMs));
  try {
    if (names.length > 0) await store.deleteMany(names);
    locked.note(names, [], nowMs);
  } catch (error) {
    if (!(error instanceof DeleteError)) throw error;
    locked.note(names, error.kept, nowMs);
    // What is locked goes when its lock ends.
    if (error.code !== 'object-locked') throw error;
  }
  const stays = ended.filter((pin) => !isEnded(pin) && locked.has(pinName(machine, pin.id, pin.sequence)));
  for (const pin of stays) await writeEnd(store, machine, pin, nowMs);
  return names.length + stays.length === 0 ? before : readPins(store, machine);
}

/** Written in place of the renewal of an ended pin that the store locks: a holder that comes back meets it, as it would miss a pin that was removed. */
export const isEnded = (pin: Pin): boolean => pin.expiresAtMs === 0;

async function writeEnd(store: ObjectStore, machine: MachineId, pin: Pin, nowMs: number): Promise<void> {
  const sequence = pin.sequence + 1;
  const end: Pin = { ...pin, sequence, holder: 'ended', writtenAtMs: nowMs, expiresAtMs: 0 };
  // Taken: its holder was faster, and counts.
  await store.createIfAbsent(pinName(machine, pin.id, sequence), sealJson(end));
}

/** Null when it is gone: released, or replaced by its renewal, since it was listed. */
export async function readPin(store: ObjectStore, name: string): Promise<Pin | { readonly why: string } | null> {
  const bytes = await store.get(name, PIN_BYTES_MAX);
  if (bytes === null) return null;
  try {
    return openSealedJson(bytes, pinSchema, PIN_VERSION, name);
  } catch (error) {
    if (error instanceof AfterimageError) return { why: messageOf(error) };
    throw error;
  }
}

const NAME = /^([0-9a-f-]{36})-(\d{12})$/;

export function parsePinName(machine: MachineId, name: string): PinObject | null {
  const match = NAME.exec(name.slice(pinsPrefix(machine).length));
  const [, id = '', sequence = ''] = match ?? [];
  return match !== null && isUuid(id) ? { name, id, sequence: Number(sequence) } : null;
}

/** Whether a pin still counts: until it has been expired for as long as it was valid. */
export const isPinLive = (pin: Pin, nowMs: number): boolean => nowMs < pin.expiresAtMs + pin.ttlMs;
