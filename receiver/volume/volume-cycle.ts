/**
 * One disk's part of a cycle: of the blocks that changed up to the cut, those that differ from the newest point become delta layers, and the disk's
 * digest follows block by block (out with the old hash, in with the new). Nothing counts until a manifest names the layers.
 *
 * Where layers of the newest point are damaged, what a block was can't be told, and its digest not carried on: then all of the disk is to be cut, and
 * the digest made anew from what it holds.
 */
import { setImmediate } from 'node:timers/promises';
import type { BlockSet } from '../../shared/blocks/block-set.js';
import { ZERO_HASH } from '../../shared/blocks/hash.js';
import type { BlockHasher } from '../../shared/crypto/block-hasher.js';
import { failpoint } from '../../shared/failpoints.js';
import type { ChunkSealer } from '../../shared/layer/chunk.js';
import type { LayerIdentity } from '../../shared/layer/layer.js';
import type { BlockNumber, DiskId } from '../../shared/units.js';
import type { LayerRef } from '../catalog/manifest.js';
import type { ObjectStore } from '../store/store.js';
import { readCut } from './cut-reader.js';
import type { CutSource, VolumeCut } from './cut.js';
import { DeltaWriter } from './delta-writer.js';
import type { OldHashes } from './old-hashes.js';
import { cancelled } from './plan-point.js';

export interface StoredCut {
  readonly layers: readonly LayerRef[];
  /** XOR of old and new hashes: old digest XOR this is the digest at the cut. Of a whole disk: the digest. */
  readonly digestChange: bigint;
  /** Blocks that differed. */
  readonly sentBlocks: number;
}

/** What a cycle is to do with a disk beyond what has changed. */
export interface CutOrders {
  /** All of the disk is in the cut: what differs, or can't be told from what was before, is sent, and the digest is that of the whole. */
  readonly isWhole: boolean;
  /** Sent also when nothing differs: what the chain has of them is damaged. */
  readonly again: BlockSet;
}

/** What this block was at the newest point can't be told, as the chain is damaged there. */
export class OldUnknown extends Error {
  readonly disk: DiskId;

  constructor(disk: DiskId, block: BlockNumber) {
    super(`what block ${block} of disk ${disk} was at the newest point can't be told, as the chain is damaged there`);
    this.disk = disk;
  }
}

/** How a disk's blocks are hashed, and its chunks encrypted with the keys of the source where that encrypts. */
export interface DiskCipher {
  readonly hash: BlockHasher;
  readonly sealer: ChunkSealer | null;
}

/** Between two batches the signal is looked at and other events get their turn. Throws OldUnknown, unless it is for the whole disk. */
export async function storeCut(
  store: ObjectStore,
  cut: VolumeCut,
  old: OldHashes,
  orders: CutOrders,
  { disk, geometry }: Pick<CutSource, 'disk' | 'geometry'>,
  identity: () => LayerIdentity,
  cipher: DiskCipher,
  signal?: AbortSignal,
): Promise<StoredCut> {
  const { blockBytes, blockCount } = geometry;
  if (orders.isWhole && cut.changed.size !== blockCount)
    throw new Error(`a cut of ${cut.changed.size} blocks for the whole of disk ${disk}`);
  const writer = new DeltaWriter(store, blockBytes, identity, cipher.sealer);
  let digestChange = 0n;
  let sentBlocks = 0;
  try {
    for await (const { blocks, bytes } of readCut(cut, blockBytes)) {
      if (signal?.aborted === true) throw cancelled('a cycle of replication');
      const { hashes: before, unknown } = await old.of(blocks);
      for (const [i, block] of blocks.entries()) {
        const offset = i * blockBytes;
        const hash = cipher.hash(bytes, offset, blockBytes, block);
        const isKnown = !unknown.has(block);
        if (!isKnown && !orders.isWhole) throw new OldUnknown(disk, block);
        const known = before[i] ?? ZERO_HASH;
        digestChange ^= orders.isWhole ? hash : known ^ hash;
        if (isKnown && hash === known && !orders.again.has(block)) continue;
        sentBlocks++;
        old.note(block, hash);
        const wait = hash === ZERO_HASH ? writer.addZero(block) : writer.add(block, bytes, offset, hash);
        if (wait !== undefined) await wait;
      }
      failpoint('receiver.replicate.batch');
      // Reads out of a cache resolve without leaving this turn of the event loop: writes of the guest must get theirs.
      await setImmediate();
    }
    return { layers: await writer.finish(), digestChange, sentBlocks };
  } catch (error) {
    await writer.abort();
    throw error;
  }
}
