/**
 * Opens a bucket: asks what it is, checks that a wanted lock is to be had, removes what dead writers left.
 */
import { randomUUID } from 'node:crypto';
import {
  AbortMultipartUploadCommand,
  GetBucketVersioningCommand,
  GetObjectLockConfigurationCommand,
  ListMultipartUploadsCommand,
} from '@aws-sdk/client-s3';
import { AfterimageError, usageError } from '../../../shared/errors.js';
import { STORE_OPEN_RETRY_MS, STORE_PAGE_NAMES, STORE_UPLOAD_MAX_AGE_MS } from '../../../shared/limits-store.js';
import { Requests } from '../requests.js';
import { ServerClock } from '../server-clock.js';
import type { RemoteOptions } from '../remote-options.js';
import { classifyS3 } from './errors.js';
import { parseS3Url, s3Client } from './location.js';
import { S3Store, type S3Parts } from './s3-store.js';

/** `tidy`: removes parts of dead writers; for who writes. */
export async function openS3(url: string, options: RemoteOptions & { readonly tidy: boolean }): Promise<S3Store> {
  const location = parseS3Url(url);
  const client = await s3Client(location);
  const { clock, random, watch, timing } = options;
  const requests = new Requests({
    clock,
    random,
    watch,
    classify: classifyS3,
    ...(timing === undefined ? {} : { timing }),
  });
  const pageNames = options.pageNames ?? STORE_PAGE_NAMES;
  const server = new ServerClock(clock);
  client.middlewareStack.add(
    (next) => async (args) => {
      const result = await next(args);
      const answer = result.response as { readonly headers?: Record<string, string> } | undefined;
      server.saw(answer?.headers?.['date']);
      return result;
    },
    { step: 'deserialize', priority: 'low' },
  );
  const known = { server, location, client, requests, clock, newId: options.newId ?? randomUUID, watch, pageNames };
  try {
    const parts = { ...known, versioned: await keepsVersions(known) };
    if (location.lock !== undefined) await checkLock(parts);
    if (options.tidy) await removeOldUploads(parts);
    return new S3Store(parts);
  } catch (error) {
    client.destroy();
    throw error;
  }
}

type Known = Omit<S3Parts, 'versioned'>;

const isDenied = (error: unknown): boolean => error instanceof AfterimageError && error.code === 'store-denied';
/** The server does not know the question: it has no such thing. */
const isUnknown = (error: unknown): boolean => error instanceof AfterimageError && error.code === 'store-io';

/** Also the first request, which tells a wrong address or wrong credentials. */
async function keepsVersions({ client, requests, location }: Known): Promise<boolean> {
  const command = new GetBucketVersioningCommand({ Bucket: location.bucket });
  const request = { kind: 'other', what: `opening ${location.url}`, retryMs: STORE_OPEN_RETRY_MS } as const;
  try {
    const { Status } = await requests.run(request, (abortSignal) => client.send(command, { abortSignal }));
    // Suspended: old versions are still there, and a deletion makes a marker.
    return Status === 'Enabled' || Status === 'Suspended';
  } catch (error) {
    // Credentials that may not ask. Only with a lock do we know that there are versions.
    if (isDenied(error) || isUnknown(error)) return location.lock !== undefined;
    throw error;
  }
}

async function checkLock({ client, requests, location }: Known): Promise<void> {
  const command = new GetObjectLockConfigurationCommand({ Bucket: location.bucket });
  const hint = 'Object lock is switched on when a bucket is made; make another, or leave lock= out of the store URL.';
  try {
    const answer = await requests.run(
      { kind: 'other', what: `asking for the lock of ${location.url}` },
      (abortSignal) => client.send(command, { abortSignal }),
    );
    if (answer.ObjectLockConfiguration?.ObjectLockEnabled !== 'Enabled') {
      throw usageError(`bucket ${location.bucket} has no object lock`, hint);
    }
  } catch (error) {
    // May not ask: then the first creation tells.
    if (isDenied(error)) return;
    if (isUnknown(error)) throw usageError(`bucket ${location.bucket} has no object lock`, hint);
    throw error;
  }
}

/** Parts of writers that were killed: they cost storage, and no listing of objects shows them. Done as far as it can be. */
async function removeOldUploads({ client, requests, location, clock }: Known): Promise<void> {
  const { bucket: Bucket, prefix: Prefix } = location;
  const old: { readonly Key: string; readonly UploadId: string }[] = [];
  try {
    let marker: { KeyMarker: string; UploadIdMarker: string } | undefined;
    do {
      const command = new ListMultipartUploadsCommand({ Bucket, Prefix, ...marker });
      const page = await requests.run({ kind: 'list', what: 'listing unfinished objects' }, (abortSignal) =>
        client.send(command, { abortSignal }),
      );
      for (const { Key, UploadId, Initiated } of page.Uploads ?? []) {
        const ageMs = clock.nowMs() - (Initiated?.getTime() ?? Infinity);
        if (Key !== undefined && UploadId !== undefined && ageMs > STORE_UPLOAD_MAX_AGE_MS) old.push({ Key, UploadId });
      }
      const { NextKeyMarker, NextUploadIdMarker } = page;
      marker =
        page.IsTruncated === true && NextKeyMarker !== undefined && NextUploadIdMarker !== undefined
          ? { KeyMarker: NextKeyMarker, UploadIdMarker: NextUploadIdMarker }
          : undefined;
    } while (marker !== undefined);
    for (const upload of old) {
      const command = new AbortMultipartUploadCommand({ Bucket, ...upload });
      await requests.run({ kind: 'other', what: `removing parts of ${upload.Key}` }, (abortSignal) =>
        client.send(command, { abortSignal }),
      );
    }
  } catch (error) {
    // Credentials that may not, or a server that can't: a store that can be written to is worth more than a tidy one.
    if (!isDenied(error) && !isUnknown(error)) throw error;
  }
}
