/**
 * Holds ("legal hold"): points that stay, by a name that a person gave, until a person releases them. Numbered, immutable objects
 * (`machines/<m>/holds/<n>`), each with all holds of its time: the highest counts, the older ones are the history of who held what.
 *
 * Whoever drops points reads the holds while nobody can commit in between: after manifest N stood, and drops points in N+1 or not at all. Then a hold
 * that was written before N+1 is either seen, or N+1 is the last manifest that can drop its point, which is what confirmHold() waits for.
 */
import { z } from 'zod';
import { HOLDS_BYTES_MAX, HOLDS_MAX } from '../../shared/limits-retention.js';
import { corrupt } from '../../shared/errors.js';
import type { MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { holdsPrefix, numberOfName } from './names.js';
import { openSealedJson } from './sealed-json.js';

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
  let newest: string | null = null;
  for await (const object of store.list(holdsPrefix(machine))) newest = object.name;
  if (newest === null) return null;
  const bytes = await store.get(newest, HOLDS_BYTES_MAX);
  if (bytes === null) throw corrupt('holds-missing', `object ${newest} is not in the store`);
  const holds = openSealedJson(bytes, holdsSchema, HOLDS_VERSION, newest);
  if (holds.number === numberOfName(newest)) return holds;
  throw corrupt('holds-misplaced', `object ${newest} holds number ${holds.number}`);
}

/** The live holds of a machine. */
export const readHolds = async (store: ObjectStore, machine: MachineId): Promise<readonly Hold[]> =>
  (await loadHolds(store, machine))?.holds ?? [];
