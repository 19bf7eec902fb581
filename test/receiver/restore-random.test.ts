/**
 * Property: whatever the history, every point restores to exactly what the model says, from layers alone.
 */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { segmentBlocks } from '../../shared/blocks/geometry.js';
import { hashBlockAt } from '../../shared/blocks/hash.js';
import { openStore } from '../../receiver/store/open.js';
import { hashesOfSegment } from '../../receiver/volume/block-hashes.js';
import { ChunkLedger, verifyDisk } from '../../receiver/volume/verify.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { randomChain } from '../helpers/random-chain.js';
import { planOf, restoreTo } from '../helpers/restore.js';
import { differences } from '../helpers/restored.js';

removeTempFolders();
const SEEDS = Number(process.env['AFTERIMAGE_SEEDS'] ?? '12');
const FIRST_SEED = Number(process.env['AFTERIMAGE_SEED'] ?? '1');

describe('restore of random histories', () => {
  for (let seed = FIRST_SEED; seed < FIRST_SEED + SEEDS; seed++) {
    it(`is exact at every point (seed ${seed})`, { timeout: 60_000 }, async () => {
      const folder = await tempFolder('random');
      const store = await openStore(`file:${folder}/store`, { create: true });
      const chain = await randomChain(store, seed);
      await chain.publish(seed % 2 === 0 ? 4 : 0, 2);
      const ledger = new ChunkLedger();
      for (const [number, model] of chain.models) {
        const planned = await planOf(store, chain.machine, chain.disk, number);
        const path = join(folder, `point-${number}.raw`);
        const result = await restoreTo(planned, { path, readBack: true });
        expect(await differences(path, chain.geometry, model)).toEqual([]);
        expect(result.digest).toBe(planned.disk.digest);
        // Composed region by region it is the same, sparse or not.
        const composed = { runsMin: 0, runsPerTouch: 0, segments: 1 + (number % 2) };
        const other = join(folder, `composed-${number}.raw`);
        await restoreTo(planned, { path: other, readBack: true, composed, sparse: number % 3 > 0 });
        expect(await differences(other, chain.geometry, model)).toEqual([]);
        await verifyDisk({ ...planned, ledger });
        for (let s = 0; s < chain.geometry.segmentCount; s++) {
          const { first, count } = segmentBlocks(chain.geometry, s);
          const hashes = await hashesOfSegment(planned.reader, planned.plan, s);
          const wrong: number[] = [];
          for (let i = 0; i < count; i++) {
            const bytes = model.get(first + i);
            const expected = bytes === undefined ? 0n : hashBlockAt(bytes, 0, bytes.length, first + i);
            if (hashes[i] !== expected) wrong.push(first + i);
          }
          expect(wrong).toEqual([]);
        }
      }
    });
  }
});
