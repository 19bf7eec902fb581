/**
 * Opens the files of a hash store, or begins anew when there is nothing that can be believed. Says which, and why.
 */
import { AfterimageError } from '../../../shared/errors.js';
import type { PointNumber } from '../../../shared/units.js';
import { CHECKPOINT_NAME, readCheckpoint, type CheckpointHeader, type ReceiverState } from './checkpoint.js';
import { HashStoreCore, isStoreFile, type CoreOptions } from './core.js';
import { invalid } from './errors.js';
import { closingOnFailure } from './files.js';
import { HashFile } from './hash-file.js';
import { Journal } from './journal.js';
import { UNKNOWN, type SegmentTable } from './segment-table.js';

/**
 * `clean`: closed in order. `recovered`: the journal was replayed. `created`: there was none. `invalid`: there was one that can't be
 * used. After the last two every segment is unknown: `reset` says what the receiver has.
 */
export type OpenState = 'clean' | 'recovered' | 'created' | 'invalid';

export interface Opened {
  readonly core: HashStoreCore;
  readonly state: OpenState;
  /** For people. */
  readonly reason: string;
}

export const emptyState = (origin: string): ReceiverState => ({
  point: 0 as PointNumber,
  committedSeries: null,
  pointDigest: null,
  sweep: null,
  restore: null,
  origin: origin.slice(0, 500),
});

export async function openCore(options: CoreOptions): Promise<Opened> {
  try {
    const opened = await load(options);
    if (opened !== null) return opened;
    return await begin(options, 'created', 'there was no hash store');
  } catch (error) {
    if (!(error instanceof AfterimageError) || error.code !== 'hash-store-invalid') throw error;
    return await begin(options, 'invalid', error.message);
  }
}

/** Size of the disk that the store in this folder belongs to; null when there is none that can be read. */
export async function sizeOfStore(folder: CoreOptions['folder']): Promise<number | null> {
  try {
    return (await readCheckpoint(folder))?.header.sizeBytes ?? null;
  } catch (error) {
    if (error instanceof AfterimageError && error.code === 'hash-store-invalid') return null;
    throw error;
  }
}

async function begin(options: CoreOptions, state: 'created' | 'invalid', reason: string): Promise<Opened> {
  const generations = (await options.folder.list()).filter(isStoreFile).map((name) => Number(name.split('-')[1] ?? 0));
  const core = await HashStoreCore.fresh(options, Math.max(0, ...generations) + 1, UNKNOWN, emptyState(reason));
  await core.removeOthers();
  return { core, state, reason };
}

/** Null when the folder holds no store. Throws `hash-store-invalid` when it holds one that can't be used. */
async function load(options: CoreOptions): Promise<Opened | null> {
  const { folder, geometry, bootId } = options;
  const checkpoint = await readCheckpoint(folder);
  if (checkpoint === null) {
    const left = (await folder.list()).filter((name) => isStoreFile(name) && !name.startsWith(CHECKPOINT_NAME));
    // A kill during the very first opening leaves files without a checkpoint, too: nothing was known then.
    if (left.length > 0) throw invalid('the checkpoint is missing');
    return null;
  }
  const { header, table } = checkpoint;
  checkIdentity(header, options);
  if (table.digests.length !== geometry.segmentCount) throw invalid('the checkpoint has the wrong number of segments');
  const hashes = await HashFile.open(folder, header.hashGeneration, geometry);
  const journal = await closingOnFailure(hashes, () => Journal.open(folder, header.journalGeneration));
  const { hashGeneration, state } = header;
  const core = new HashStoreCore(options, { hashes, hashGeneration, journal, table, state });
  return closingOnFailure(core, () => recover(core, header, table, bootId));
}

async function recover(
  core: HashStoreCore,
  { clean, bootId: writtenIn }: CheckpointHeader,
  table: SegmentTable,
  bootId: string,
): Promise<Opened> {
  const sameBoot = writtenIn === bootId;
  if (!clean && !sameBoot) table.distrust();
  const cut = await core.replay();
  // The cut record was never applied. But a journal that lost more than its last record would look the same.
  if (cut) table.distrust();
  await core.removeOthers();
  if (clean || !sameBoot || cut) await core.checkpoint(false);
  return { core, state: clean ? 'clean' : 'recovered', reason: reasonOf(clean, sameBoot, cut) };
}

function checkIdentity(header: CheckpointHeader, { disk, geometry }: CoreOptions): void {
  if (header.disk !== disk) throw invalid(`the hash store belongs to disk ${header.disk}`);
  if (header.sizeBytes !== geometry.sizeBytes) {
    throw invalid(`the disk had ${header.sizeBytes} bytes and now has ${geometry.sizeBytes}`);
  }
  if (header.blockBytes !== geometry.blockBytes) {
    throw invalid(`the block size was ${header.blockBytes} and now is ${geometry.blockBytes}`);
  }
}

function reasonOf(clean: boolean, sameBoot: boolean, cut: boolean): string {
  if (clean) return 'closed in order';
  const verify = 'each segment is verified before it is used';
  if (!sameBoot) return `the machine stopped without closing the hash store; ${verify}`;
  return cut ? `the agent was killed while it wrote to the journal; ${verify}` : 'the agent was killed';
}
