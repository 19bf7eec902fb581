/** Compares a restored target with a model: every block of the model, and that all else is zero. */
import { open } from 'node:fs/promises';
import type { Geometry } from '../../shared/blocks/geometry.js';
import { isZero } from '../../shared/blocks/hash.js';
import { nextData } from '../../shared/native/libc.js';
import type { Model } from './layers.js';

/** Numbers of the first few blocks that differ. */
export async function differences(path: string, geometry: Geometry, model: Model): Promise<number[]> {
  const handle = await open(path, 'r');
  const { sizeBytes, blockBytes, blockCount } = geometry;
  const found: number[] = [];
  const buffer = Buffer.alloc(blockBytes);
  try {
    for (const [number, bytes] of model) {
      const length = Math.min(blockBytes, sizeBytes - number * blockBytes);
      await handle.read(buffer, 0, length, number * blockBytes);
      if (buffer.compare(bytes, 0, length, 0, length) !== 0) found.push(number);
    }
    // What isn't in the model must be zero; holes are, so only data has to be read.
    let block = 0;
    while (block < blockCount) {
      const data = nextData(handle.fd, block * blockBytes, sizeBytes);
      if (data === null) break;
      if (data !== undefined) block = Math.max(block, Math.floor(data[0] / blockBytes));
      const end = data === undefined ? blockCount : Math.min(blockCount, Math.ceil(data[1] / blockBytes));
      for (; block < end; block++) {
        if (model.has(block)) continue;
        const { bytesRead } = await handle.read(buffer, 0, blockBytes, block * blockBytes);
        if (!isZero(buffer, 0, bytesRead)) found.push(block);
      }
    }
  } finally {
    await handle.close();
  }
  return found.slice(0, 10);
}
