/**
 * Deletion in a bucket that keeps versions (object lock needs them): all versions of a name go, one by one where the store lets them. A deletion
 * without a version would only hide the object behind a marker: it would be gone for us, and cost as before.
 */
import { DeleteObjectsCommand, ListObjectVersionsCommand, type ObjectIdentifier } from '@aws-sdk/client-s3';
import { STORE_DELETES_IN_FLIGHT } from '../../../shared/limits-store.js';
import type { KeptObject } from '../delete-error.js';
import { forEachAtOnce } from '../at-once.js';
import type { S3Parts, S3Store } from './s3-store.js';

export async function deleteVersions(names: readonly string[], store: S3Store, parts: S3Parts): Promise<KeptObject[]> {
  const versions: ObjectIdentifier[] = [];
  await forEachAtOnce(names, STORE_DELETES_IN_FLIGHT, async (name) => {
    versions.push(...(await versionsOf(name, parts)));
  });
  const kept = new Map<string, KeptObject>();
  for (let i = 0; i < versions.length; i += parts.pageNames) {
    for (const object of await deleteBatch(versions.slice(i, i + parts.pageNames), store, parts)) {
      kept.set(object.name, object);
    }
  }
  return [...kept.values()];
}

async function versionsOf(name: string, parts: S3Parts): Promise<ObjectIdentifier[]> {
  const { client, requests, location } = parts;
  const Key = location.prefix + name;
  const found: ObjectIdentifier[] = [];
  let marker: string | undefined;
  for (;;) {
    const command = new ListObjectVersionsCommand({
      Bucket: location.bucket,
      Prefix: Key,
      ...(marker === undefined ? {} : { KeyMarker: Key, VersionIdMarker: marker }),
    });
    const page = await requests.run({ kind: 'list', what: `listing the versions of ${name}` }, (abortSignal) =>
      client.send(command, { abortSignal }),
    );
    const all = [...(page.Versions ?? []), ...(page.DeleteMarkers ?? [])];
    for (const { Key: key, VersionId } of all) {
      if (key === Key && VersionId !== undefined) found.push({ Key, VersionId });
    }
    // Names that only begin like this one come after it.
    if (page.IsTruncated !== true || page.NextKeyMarker !== Key || page.NextVersionIdMarker === undefined) return found;
    marker = page.NextVersionIdMarker;
  }
}

async function deleteBatch(versions: ObjectIdentifier[], store: S3Store, parts: S3Parts): Promise<KeptObject[]> {
  const { client, requests, location, clock } = parts;
  const command = new DeleteObjectsCommand({ Bucket: location.bucket, Delete: { Quiet: true, Objects: versions } });
  const answer = await requests.run({ kind: 'delete', what: `deleting ${versions.length} versions` }, (abortSignal) =>
    client.send(command, { abortSignal }),
  );
  const kept: KeptObject[] = [];
  for (const { Key = '', VersionId, Code = 'error', Message = '' } of answer.Errors ?? []) {
    if (Code === 'NoSuchKey' || Code === 'NoSuchVersion') continue;
    const name = Key.slice(location.prefix.length);
    // "Denied" is what a lock answers, and what missing permissions answer.
    const lockedUntilMs = (await store.headOf(name, VersionId).catch(() => null))?.lockedUntilMs ?? null;
    const locked = lockedUntilMs !== null && lockedUntilMs > clock.nowMs();
    const message = locked ? `locked until ${new Date(lockedUntilMs).toISOString()}` : `${Code}: ${Message}`;
    kept.push({ name, reason: locked ? 'locked' : 'failed', lockedUntilMs, message });
  }
  return kept;
}
