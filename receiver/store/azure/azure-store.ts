/**
 * The object store in a container of Azure Blob. Holds no state but connections. Each object is a block blob, created by one conditional request
 * (If-None-Match: *), which here holds for the completion of larger ones as well.
 * Each creation carries an id in the blob's metadata: a try that meets the success of the one before it, whose answer was lost, recognises it.
 */
import type { Readable } from 'node:stream';
import type { BlobGetPropertiesResponse, BlockBlobClient, ContainerClient } from '@azure/storage-blob';
import type { Clock } from '../../../shared/clock.js';
import { AfterimageError } from '../../../shared/errors.js';
import { STORE_DELETES_IN_FLIGHT } from '../../../shared/limits-store.js';
import { forEachAtOnce } from '../at-once.js';
import { protocolError } from '../body.js';
import { Downloads } from '../downloads.js';
import { DeleteError, failedAll, type KeptObject } from '../delete-error.js';
import { checkName, checkPrefix, isNamePart, isObjectName, startAfter } from '../object-name.js';
import { PartedWriter } from '../parted-writer.js';
import type { Request, Requests } from '../requests.js';
import type { ServerClock } from '../server-clock.js';
import type { CreateResult, ListOptions, ObjectInfo, ObjectStore, ObjectWriter } from '../store.js';
import type { RequestWatch } from '../watch.js';
import { BlockUpload } from './block-upload.js';
import { codeOf, statusOf } from './errors.js';
import type { AzureLocation } from './location.js';

/** Key of the id in a blob's metadata; Azure takes names of variables only. */
const ID_KEY = 'afterimageid';

export interface AzureParts {
  readonly location: AzureLocation;
  readonly client: ContainerClient;
  readonly closeConnections: () => void;
  readonly requests: Requests;
  readonly clock: Clock;
  readonly newId: () => string;
  readonly server: ServerClock;
  readonly watch: RequestWatch | undefined;
  /** Names in one page of a listing. */
  readonly pageNames: number;
}

/** What a creation says besides the bytes. */
export interface CreationOptions {
  readonly abortSignal: AbortSignal;
  readonly conditions: { readonly ifNoneMatch: '*' };
  readonly metadata: Record<string, string>;
  readonly immutabilityPolicy?: { readonly expiriesOn: Date; readonly policyMode: 'Locked' | 'Unlocked' };
}

export class AzureStore implements ObjectStore {
  readonly url: string;
  readonly #parts: AzureParts;
  /** The first object that this process wrote had the lock that it should have. */
  #locksSeen = false;
  readonly #downloads: Downloads;

  constructor(parts: AzureParts) {
    this.url = parts.location.url;
    this.#parts = parts;
    this.#downloads = new Downloads(
      {
        download: async (name, range, abortSignal) => {
          const [from, length] = range === null ? [0, undefined] : [range.from, range.end - range.from];
          const answer = await this.blob(name).download(from, length, { abortSignal, maxRetryRequests: 0 });
          return {
            stream: answer.readableStreamBody as Readable | undefined,
            sizeBytes: answer.contentLength,
            contentRange: answer.contentRange,
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
    const result = await this.create(
      name,
      { kind: 'create', what: `creating ${name}`, bytes: bytes.length },
      (options) => this.blob(name).upload(bytes, bytes.length, options),
    );
    this.#parts.watch?.moved('written', bytes.length);
    return result;
  }

  async openWriter(name: string): Promise<ObjectWriter> {
    checkName(name);
    return new PartedWriter(name, new BlockUpload(name, this, this.#parts));
  }

  get(name: string, maxBytes: number): Promise<Buffer | null> {
    return this.#downloads.get(name, maxBytes);
  }

  read(name: string, offset: number, lengthBytes: number, room?: Buffer): Promise<Buffer> {
    return this.#downloads.read(name, offset, lengthBytes, room);
  }

  async head(name: string): Promise<ObjectInfo | null> {
    checkName(name);
    const found = await this.#properties(name);
    return found === null ? null : { name, sizeBytes: found.contentLength ?? 0 };
  }

  async *list(prefix: string, options: ListOptions = {}): AsyncGenerator<ObjectInfo> {
    checkPrefix(prefix);
    const after = startAfter(prefix, options.after);
    if (after === null) return;
    const { client, location, pageNames } = this.#parts;
    const pages = client.listBlobsFlat({ prefix: location.prefix + prefix });
    let last = after;
    let token: string | undefined;
    do {
      const page = await this.#page(prefix, () => pages.byPage({ maxPageSize: pageNames, ...continued(token) }).next());
      for (const blob of page?.segment.blobItems ?? []) {
        const name = blob.name.slice(location.prefix.length);
        // The service always begins at the beginning.
        if (!isObjectName(name) || name <= after) continue;
        // Callers take the last for the highest.
        if (name <= last) throw protocolError(`a listing is not in order: ${name} after ${last}`);
        last = name;
        yield { name, sizeBytes: blob.properties.contentLength ?? 0 };
      }
      token = page?.continuationToken;
    } while (token);
  }

  async listFolders(prefix: string): Promise<string[]> {
    checkPrefix(prefix);
    const { client, location, pageNames } = this.#parts;
    const start = location.prefix + prefix;
    const pages = client.listBlobsByHierarchy('/', start === '' ? {} : { prefix: start });
    const folders: string[] = [];
    let token: string | undefined;
    do {
      const page = await this.#page(prefix, () => pages.byPage({ maxPageSize: pageNames, ...continued(token) }).next());
      for (const found of page?.segment.blobPrefixes ?? []) {
        const folder = found.name.slice(start.length, -1);
        if (isNamePart(folder)) folders.push(folder);
      }
      token = page?.continuationToken;
    } while (token);
    return folders.sort();
  }

  async deleteMany(names: readonly string[]): Promise<void> {
    for (const name of names) checkName(name);
    const all = [...new Set(names)];
    const kept: KeptObject[] = [];
    const gone = new Set<string>();
    try {
      await forEachAtOnce(all, STORE_DELETES_IN_FLIGHT, async (name) => {
        const object = await this.#delete(name);
        if (object === null) gone.add(name);
        else kept.push(object);
      });
    } catch (error) {
      const locked = new Set(kept.map((object) => object.name));
      const rest = all.filter((name) => !gone.has(name) && !locked.has(name));
      throw new DeleteError([...kept, ...failedAll(rest, error)], error);
    }
    if (kept.length > 0) throw new DeleteError(kept.sort((a, b) => (a.name < b.name ? -1 : 1)));
  }

  serverClockMs(): number | null {
    return this.#parts.server.aheadMs;
  }

  async freeBytes(): Promise<null> {
    return null;
  }

  async close(): Promise<void> {
    this.#parts.closeConnections();
  }

  blob(name: string): BlockBlobClient {
    return this.#parts.client.getBlockBlobClient(this.#parts.location.prefix + name);
  }

  /** A conditional creation by `send`, which is tried until it is known who has the name. */
  async create(
    name: string,
    request: Request,
    send: (options: CreationOptions) => Promise<unknown>,
  ): Promise<CreateResult> {
    const { requests, newId } = this.#parts;
    const id = newId();
    const taken = await requests.run(request, async (abortSignal) => {
      try {
        await send({ abortSignal, conditions: { ifNoneMatch: '*' }, metadata: { [ID_KEY]: id }, ...this.#lock() });
        return false;
      } catch (error) {
        // The last: parts of ours that somebody who came first has made unusable, or that an earlier try has used.
        if (['BlobAlreadyExists', 'ConditionNotMet', 'InvalidBlockList'].includes(codeOf(error))) return true;
        throw error;
      }
    });
    if (taken) {
      // By whom? The answer to an earlier try may have been lost.
      const found = await this.#properties(name);
      if (found?.metadata?.[ID_KEY] !== id) return 'exists';
    }
    if (!this.#locksSeen && this.#parts.location.lock !== undefined) await this.#checkLock(name);
    this.#locksSeen = true;
    return 'created';
  }

  #lock(): Pick<CreationOptions, 'immutabilityPolicy'> {
    const { location, clock } = this.#parts;
    if (location.lock === undefined) return {};
    const expiriesOn = new Date(clock.nowMs() + location.lock.forMs);
    return {
      immutabilityPolicy: { expiriesOn, policyMode: location.lock.mode === 'compliance' ? 'Locked' : 'Unlocked' },
    };
  }

  /** A service that knows no locks may pass over what a request says of one. */
  async #checkLock(name: string): Promise<void> {
    if ((await this.#properties(name))?.immutabilityPolicyExpiresOn !== undefined) return;
    throw new AfterimageError(`${name} is written, but the container does not lock it`, {
      code: 'lock-missing',
      kind: 'io',
      hint: 'Switch on immutability with versions for the container, or leave lock= out of the store URL.',
    });
  }

  #properties(name: string): Promise<BlobGetPropertiesResponse | null> {
    return this.#parts.requests.run({ kind: 'head', what: `asking for ${name}` }, async (abortSignal) => {
      try {
        return await this.blob(name).getProperties({ abortSignal });
      } catch (error) {
        if (isAbsent(error)) return null;
        throw error;
      }
    });
  }

  async #delete(name: string): Promise<KeptObject | null> {
    const { requests } = this.#parts;
    const refusal = await requests.run({ kind: 'delete', what: `deleting ${name}` }, async (abortSignal) => {
      try {
        await this.blob(name).delete({ abortSignal });
        return null;
      } catch (error) {
        const code = codeOf(error);
        if (isAbsent(error)) return null;
        if (/Immutable|LegalHold/.test(code)) return code;
        throw error;
      }
    });
    if (refusal === null) return null;
    const lockedUntilMs = (await this.#properties(name))?.immutabilityPolicyExpiresOn?.getTime() ?? null;
    const until = lockedUntilMs === null ? '' : ` until ${new Date(lockedUntilMs).toISOString()}`;
    return { name, reason: 'locked', lockedUntilMs, message: `locked${until}: ${refusal}` };
  }

  /** The SDK's listing takes no signal for one page: a page that hangs is left behind. */
  async #page<T>(prefix: string, next: () => Promise<IteratorResult<T, unknown>>): Promise<T | undefined> {
    const result = await this.#parts.requests.run({ kind: 'list', what: `listing ${prefix}` }, (signal) =>
      Promise.race([next(), givenUp(signal)]),
    );
    return result.done === true ? undefined : result.value;
  }
}

const continued = (token: string | undefined): { continuationToken?: string } =>
  token ? { continuationToken: token } : {};

const givenUp = (signal: AbortSignal): Promise<never> =>
  new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(new Error('given up')), { once: true });
  });

const isAbsent = (error: unknown): boolean => codeOf(error) === 'BlobNotFound' || codeOf(error) === 'ResourceNotFound';
