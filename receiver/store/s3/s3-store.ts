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
import { absent, parseContentRange, protocolError, Received, tooLarge, tooShort } from '../body.js';
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

  constructor(parts: S3Parts) {
    this.url = parts.location.url;
    this.#parts = parts;
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

  async get(name: string, maxBytes: number): Promise<Buffer | null> {
    checkName(name);
    const { client, requests, watch } = this.#parts;
    let received: Received | undefined;
    const found = await requests.run({ kind: 'get', what: `reading ${name}`, bytes: maxBytes }, async (abortSignal) => {
      if (received !== undefined) {
        await this.#range(name, 0, received, abortSignal);
        return true;
      }
      try {
        const { Body, ContentLength } = await client.send(new GetObjectCommand(this.#at(name)), { abortSignal });
        const stream = Body as Readable | undefined;
        const size = ContentLength ?? -1;
        if (stream === undefined || size < 0 || size > maxBytes) {
          stream?.destroy();
          throw size > maxBytes ? tooLarge(name, size, maxBytes) : protocolError(`no length of ${name}`);
        }
        received = new Received(Buffer.allocUnsafe(size));
        await received.fill(stream, abortSignal);
        return true;
      } catch (error) {
        if (isAbsent(error)) return false;
        throw error;
      }
    });
    if (!found || received === undefined) return null;
    watch?.moved('read', received.bytes);
    return received.target;
  }

  async read(name: string, offset: number, lengthBytes: number, room?: Buffer): Promise<Buffer> {
    checkName(name);
    if (lengthBytes === 0) {
      const info = await this.head(name);
      if (info === null) throw absent(name);
      if (info.sizeBytes < offset) throw tooShort(name, info.sizeBytes, offset);
      return Buffer.alloc(0);
    }
    const { requests, watch } = this.#parts;
    const received = new Received(room?.subarray(0, lengthBytes) ?? Buffer.allocUnsafe(lengthBytes));
    await requests.run({ kind: 'read', what: `reading ${name}`, bytes: lengthBytes }, (signal) =>
      this.#range(name, offset, received, signal),
    );
    watch?.moved('read', lengthBytes);
    return received.target;
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

  /** What `received` still lacks of the range that begins at `offset`. */
  async #range(name: string, offset: number, received: Received, abortSignal: AbortSignal): Promise<void> {
    if (received.complete) return;
    const from = offset + received.bytes;
    const end = offset + received.target.length;
    const Range = `bytes=${from}-${end - 1}`;
    try {
      const answer = await this.#parts.client.send(new GetObjectCommand({ ...this.#at(name), Range }), { abortSignal });
      const stream = answer.Body as Readable | undefined;
      const range = parseContentRange(answer.ContentRange);
      if (stream === undefined || range?.from !== from || range.total < end) {
        stream?.destroy();
        throw range?.from === from
          ? tooShort(name, range.total, end)
          : protocolError(`not the range of ${name} that was asked for`);
      }
      await received.fill(stream, abortSignal);
    } catch (error) {
      if (isAbsent(error)) throw absent(name);
      if (statusOf(error) === 416) throw tooShort(name, (await this.headOf(name))?.sizeBytes ?? 0, end);
      throw error;
    }
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
