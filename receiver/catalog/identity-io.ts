/**
 * Reads who a machine is: of its numbered identity objects the highest counts. No decisions here.
 */
import { IDENTITY_BYTES_MAX } from '../../shared/limits.js';
import type { MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { identitySchema, MANIFEST_VERSION, type MachineIdentity } from './manifest.js';
import { identityPrefix } from './names.js';
import { openSealedJson } from './sealed-json.js';

/** The identity that counts; null for a machine that was never enrolled. */
export async function loadIdentity(store: ObjectStore, machine: MachineId): Promise<MachineIdentity | null> {
  let newest: string | null = null;
  for await (const object of store.list(identityPrefix(machine))) newest = object.name;
  const bytes = newest === null ? null : await store.get(newest, IDENTITY_BYTES_MAX);
  return newest === null || bytes === null ? null : openSealedJson(bytes, identitySchema, MANIFEST_VERSION, newest);
}
