/**
 * Object lock: what is written is kept by the store itself until a time, whoever wants to delete it. Not all servers do what a request says
 * (Ceph's gateway forgets the lock of what is written in parts), so an object's lock is looked at, and set afterwards where it is missing.
 */
import { PutObjectRetentionCommand } from '@aws-sdk/client-s3';
import { AfterimageError } from '../../../shared/errors.js';
import type { S3Parts, S3Store } from './s3-store.js';

interface LockFields {
  readonly ObjectLockMode?: 'COMPLIANCE' | 'GOVERNANCE';
  readonly ObjectLockRetainUntilDate?: Date;
}

/** Fields of a request that creates an object, by the rule of the store's URL. */
export function lockFields(parts: Pick<S3Parts, 'location' | 'clock'>): LockFields {
  const { lock } = parts.location;
  if (lock === undefined) return {};
  return {
    ObjectLockMode: lock.mode === 'compliance' ? 'COMPLIANCE' : 'GOVERNANCE',
    ObjectLockRetainUntilDate: new Date(parts.clock.nowMs() + lock.forMs),
  };
}

/** Resolves when an object that was just created has the lock that it shall have; throws when that can't be had. */
export async function ensureLocked(name: string, store: S3Store, parts: S3Parts): Promise<void> {
  const { client, requests, location, clock } = parts;
  if (location.lock === undefined || ((await store.headOf(name))?.lockedUntilMs ?? 0) > clock.nowMs()) return;
  const { ObjectLockMode: Mode, ObjectLockRetainUntilDate: RetainUntilDate } = lockFields(parts);
  const command = new PutObjectRetentionCommand({
    Bucket: location.bucket,
    Key: location.prefix + name,
    Retention: { Mode, RetainUntilDate },
  });
  await requests.run({ kind: 'other', what: `locking ${name}` }, (abortSignal) =>
    client.send(command, { abortSignal }),
  );
  if (((await store.headOf(name))?.lockedUntilMs ?? 0) > clock.nowMs()) return;
  throw new AfterimageError(`${name} is written, but the store does not lock it`, {
    code: 'lock-missing',
    kind: 'io',
    hint: 'Run `afterimage store probe` with the URL of the store; without lock= it is used as it is.',
  });
}
