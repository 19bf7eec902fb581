/**
 * From a URL to an open store whose format is known: the one place that knows which kinds of stores there are.
 */
import { mkdir, stat } from 'node:fs/promises';
import { isAbsolute, normalize } from 'node:path';
import { AfterimageError, usageError } from '../../shared/errors.js';
import { storeError } from './file-errors.js';
import { MeteredStore } from './metered-store.js';
import type { RemoteOptions } from './remote-options.js';
import type { RequestTiming } from './requests.js';
import type { RequestWatch } from './watch.js';
import { systemClock, systemRandom } from '../../shared/clock.js';
import { FileStore, type FileStoreOptions } from './file-store.js';
import { ensureFormat } from './format.js';
import type { ObjectStore } from './store.js';

export interface OpenStoreOptions extends FileStoreOptions {
  /** 0 ≤ x < 1: spreads tries in time. */
  readonly random?: () => number;
  /** Told of each request to the store. */
  readonly watch?: RequestWatch;
  /** Names in one page of a listing, when it shall be fewer than usual. */
  readonly pageNames?: number;
  /** Time limits of requests other than the usual. */
  readonly timing?: RequestTiming;
  /** Make the store when there is none (the receiver does; commands that read don't, so that a typo isn't an empty store). */
  readonly create?: boolean;
}

const URL_HINT = 'Give a store as file:/absolute/path, s3://BUCKET/PREFIX or azblob://CONTAINER/PREFIX.';

/** Path of a `file:` URL (`file:/path` or `file:///path`, percent-escapes decoded). */
export function pathOfFileUrl(url: string): string {
  const rest = url.slice('file:'.length).replace(/^\/\/(?=\/)/, '');
  let path: string;
  try {
    path = decodeURIComponent(rest);
  } catch {
    throw usageError(`store URL ${url} has a malformed %-escape`, URL_HINT);
  }
  if (!isAbsolute(path) || path.startsWith('//') || path.includes('\0')) {
    throw usageError(`store URL ${url} is not an absolute path`, URL_HINT);
  }
  const normal = normalize(path);
  return normal.length > 1 && normal.endsWith('/') ? normal.slice(0, -1) : normal;
}

/** Whether a store lies in a folder of this host. */
export const isFolderUrl = (url: string): boolean => /^file:/i.test(url);

async function prepareFolder(path: string, create: boolean): Promise<void> {
  if (create) {
    await mkdir(path, { recursive: true, mode: 0o750 }).catch((error: unknown) => {
      throw storeError(`making store file:${path}`, error);
    });
    return;
  }
  const found = await stat(path).catch(() => undefined);
  if (found?.isDirectory()) return;
  throw new AfterimageError(`there is no store at file:${path}`, {
    code: 'store-missing',
    kind: 'usage',
    hint: 'Give the URL that the receiver uses, by --store, AFTERIMAGE_STORE or its configuration file.',
  });
}

async function openFolder(url: string, options: OpenStoreOptions): Promise<ObjectStore> {
  const path = pathOfFileUrl(url);
  await prepareFolder(path, options.create === true);
  const store = await FileStore.open(path, options);
  return options.watch === undefined ? store : new MeteredStore(store, options.watch, options.clock ?? systemClock);
}

/** What opens each kind of store. Adapters of buckets are loaded only when they are used: their SDKs take longer than most commands. */
const SCHEMES: Readonly<Record<string, (url: string, options: OpenStoreOptions) => Promise<ObjectStore>>> = {
  file: openFolder,
  azblob: async (url, options) => (await import('./azure/open.js')).openAzure(url, remoteOptions(options)),
  s3: async (url, options) => (await import('./s3/open.js')).openS3(url, remoteOptions(options)),
};

const remoteOptions = (options: OpenStoreOptions): RemoteOptions & { readonly tidy: boolean } => ({
  clock: options.clock ?? systemClock,
  random: options.random ?? systemRandom,
  newId: options.newId,
  watch: options.watch,
  timing: options.timing,
  pageNames: options.pageNames,
  tidy: options.create === true,
});

/** Opens a place for objects, whatever is in it: for whoever looks at the place itself. */
export function openPlace(url: string, options: OpenStoreOptions = {}): Promise<ObjectStore> {
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(url)?.[1]?.toLowerCase();
  const open = scheme === undefined ? undefined : SCHEMES[scheme];
  if (open === undefined) {
    throw usageError(
      // What has no scheme may be anything, also a secret in the wrong place.
      scheme === undefined ? 'the store is not given as a URL' : `stores of type "${scheme}:" are not supported`,
      URL_HINT,
    );
  }
  return open(url, options);
}

export async function openStore(url: string, options: OpenStoreOptions = {}): Promise<ObjectStore> {
  const store = await openPlace(url, options);
  try {
    await ensureFormat(store, options.create === true);
  } catch (error) {
    await store.close();
    throw error;
  }
  return store;
}
