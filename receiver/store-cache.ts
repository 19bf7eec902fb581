/**
 * The receiver's local cache of a store in a bucket, by its configuration. A folder is as near as a cache would be, so it gets none.
 */
import { join } from 'node:path';
import type { ReceiverConfig } from './config.js';
import { CachedStore } from './store/cached-store.js';
import { isFolderUrl } from './store/open.js';
import type { ObjectStore } from './store/store.js';

/** Below the folder that is configured: what is in it is removed at the start, and an operator's folder may hold other things. */
const FOLDER = 'afterimage-store-cache';

export async function withCache(
  store: ObjectStore,
  config: Pick<ReceiverConfig, 'storeCache' | 'stateDir'>,
): Promise<ObjectStore> {
  const { enabled, folder, bytes } = config.storeCache;
  if (!enabled || isFolderUrl(store.url)) return store;
  return CachedStore.open(store, join(folder ?? config.stateDir, FOLDER), bytes);
}
