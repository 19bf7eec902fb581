/**
 * A second copy of the newest manifest, once it has stood from one run of upkeep to the next: of a machine that replicates, the next point says all that
 * this one did within seconds, and costs nothing more; that of one at rest is all that says where it stands, and would have to last for years.
 *
 * Promise: the copy has the very bytes that were read from the store and proven. On a crash: it is made by a later run. Of older ones, those that this
 * process made are removed; others take some ten KiB, and count for nothing.
 */
import { AfterimageError } from '../../shared/errors.js';
import { MANIFEST_BYTES_MAX } from '../../shared/limits.js';
import { openManifest } from '../catalog/manifest-io.js';
import type { Manifest } from '../catalog/manifest.js';
import { manifestName } from '../catalog/names.js';
import { copyName, createCopy } from '../catalog/second-copies.js';
import { DeleteError } from '../store/delete-error.js';
import type { ObjectStore } from '../store/store.js';

export class HeadCopy {
  #seen = 0;
  #copied = 0;

  /** Called with each run. */
  async keep(store: ObjectStore, { machine, number }: Manifest): Promise<void> {
    const hasStood = number === this.#seen;
    this.#seen = number;
    if (!hasStood || number === this.#copied) return;
    const name = manifestName(machine.id, number);
    const bytes = await store.get(name, MANIFEST_BYTES_MAX);
    // Collected meanwhile, or lost: the next run, or the scrub, sees which.
    if (bytes === null || !isWhole(bytes, machine.id, number)) return;
    await createCopy(store, name, bytes);
    const before = this.#copied;
    this.#copied = number;
    if (before > 0) await removeIfPossible(store, copyName(manifestName(machine.id, before)));
  }
}

function isWhole(bytes: Buffer, machine: Manifest['machine']['id'], number: number): boolean {
  try {
    openManifest(bytes, machine, number);
    return true;
  } catch (error) {
    // The scrub tells of it.
    if (error instanceof AfterimageError && error.kind === 'corrupt') return false;
    throw error;
  }
}

async function removeIfPossible(store: ObjectStore, name: string): Promise<void> {
  await store.deleteMany([name]).catch((error: unknown) => {
    // A store that keeps everything keeps this as well; nobody takes it for the newest.
    if (!(error instanceof DeleteError)) throw error;
  });
}
