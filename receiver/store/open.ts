/**
 * From a URL to an open store whose format is known. `file:/absolute/path` today.
 */
import { mkdir, stat } from 'node:fs/promises';
import { isAbsolute, normalize } from 'node:path';
import { AfterimageError, usageError } from '../../shared/errors.js';
import { storeError } from './file-errors.js';
import { FileStore, type FileStoreOptions } from './file-store.js';
import { ensureFormat } from './format.js';
import type { ObjectStore } from './store.js';

export interface OpenStoreOptions extends FileStoreOptions {
  /** Make the store when there is none (the receiver does; commands that read don't, so that a typo isn't an empty store). */
  readonly create?: boolean;
}

const URL_HINT = 'Give a store as file:/absolute/path';

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

export async function openStore(url: string, options: OpenStoreOptions = {}): Promise<ObjectStore> {
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(url)?.[1]?.toLowerCase();
  if (scheme !== 'file') {
    throw usageError(
      scheme === undefined ? `store ${url} is not a URL` : `stores of type "${scheme}:" are not supported`,
      URL_HINT,
    );
  }
  const path = pathOfFileUrl(url);
  await prepareFolder(path, options.create === true);
  const store = await FileStore.open(path, options);
  await ensureFormat(store, options.create === true);
  return store;
}
