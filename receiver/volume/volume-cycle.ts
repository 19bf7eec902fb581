/**
 * One disk's part of a cycle: of the blocks that changed up to the cut, those that differ from the newest point become delta layers, and the disk's
 * digest follows block by block (out with the old hash, in with the new). Nothing counts until a manifest names the layers.
 */
import { setImmediate } from 'node:timers/promises';
import { ZERO_HASH } from '../../shared/blocks/hash.js';
import type { BlockHasher } from '../../shared/crypto/block-hasher.js';
import { failpoint } from '../../shared/failpoints.js';
import type { ChunkSealer } from '../../shared/layer/chunk.js';
import type { LayerIdentity } from '../../shared/layer/layer.js';
import type { LayerRef } from '../catalog/manifest.js';
import type { ObjectStore } from '../store/store.js';
import { readCut } from './cut-reader.js';
import type { VolumeCut } from './cut.js';
import { DeltaWriter } from './delta-writer.js';
import type { OldHashes } from './old-hashes.js';
import { cancelled } from './plan-point.js';

export interface StoredCut {
  readonly layers: readonly LayerRef[];
  /** XOR of old and new hashes: old digest XOR this is the digest at the cut. */
  readonly digestChange: bigint;
  /** Blocks that differed. */
  readonly sentBlocks: number;
}

/** How a disk's blocks are hashed, and its chunks encrypted with the keys of the source where that encrypts. */
export interface DiskCipher {
  readonly hash: BlockHasher;
  readonly sealer: ChunkSealer | null;
}

/** Between two batches the signal is looked at and other events get their turn. */
export async function storeCut(
  store: ObjectStore,
  cut: VolumeCut,
  old: OldHashes,
  blockBytes: number,
  identity: () => LayerIdentity,
  cipher: DiskCipher,
  signal?: AbortSignal,
): Promise<StoredCut> {
  const writer = new DeltaWriter(store, blockBytes, identity, cipher.sealer);
  let digestChange = 0n;
  let sentBlocks = 0;
  try {
    for await (const { blocks, bytes } of readCut(cut, blockBytes)) {
      if (signal?.aborted === true) throw cancelled('a cycle of replication');
      const before = await old.of(blocks);
      for (const [i, block] of blocks.entries()) {
        const offset = i * blockBytes;
        const hash = cipher.hash(bytes, offset, blockBytes, block);
        const known = before[i] ?? ZERO_HASH;
        if (hash === known) continue;
        digestChange ^= known ^ hash;
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
