/**
 * The object store in a bucket of S3 or of any server that speaks its protocol. Holds no state but connections.
 * What is created is created by ONE conditional request (If-None-Match: *), but for objects larger than one part: their names are given to a
 * single writer (epoch and sequence are in them), so for them a look before the completion is enough (see README).
 * Each creation carries an id in the object's metadata: a try that meets the success of the one before it, whose answer was lost, recognises it.
 */
import type { Readable } from 'node:stream';
import {
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import type { Clock } from '../../../shared/clock.js';
import { protocolError } from '../body.js';
import { Downloads } from '../downloads.js';
import { DeleteError, failedAll, type KeptObject } from '../delete-error.js';
import { checkName, checkPrefix, isNamePart, isObjectName, startAfter } from '../object-name.js';
import { PartedWriter } from '../parted-writer.js';
import type { Requests } from '../requests.js';
import type { ServerClock } from '../server-clock.js';
import type { CreateResult, ListOptions, ObjectInfo, ObjectStore, ObjectWriter } from '../store.js';
import type { RequestWatch } from '../watch.js';
import { codeOf, statusOf } from './errors.js';
import type { S3Location } from './location.js';
import { ensureLocked, lockFields } from './lock.js';
import { S3Upload } from './upload.js';
import { deleteVersions } from './versions.js';

/** Key of the id in an object's metadata. */
export const ID_KEY = 'afterimage-id';

export interface S3Parts {
  readonly location: S3Location;
  readonly client: S3Client;
  readonly requests: Requests;
  readonly clock: Clock;
  readonly newId: () => string;
  readonly server: ServerClock;
  readonly watch: RequestWatch | undefined;
  /** Names in one page, one request for deletion. */
  readonly pageNames: number;
  /** The bucket keeps versions: a deletion without one would only hide the object, and free nothing. */
  readonly versioned: boolean;
}

export interface S3Head extends ObjectInfo {
  readonly id: string | undefined;
  readonly lockedUntilMs: number | null;
}

export class S3Store implements ObjectStore {
  readonly url: string;
  readonly #parts: S3Parts;
  /** The first object that this process wrote had the lock that it should have; one look is enough for requests that are all alike. */
  #locksSeen = false;
  readonly #downloads: Downloads;

  constructor(parts: S3Parts) {
    this.url = parts.location.url;
    this.#parts = parts;
    this.#downloads = new Downloads(
      {
        download: async (name, range, abortSignal) => {
          const Range = range === null ? {} : { Range: `bytes=${range.from}-${range.end - 1}` };
          const answer = await parts.client.send(new GetObjectCommand({ ...this.#at(name), ...Range }), {
            abortSignal,
          });
          return {
            stream: answer.Body as Readable | undefined,
            sizeBytes: answer.ContentLength,
            contentRange: answer.ContentRange,
          };
        },
        sizeOf: async (name) => (await this.head(name))?.sizeBytes ?? null,
        isAbsent,
        isBeyond: (error) => statusOf(error) === 416,
      },
      parts.requests,
      parts.watch,
    );
  }

  async createIfAbsent(name: string, bytes: Buffer): Promise<CreateResult> {
    checkName(name);
    const { client, requests, newId, watch } = this.#parts;
    const id = newId();
    const command = new PutObjectCommand({
      ...this.#at(name),
      Body: bytes,
      ContentLength: bytes.length,
      IfNoneMatch: '*',
      Metadata: { [ID_KEY]: id },
      ...lockFields(this.#parts),
    });
    const request = { kind: 'create', what: `creating ${name}`, bytes: bytes.length } as const;
    const taken = await requests.run(request, async (abortSignal) => {
      try {
        await client.send(command, { abortSignal });
        return false;
      } catch (error) {
        if (statusOf(error) === 412) return true;
        throw error;
      }
    });
    watch?.moved('written', bytes.length);
    // Taken by whom? The answer to an earlier try may have been lost.
    if (taken && (await this.headOf(name))?.id !== id) return 'exists';
    if (!this.#locksSeen) await ensureLocked(name, this, this.#parts);
    this.#locksSeen = true;
    return 'created';
  }

  async openWriter(name: string): Promise<ObjectWriter> {
    checkName(name);
    return new PartedWriter(name, new S3Upload(name, this, this.#parts));
  }

  get(name: string, maxBytes: number): Promise<Buffer | null> {
    return this.#downloads.get(name, maxBytes);
  }

  read(name: string, offset: number, lengthBytes: number, room?: Buffer): Promise<Buffer> {
    return this.#downloads.read(name, offset, lengthBytes, room);
  }

  async head(name: string): Promise<ObjectInfo | null> {
    checkName(name);
    const found = await this.headOf(name);
    return found === null ? null : { name, sizeBytes: found.sizeBytes };
  }

  async headOf(name: string, version?: string): Promise<S3Head | null> {
    const { client, requests } = this.#parts;
    const command = new HeadObjectCommand({
      ...this.#at(name),
      ...(version === undefined ? {} : { VersionId: version }),
    });
    return requests.run({ kind: 'head', what: `asking for ${name}` }, async (abortSignal) => {
      try {
        const found = await client.send(command, { abortSignal });
        return {
          name,
          sizeBytes: found.ContentLength ?? 0,
          id: found.Metadata?.[ID_KEY],
          lockedUntilMs: found.ObjectLockRetainUntilDate?.getTime() ?? null,
        };
      } catch (error) {
        if (isAbsent(error) || statusOf(error) === 404) return null;
        throw error;
      }
    });
  }

  async *list(prefix: string, options: ListOptions = {}): AsyncGenerator<ObjectInfo> {
    checkPrefix(prefix);
    const after = startAfter(prefix, options.after);
    if (after === null) return;
    const cut = this.#parts.location.prefix.length;
    let last = after;
    for await (const page of this.#pages(prefix, { after })) {
      for (const object of page.Contents ?? []) {
        const name = (object.Key ?? '').slice(cut);
        if (!isObjectName(name)) continue;
        // Callers take the last for the highest.
        if (name <= last) throw protocolError(`a listing is not in order: ${name} after ${last}`);
        last = name;
        yield { name, sizeBytes: object.Size ?? 0 };
      }
    }
  }

  async listFolders(prefix: string): Promise<string[]> {
    checkPrefix(prefix);
    const cut = this.#parts.location.prefix.length + prefix.length;
    const folders: string[] = [];
    for await (const page of this.#pages(prefix, { folders: true })) {
      for (const found of page.CommonPrefixes ?? []) {
        const folder = (found.Prefix ?? '').slice(cut, -1);
        if (isNamePart(folder)) folders.push(folder);
      }
    }
    return folders.sort();
  }

  async deleteMany(names: readonly string[]): Promise<void> {
    for (const name of names) checkName(name);
    const all = [...new Set(names)];
    const { pageNames, versioned } = this.#parts;
    const kept: KeptObject[] = [];
    for (let i = 0; i < all.length; i += pageNames) {
      const batch = all.slice(i, i + pageNames);
      try {
        kept.push(...(await (versioned ? deleteVersions(batch, this, this.#parts) : this.#deleteBatch(batch))));
      } catch (error) {
        // What fails as a whole fails for the rest as well.
        throw new DeleteError([...kept, ...failedAll(all.slice(i), error)], error);
      }
    }
    if (kept.length > 0) throw new DeleteError(kept.sort((a, b) => (a.name < b.name ? -1 : 1)));
  }

  serverClockMs(): number | null {
    return this.#parts.server.aheadMs;
  }

  /** A bucket has no end; a quota shows as an error of a request. */
  async freeBytes(): Promise<null> {
    return null;
  }

  async close(): Promise<void> {
    this.#parts.client.destroy();
  }

  #at(name: string): { readonly Bucket: string; readonly Key: string } {
    const { bucket, prefix } = this.#parts.location;
    return { Bucket: bucket, Key: prefix + name };
  }

  async *#pages(prefix: string, how: { readonly after?: string; readonly folders?: boolean }) {
    const { client, requests, location, pageNames } = this.#parts;
    let token: string | undefined;
    do {
      const command = new ListObjectsV2Command({
        Bucket: location.bucket,
        Prefix: location.prefix + prefix,
        MaxKeys: pageNames,
        ...(how.folders === true ? { Delimiter: '/' } : {}),
        ...(token !== undefined
          ? { ContinuationToken: token }
          : how.after
            ? { StartAfter: location.prefix + how.after }
            : {}),
      });
      const page = await requests.run({ kind: 'list', what: `listing ${prefix}` }, (abortSignal) =>
        client.send(command, { abortSignal }),
      );
      yield page;
      token = page.IsTruncated === true ? page.NextContinuationToken : undefined;
      if (page.IsTruncated === true && token === undefined)
        throw protocolError(`a listing of ${prefix} does not go on`);
    } while (token !== undefined);
  }

  async #deleteBatch(names: readonly string[]): Promise<KeptObject[]> {
    const { client, requests, location } = this.#parts;
    const command = new DeleteObjectsCommand({
      Bucket: location.bucket,
      Delete: { Quiet: true, Objects: names.map((name) => ({ Key: location.prefix + name })) },
    });
    const what = names.length === 1 ? `deleting ${names[0] ?? ''}` : `deleting ${names.length} objects`;
    const answer = await requests.run({ kind: 'delete', what }, (abortSignal) => client.send(command, { abortSignal }));
    return (answer.Errors ?? [])
      .filter((error) => error.Code !== 'NoSuchKey')
      .map((error) => ({
        name: (error.Key ?? '').slice(location.prefix.length),
        reason: 'failed',
        lockedUntilMs: null,
        message: `${error.Code ?? 'error'}: ${error.Message ?? ''}`,
      }));
  }
}

const isAbsent = (error: unknown): boolean => ['NoSuchKey', 'NotFound'].includes(codeOf(error));
