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
import type { ObjectStore } from '../store/store.js';
import { pinsPrefix } from './names.js';
import { openSealedJson } from './sealed-json.js';

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

/** All pins of a machine: one listing and one small read per pin. */
export async function readPins(store: ObjectStore, machine: MachineId): Promise<PinsRead> {
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
  const pins: Pin[] = [];
  for (const { name, id, sequence } of newest.values()) {
    const read = await readPin(store, name);
    if (read === null) continue;
    if ('why' in read) unreadable.push({ name, why: read.why });
    else if (read.id === id && read.sequence === sequence) pins.push(read);
    else unreadable.push({ name, why: `holds pin ${read.id}, sequence ${read.sequence}` });
  }
  return { pins, superseded, unreadable };
}

/** Null when it is gone: released, or replaced by its renewal, since it was listed. */
async function readPin(store: ObjectStore, name: string): Promise<Pin | { readonly why: string } | null> {
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
