/** The copies that a cut makes before blocks are overwritten, at the moments at which a reader of the cut comes in between. */
import { expect, it } from 'vitest';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { geometryOf } from '../../shared/blocks/geometry.js';
import { MIB } from '../../shared/units.js';
import { OpenCut } from '../../receiver/volume/local/open-cut.js';

const BLOCK_BYTES = 4096;

it('a block that the cut’s reader is at is not overwritten before it has been read', async () => {
  const changed = new BlockSet();
  changed.addRange(0, 1);
  changed.addRange(2, 1);
  /** Reads of the file that are under way, each to be let go by hand. */
  const reads: { readonly block: number; readonly go: () => void }[] = [];
  const cut = new OpenCut(changed, {
    geometry: geometryOf(MIB, BLOCK_BYTES),
    readImage: (offset) => new Promise<void>((go) => reads.push({ block: offset / BLOCK_BYTES, go })),
    flush: () => Promise.resolve(),
    ended: () => undefined,
  });
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  let mayOverwrite = false;
  const preserving = Promise.resolve(cut.preserve(0, 3)).then(() => (mayOverwrite = true));
  expect(reads.map((r) => r.block)).toEqual([0]);
  const reading = cut.read(2, 1, Buffer.alloc(BLOCK_BYTES));
  expect(reads.map((r) => r.block)).toEqual([0, 2]);
  reads[0]?.go();
  await turn();
  // Whatever the writer began on its own account is done; the reader is not.
  for (const other of reads.slice(2)) other.go();
  await turn();
  expect(mayOverwrite).toBe(false);
  reads[1]?.go();
  await reading;
  await preserving;
  expect(mayOverwrite).toBe(true);
  cut.end('committed');
});
