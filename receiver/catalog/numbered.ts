/**
 * Numbered objects of which the highest counts: creating the next number, for those whose content tells them apart.
 */
import type { ObjectStore } from '../store/store.js';
import { createWithCopy } from './second-copies.js';

/** False: somebody else has this number. A retry that meets its own success, here or inside the store's adapter, finds its own bytes. */
export async function createNumbered(store: ObjectStore, name: string, bytes: Buffer): Promise<boolean> {
  if ((await createWithCopy(store, name, bytes)) === 'created') return true;
  // One byte more is enough to know that it isn't ours.
  const there = await store.get(name, bytes.length + 1).catch(() => null);
  return there?.equals(bytes) ?? false;
}
