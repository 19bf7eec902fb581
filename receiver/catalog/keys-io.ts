/**
 * Reads and writes a machine's numbered keys objects: who encrypts it, with which keys, each wrapped under a key-encryption key of the receiver's
 * provider. The highest counts. They are never deleted: layers that were encrypted with an old key need it as long as they are there, so each number
 * holds all keys of the one before. No decisions here.
 */
import { z } from 'zod';
import { corrupt } from '../../shared/errors.js';
import { KEYS_OBJECT_BYTES_MAX } from '../../shared/limits-keys.js';
import { isUuid, type MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { keysName, keysPrefix, numberOfName } from './names.js';
import { openSealedJson, sealJson } from './sealed-json.js';
import { createWithCopy, highestOfEither, readEither } from './second-copies.js';

export const KEYS_VERSION = 1;

const check = z.string().regex(/^[0-9a-f]{16}$/);
const count = z.number().int().nonnegative();
const base64 = z.string().regex(/^[A-Za-z0-9+/]+={0,2}$/);

/** A key as a provider gives it out: `kek` names what it is wrapped under, `check` tells whether it came back as it was. */
export const wrappedKeySchema = z.strictObject({ kek: z.string().max(500), wrapped: base64, check });
export type WrappedKey = z.infer<typeof wrappedKeySchema>;

export const keysObjectSchema = z.strictObject({
  version: z.literal(KEYS_VERSION),
  number: count.min(1),
  machine: z.custom<MachineId>((v) => typeof v === 'string' && isUuid(v), 'not a machine id'),
  writtenAtMs: count,
  /** Why this object was written, for people. */
  reason: z.string().max(500),
  /** Who encrypts what is written from now on. */
  writesAs: z.enum(['plain', 'receiver', 'agent']),
  /** The receiver's keys, oldest first; the last is in use. Null: it never encrypted this machine. */
  receiver: z
    .strictObject({
      digests: wrappedKeySchema,
      data: z.array(wrappedKeySchema.extend({ id: count.min(1), madeAtMs: count })).min(1),
    })
    .nullable(),
  /** Keys that the source has used, the present ones last: no key, only what tells whether a key file is the right one. */
  agent: z.array(z.strictObject({ hashCheck: check, dataKeys: z.array(count.min(1)).min(1) })),
});
export type KeysObject = z.infer<typeof keysObjectSchema>;

/** Null for a machine that was never encrypted. */
export async function loadKeys(store: ObjectStore, machine: MachineId): Promise<KeysObject | null> {
  const name = await highestOfEither(store, keysPrefix(machine));
  return name === null ? null : readKeys(store, machine, numberOfName(name));
}

async function readKeys(store: ObjectStore, machine: MachineId, number: number): Promise<KeysObject> {
  const name = keysName(machine, number);
  const keys = await readEither(store, name, KEYS_OBJECT_BYTES_MAX, (bytes) => {
    const found = openSealedJson(bytes, keysObjectSchema, KEYS_VERSION, name);
    if (found.number === number && found.machine === machine) return found;
    throw corrupt('keys-misplaced', `object ${name} holds keys ${found.number} of machine ${found.machine}`);
  });
  if (keys !== null) return keys;
  throw corrupt('keys-missing', `keys object ${name} is not in the store`);
}

/** Writes the object after `previous`. False when somebody else wrote it: read again, decide again. */
export async function createKeys(store: ObjectStore, keys: KeysObject): Promise<boolean> {
  const bytes = sealJson(keys);
  const name = keysName(keys.machine, keys.number);
  if ((await createWithCopy(store, name, bytes)) === 'created') return true;
  // A retry inside the store's adapter may have met its own success.
  const there = await store.get(name, KEYS_OBJECT_BYTES_MAX);
  return there?.equals(bytes) === true;
}
