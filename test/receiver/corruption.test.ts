/**
 * Broken stores: each kind of damage gives a clear error of kind `corrupt`, and never a wrong restore.
 */
import { access, copyFile, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { layerName, manifestName } from '../../receiver/catalog/names.js';
import type { LayerRef } from '../../receiver/catalog/manifest.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { verifyDisk } from '../../receiver/volume/verify.js';
import { AfterimageError } from '../../shared/errors.js';
import { hashBlockAt } from '../../shared/blocks/hash.js';
import { chunkBytesMax, encodeChunk } from '../../shared/layer/chunk.js';
import { LAYER_HEADER_BYTES } from '../../shared/layer/layer.js';
import { MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { buildLayer, Chain } from '../helpers/layers.js';
import { between, randomOf } from '../helpers/random.js';
import { planOf, restoreTo } from '../helpers/restore.js';
import { randomChain } from '../helpers/random-chain.js';
import { differences } from '../helpers/restored.js';

removeTempFolders();

let folder: string;
let store: ObjectStore;
let chain: Chain;

beforeEach(async () => {
  folder = await tempFolder('corrupt');
  store = await openStore(`file:${folder}`, { create: true });
  chain = new Chain(store, { sizeBytes: 70 * MIB, blockBytes: 4096 });
  const blocks = Array.from({ length: 20 }, (_, i) => chain.block(i, 'first', i % 2 === 0));
  chain.apply([{ first: 0, blocks }]);
  await chain.base(0, 1);
  chain.point(1);
  for (const p of [2, 3]) {
    const changes = [{ first: 5, blocks: [chain.block(5, `at ${p}`, false), chain.block(6, `at ${p}`)] }];
    chain.apply(changes);
    await chain.delta(p, p, changes);
    chain.point(p);
  }
  await chain.publish();
});

const pathOf = (layer: LayerRef | undefined): string =>
  join(folder, layerName(chain.machine, chain.disk, layer as LayerRef));

async function flip(path: string, at: number): Promise<void> {
  const bytes = await readFile(path);
  bytes[at] = (bytes[at] ?? 0) ^ 0x10;
  await writeFile(path, bytes);
}

/** Restore and verify must both refuse, with the same code. */
async function expectBroken(code: string, message: RegExp): Promise<void> {
  const target = join(folder, '..', `${folder.split('/').at(-1)}-target.raw`);
  const restore = async (): Promise<unknown> =>
    restoreTo(await planOf(store, chain.machine, chain.disk, 3), { path: target, force: true });
  await expect(restore()).rejects.toMatchObject({ code, kind: 'corrupt' });
  await expect(restore()).rejects.toThrow(message);
  const verify = async (): Promise<unknown> => verifyDisk(await planOf(store, chain.machine, chain.disk, 3));
  await expect(verify()).rejects.toMatchObject({ code, kind: 'corrupt' });
  await rm(target, { force: true });
  await rm(`${target}.afterimage-restore`, { force: true });
}

describe('a broken store', () => {
  it('with a flipped byte in a chunk', async () => {
    await flip(pathOf(chain.bases[0]), LAYER_HEADER_BYTES + 600);
    await expectBroken('chunk-checksum', /layer machines.*base.*chunk 0 at byte 64/);
  });

  it('with a flipped byte in an index', async () => {
    const path = pathOf(chain.deltas[1]);
    await flip(path, (await readFile(path)).length - 32 - 5);
    await expectBroken('layer-index', /index of layer/);
  });

  it('with a flipped byte in a header: the index is what the manifest names, so it is read all the same', async () => {
    await flip(pathOf(chain.deltas[1]), 20);
    await verifyDisk(await planOf(store, chain.machine, chain.disk, 3));
  });

  it('with a truncated layer', async () => {
    const path = pathOf(chain.deltas[1]);
    await truncate(path, (await readFile(path)).length - 1);
    await expectBroken('layer-truncated', /truncated/);
  });

  it('with a lengthened layer', async () => {
    const path = pathOf(chain.deltas[1]);
    await writeFile(path, Buffer.concat([await readFile(path), Buffer.alloc(4096)]));
    // The manifest knows the length; what follows isn't looked at, and does no harm.
    const planned = await planOf(store, chain.machine, chain.disk, 3);
    await verifyDisk(planned);
  });

  it('with two layers swapped', async () => {
    const [a, b] = [pathOf(chain.deltas[0]), pathOf(chain.deltas[1])];
    await rename(a, `${a}-x`);
    await rename(b, a);
    await rename(`${a}-x`, b);
    await expectBroken('layer-misplaced', /layer/);
  });

  it('with an older write under a right name (a lost write)', async () => {
    const other = new Chain(store, { sizeBytes: 70 * MIB, blockBytes: 4096 });
    const aside = pathOf(chain.deltas[1]);
    await rm(aside);
    await other.delta(9, 9, [{ first: 1, zeroCount: 1 }]);
    await other.delta(9, 9, [{ first: 1, zeroCount: 1 }]);
    const forged = await other.delta(3, 3, [
      { first: 5, blocks: [chain.block(5, 'forged', false), chain.block(6, 'forged')] },
    ]);
    expect(pathOf(forged)).toBe(aside);
    await expectBroken('layer-misplaced', /other index|layer/);
  });

  it('with a missing layer', async () => {
    await rm(pathOf(chain.deltas[1]));
    await expectBroken('layer-missing', /missing/);
  });

  it('with a delta left out of the manifest', async () => {
    chain.deltas.pop();
    await chain.publish();
    await expectBroken('digest-mismatch', /digest/);
  });

  it('with a block that does not match its hash, although all checksums fit', async () => {
    const plain = chain.block(8, 'what was meant');
    const target = Buffer.alloc(chunkBytesMax(1, 1, plain.length));
    // The hash of other bytes: memory that changed between hashing and sending.
    const hashes = BigUint64Array.of(hashBlockAt(chain.block(8, 'other'), 0, plain.length, 8));
    const length = encodeChunk(target, 4096, [{ first: 8, count: 1, zero: false }], hashes, plain);
    const what = { kind: 'delta', firstPoint: 3, lastPoint: 3, segment: null, epoch: 1, sequence: 99 } as const;
    const ids = { machineId: chain.machine, diskId: chain.disk, seriesId: '', blockBytes: 4096 };
    const { bytes, ref } = buildLayer({ ...what, ...ids }, [target.subarray(0, length)]);
    await store.createIfAbsent(layerName(chain.machine, chain.disk, ref), bytes);
    chain.deltas.push(ref);
    await chain.publish();
    await expectBroken('block-hash', /layer machines.*block 8:/);
  });

  it('with a manifest copied to another number', async () => {
    const name = (n: number): string => join(folder, manifestName(chain.machine, n));
    await copyFile(name(1), name(2));
    await expect(planOf(store, chain.machine, chain.disk, 3)).rejects.toMatchObject({ kind: 'corrupt' });
  });

  it('still restores points that the damage does not touch', async () => {
    await flip(pathOf(chain.deltas[1]), LAYER_HEADER_BYTES + 60);
    const planned = await planOf(store, chain.machine, chain.disk, 2);
    const target = join(await tempFolder('target'), 'two.raw');
    await restoreTo(planned, { path: target });
    expect(await differences(target, chain.geometry, chain.models.get(2) ?? new Map())).toEqual([]);
  });
});

describe('random damage', () => {
  const ROUNDS = Number(process.env['AFTERIMAGE_FUZZ_ROUNDS'] ?? '150');
  it('never hangs, crashes or restores something wrong', { timeout: 120_000 }, async () => {
    const place = await tempFolder('fuzz');
    const fuzzed = await openStore(`file:${place}`, { create: true });
    const random = randomOf(4711);
    const history = await randomChain(fuzzed, 77);
    await history.publish(2, 1);
    const all: string[] = [];
    for await (const object of fuzzed.list('machines/')) all.push(object.name);
    const [number, model] = [...history.models].at(-1) ?? [0, new Map<number, Buffer>()];
    let errors = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const path = join(place, all[between(random, 0, all.length)] ?? '');
      const before = await readFile(path);
      await writeFile(path, damage(before, random));
      const target = join(place, 'target.raw');
      try {
        await restoreTo(await planOf(fuzzed, history.machine, history.disk, number), { path: target, force: true });
        expect(await differences(target, history.geometry, model)).toEqual([]);
      } catch (error) {
        expect(error).toBeInstanceOf(AfterimageError);
        errors++;
      }
      await writeFile(path, before);
    }
    // Most damage hits something that the newest point needs.
    expect(errors).toBeGreaterThan(ROUNDS / 4);
    await access(place);
  });
});

function damage(bytes: Buffer, random: () => number): Buffer {
  const kind = between(random, 0, 5);
  const at = between(random, 0, Math.max(1, bytes.length));
  const copy = Buffer.from(bytes);
  if (kind === 0) return copy.subarray(0, at);
  if (kind === 1)
    return Buffer.concat([copy.subarray(0, at), Buffer.alloc(between(random, 1, 100), 0xff), copy.subarray(at)]);
  if (kind === 2)
    return Buffer.concat([copy.subarray(0, at), copy.subarray(Math.min(copy.length, at + between(random, 1, 100)))]);
  for (let i = between(random, 1, 8); i > 0; i--) copy[between(random, 0, copy.length)] = between(random, 0, 256);
  return copy;
}
