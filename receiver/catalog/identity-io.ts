/**
 * Reads who a machine is: of its numbered identity objects the highest counts. No decisions here.
 */
import { corrupt } from '../../shared/errors.js';
import { IDENTITY_BYTES_MAX } from '../../shared/limits.js';
import type { MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { identitySchema, MANIFEST_VERSION, type MachineIdentity } from './manifest.js';
import { identityPrefix, numberOfName } from './names.js';
import { openSealedJson } from './sealed-json.js';
import { highestOfEither, readEither } from './second-copies.js';

/** The identity that counts; null for a machine that was never enrolled. */
export async function loadIdentity(store: ObjectStore, machine: MachineId): Promise<MachineIdentity | null> {
  const newest = await highestOfEither(store, identityPrefix(machine));
  if (newest === null) return null;
  return readEither(store, newest, IDENTITY_BYTES_MAX, (bytes) => {
    const found = openSealedJson(bytes, identitySchema, MANIFEST_VERSION, newest);
    if (found.number === numberOfName(newest) && found.machine === machine) return found;
    throw corrupt('identity-misplaced', `object ${newest} holds identity ${found.number} of machine ${found.machine}`);
  });
}
