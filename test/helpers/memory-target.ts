/** Restores a planned disk into memory, unit by unit as a restore does, with the digest checked at the end. */
import { digestFromText } from '../../shared/blocks/hash.js';
import { corrupt } from '../../shared/errors.js';
import { systemClock } from '../../shared/clock.js';
import { Progress } from '../../receiver/volume/progress.js';
import { restoreUnit } from '../../receiver/volume/restore-unit.js';
import type { RestoreTarget } from '../../receiver/volume/target.js';
import type { Planned } from './restore.js';

/** Blocks that were written, by number; the rest is zero. Throws as a restore does. */
export async function restoreToMemory({ reader, plan, disk }: Planned): Promise<Map<number, Buffer>> {
  const { blockBytes, sizeBytes } = plan.geometry;
  const blocks = new Map<number, Buffer>();
  const write = async (offset: number, bytes: Buffer): Promise<void> => {
    for (let at = 0; at < bytes.length; at += blockBytes) {
      const block = Buffer.alloc(blockBytes);
      bytes.copy(block, 0, at, at + blockBytes);
      blocks.set((offset + at) / blockBytes, block);
    }
  };
  const target = { knownZero: true, write, outlet: () => null } as unknown as RestoreTarget;
  const progress = new Progress('restore', sizeBytes, 0, systemClock, undefined);
  const { signal } = new AbortController();
  let digest = 0n;
  for (const unit of plan.units) digest ^= await restoreUnit({ reader, plan, target, progress, signal }, unit);
  if (digest !== digestFromText(disk.digest)) throw corrupt('digest-mismatch', 'the layers do not add up to the point');
  return blocks;
}

/** Numbers of blocks in which a restored disk differs from what it should hold. */
export function wrongBlocks(found: ReadonlyMap<number, Buffer>, model: ReadonlyMap<number, Buffer>): number[] {
  const numbers = new Set([...found.keys(), ...model.keys()]);
  return [...numbers].filter((n) => {
    const is = found.get(n);
    const should = model.get(n);
    if (is === undefined || should === undefined) return (is ?? should)?.some((byte) => byte !== 0) === true;
    return !is.equals(should);
  });
}
