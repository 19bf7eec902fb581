/**
 * A disk image put into an object store as one recovery point of one machine, without an agent: base layers for the segments that hold data. What a
 * sparse file doesn't hold isn't read, so an image of a TiB costs what is in it.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readSync } from 'node:fs';
import { segmentBlocks } from '../shared/blocks/geometry.js';
import { openStore } from '../receiver/store/open.js';
import { Chain } from '../test/helpers/layers.js';

const BLOCK_BYTES = 4096;
const ZERO = Buffer.alloc(BLOCK_BYTES);

interface MapEntry {
  readonly start: number;
  readonly length: number;
  readonly data: boolean;
  readonly zero: boolean;
}

/** Runs of bytes that a sparse file holds. */
function dataOf(path: string): MapEntry[] {
  const text = execFileSync('qemu-img', ['map', '--output=json', '-f', 'raw', path], { encoding: 'utf8' });
  return (JSON.parse(text) as MapEntry[]).filter((entry) => entry.data && !entry.zero);
}

/** Returns the bytes of data that the point holds. */
export async function storeImage(folder: string, name: string, path: string, sizeBytes: number): Promise<number> {
  mkdirSync(folder);
  const store = await openStore(`file:${folder}`, { create: true });
  const chain = new Chain(store, { sizeBytes, blockBytes: BLOCK_BYTES, name });
  const perSegment = segmentBlocks(chain.geometry, 0).count;
  const segments = new Map<number, Map<number, Buffer>>();
  let dataBytes = 0;
  const fd = openSync(path, 'r');
  try {
    for (const { start, length } of dataOf(path)) {
      for (let block = Math.floor(start / BLOCK_BYTES); block * BLOCK_BYTES < start + length; block++) {
        const bytes = Buffer.alloc(BLOCK_BYTES);
        readSync(fd, bytes, 0, BLOCK_BYTES, block * BLOCK_BYTES);
        if (bytes.equals(ZERO)) continue;
        chain.apply([{ first: block, blocks: [bytes] }]);
        const segment = Math.floor(block / perSegment);
        const model = segments.get(segment) ?? new Map<number, Buffer>();
        segments.set(segment, model.set(block, bytes));
        dataBytes += BLOCK_BYTES;
      }
    }
  } finally {
    closeSync(fd);
  }
  for (const [segment, model] of segments) await chain.base(segment, 1, model);
  chain.point(1);
  await chain.publish();
  await store.close();
  return dataBytes;
}
