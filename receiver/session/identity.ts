/**
 * Who a machine is: numbered identity objects in the store, the highest counts; a revocation is an object of its own. All are created
 * if absent and never changed, so of two enrolments at once one wins and the other is refused.
 *
 * Names are unique among what one receiver enrols; two receivers that enrol the same name at the same moment may both succeed.
 */
import { AfterimageError } from '../../shared/errors.js';
import { asMachineId, isUuid, type MachineId } from '../../shared/units.js';
import { CLOSE, type CloseReason } from '../../shared/wire/close-codes.js';
import { loadIdentity } from '../catalog/identity-io.js';
import { MANIFEST_VERSION, type MachineIdentity } from '../catalog/manifest.js';
import { identityName, identityPrefix, MACHINES_PREFIX, revokedName } from '../catalog/names.js';
import { sealJson } from '../catalog/sealed-json.js';
import { copyName, createWithCopy } from '../catalog/second-copies.js';
import type { ObjectStore } from '../store/store.js';

export { loadIdentity };

export async function isRevoked(store: ObjectStore, { machine, number }: MachineIdentity): Promise<boolean> {
  const name = revokedName(machine, number);
  return (await store.head(name)) !== null || (await store.head(copyName(name))) !== null;
}

export async function findMachineByName(store: ObjectStore, name: string): Promise<MachineIdentity | null> {
  for (const folder of await store.listFolders(MACHINES_PREFIX)) {
    const identity = isUuid(folder) ? await loadIdentity(store, asMachineId(folder)) : null;
    if (identity?.name === name) return identity;
  }
  return null;
}

export async function createIdentity(store: ObjectStore, identity: MachineIdentity): Promise<void> {
  const made = await createWithCopy(store, identityName(identity.machine, identity.number), sealJson(identity));
  if (made === 'created') return;
  throw new AfterimageError(`machine ${identity.name} was enrolled by somebody else at the same time`, {
    code: 'enroll-raced',
    kind: 'refused',
    hint: 'Make sure that only one agent is to be this machine, then enrol it again with a new token.',
  });
}

/** Shuts the machine's present certificate out, for good. Enrolling it again is the way back. False when it was revoked already. */
export async function revokeIdentity(store: ObjectStore, identity: MachineIdentity, nowMs: number): Promise<boolean> {
  const { machine, number } = identity;
  const record = sealJson({ version: MANIFEST_VERSION, machine, number, revokedAtMs: nowMs });
  return (await createWithCopy(store, revokedName(machine, number), record)) === 'created';
}

export type Authentication =
  { readonly identity: MachineIdentity } | { readonly refusal: CloseReason; readonly reason: string };

/** Decides about a peer that has proved to hold the key of a certificate of ours. Fingerprint: SHA-256 of its DER, hex. */
export type Authenticate = (machine: MachineId, certificateFingerprint: string) => Promise<Authentication>;

/** Whom the last look let in is asked for with two requests, twice a minute and machine: nothing newer is there. */
export function authenticator(store: ObjectStore): Authenticate {
  const letIn = new Map<MachineId, MachineIdentity>();
  return async (machine, fingerprint) => {
    const last = letIn.get(machine);
    if (last?.certificate === fingerprint && (await isUnchanged(store, last))) return { identity: last };
    letIn.delete(machine);
    const found = await lookUp(store, machine, fingerprint);
    if ('identity' in found) letIn.set(machine, found.identity);
    return found;
  };
}

/** What was enrolled or revoked since stands there itself: second copies are for what was lost later. */
async function isUnchanged(store: ObjectStore, { machine, number }: MachineIdentity): Promise<boolean> {
  for await (const _ of store.list(identityPrefix(machine), { after: identityName(machine, number) })) return false;
  return (await store.head(revokedName(machine, number))) === null;
}

async function lookUp(store: ObjectStore, machine: MachineId, fingerprint: string): Promise<Authentication> {
  const identity = await loadIdentity(store, machine);
  if (identity === null) {
    return { refusal: CLOSE.badCertificate, reason: `machine ${machine} is not enrolled in this store` };
  }
  if (identity.certificate !== fingerprint) {
    return {
      refusal: CLOSE.revoked,
      reason: `machine ${identity.name} was enrolled again; this certificate was replaced`,
    };
  }
  if (await isRevoked(store, identity)) {
    return { refusal: CLOSE.revoked, reason: `the certificate of machine ${identity.name} was revoked` };
  }
  return { identity };
}
