/**
 * Spans of layers worked off by threads: what comes out, what isn't put anywhere, and what becomes of jobs whose thread dies.
 */
import { constants } from 'node:fs';
import { open, readFile, writeFile, type FileHandle } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openStore } from '../../receiver/store/open.js';
import { LayerReader, spansOf } from '../../receiver/volume/layer-reader.js';
import { ChunkThreads } from '../../receiver/volume/threads/pool.js';
import { bytesOfRoom, sharedRoom } from '../../receiver/volume/threads/shared-room.js';
import { spanJob, type Outlet, type Put, type SpanJob } from '../../receiver/volume/threads/span-job.js';
import { allPieces } from '../../receiver/volume/verify.js';
import { layerName } from '../../receiver/catalog/names.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import { MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { Chain, DISK, MACHINE } from '../helpers/layers.js';

removeTempFolders();

const BLOCKS = 640;
const BLOCK_BYTES = 4096;
const PIECE_BYTES = 64 * BLOCK_BYTES;

describe('threads', () => {
  const threads = new ChunkThreads(2);
  let folder: string;
  let chain: Chain;
  let path: string;
  let index: LayerIndex;
  let file: FileHandle;
  const plain = (): Buffer => Buffer.concat(Array.from({ length: BLOCKS }, (_, i) => chain.current.get(i) as Buffer));

  beforeAll(async () => {
    folder = await tempFolder('threads');
    const store = await openStore(`file:${folder}/store`, { create: true });
    chain = new Chain(store, { sizeBytes: 64 * MIB, blockBytes: BLOCK_BYTES });
    chain.apply([{ first: 0, blocks: Array.from({ length: BLOCKS }, (_, i) => chain.block(i, 'x', false)) }]);
    const base = await chain.base(0, 1);
    chain.point(1);
    await chain.publish();
    index = await new LayerReader(store, chain.owner).index(base);
    path = `${folder}/store/${layerName(MACHINE, DISK, base)}`;
    file = await open(path);
    await store.close();
  });
  afterAll(async () => {
    await file.close();
    await threads.close();
  });

  const jobs = (outlet: Outlet | null): SpanJob[] => {
    const all = allPieces(index);
    return spansOf(index.chunks, [...index.chunks.keys()]).map((span) =>
      spanJob(
        'layer',
        BLOCK_BYTES,
        index,
        span,
        (chunk) => ({
          pieces: all.get(chunk) ?? [],
          puts: outlet === null ? [] : [{ from: 0, offset: chunk * PIECE_BYTES, lengthBytes: PIECE_BYTES }],
        }),
        outlet,
      ),
    );
  };

  it('prove blocks, and add up to the digest', async () => {
    const results = await Promise.all(jobs(null).map((job) => threads.run(file.fd, job)));
    expect(results.every((r) => !r.isSealed && r.failures.length === 0)).toBe(true);
    const digest = results.reduce((sum, r) => sum ^ r.digest, 0n);
    expect(digest).toBe(index.hashes.reduce((sum, hash) => sum ^ hash, 0n));
  });

  it.each(['around the page cache', 'through it'])('write to a target, %s', async (how) => {
    const target = `${folder}/target`;
    await writeFile(target, '');
    const cached = await open(target, 'r+');
    // Where the filesystem has no such writes the call fails, and the other descriptor is used.
    const direct = await open(target, constants.O_RDWR | constants.O_DIRECT).catch(() => undefined);
    const outlet: Outlet = {
      path: target,
      direct: how === 'through it' ? null : (direct?.fd ?? null),
      directBytes: BLOCK_BYTES,
      cached: cached.fd,
      isSparse: how !== 'through it',
    };
    await Promise.all(jobs(outlet).map((job) => threads.run(file.fd, job)));
    await direct?.close();
    await cached.close();
    expect((await readFile(target)).equals(plain())).toBe(true);
  });

  it.each(['as a whole', 'by blocks'])('compose in a room that they know until it is left, %s', async (how) => {
    const room = sharedRoom(BLOCKS * BLOCK_BYTES);
    const whole = (chunk: number): Put => ({ from: 0, offset: chunk * PIECE_BYTES, lengthBytes: PIECE_BYTES });
    const halves = (chunk: number): Put[] =>
      [0, PIECE_BYTES / 2].map((from) => ({ from, offset: chunk * PIECE_BYTES + from, lengthBytes: PIECE_BYTES / 2 }));
    const composing = jobs(null).map((job): SpanJob => {
      const chunks = job.chunks.map((task) => ({
        ...task,
        puts: how === 'as a whole' ? [whole(task.number)] : halves(task.number),
      }));
      return { ...job, chunks, outlet: room };
    });
    for (let round = 0; round < 2; round++) {
      const bytes = bytesOfRoom(room);
      bytes.fill(0);
      await Promise.all(composing.map((job) => threads.run(file.fd, job)));
      expect(bytes.subarray(0, BLOCKS * BLOCK_BYTES).equals(plain())).toBe(true);
      threads.leave(room);
    }
  });

  it('put nothing of a chunk whose blocks are not those that the index has', async () => {
    const target = `${folder}/target-of-bad`;
    await writeFile(target, '');
    const cached = await open(target, 'r+');
    const [job] = jobs({ path: target, direct: null, directBytes: BLOCK_BYTES, cached: cached.fd, isSparse: false });
    if (job === undefined) throw new Error('no spans');
    const second = job.chunks[1]?.pieces[0];
    job.hashes[second?.hashAt ?? 0] = 1n;
    const { failures } = await threads.run(file.fd, job);
    expect(failures).toMatchObject([{ chunk: 1, error: { code: 'block-hash', kind: 'corrupt' } }]);
    await cached.close();
    const written = await readFile(target);
    expect(written.length).toBeLessThanOrEqual(PIECE_BYTES);
  });

  it('fail one bad chunk by itself where nothing is written', async () => {
    const results = await Promise.all(
      jobs(null).map((job) => {
        for (const chunk of job.chunks) if (chunk.number === 4) job.hashes[chunk.pieces[0]?.hashAt ?? 0] = 1n;
        return threads.run(file.fd, job);
      }),
    );
    expect(results.flatMap((r) => r.failures.map((f) => f.chunk))).toEqual([4]);
    const bad = new Set(
      (allPieces(index).get(4) ?? []).flatMap(({ hashAt, count }) =>
        Array.from({ length: count }, (_, i) => hashAt + i),
      ),
    );
    const digest = results.reduce((sum, r) => sum ^ r.digest, 0n);
    expect(digest).toBe(index.hashes.reduce((sum, hash, i) => (bad.has(i) ? sum : sum ^ hash), 0n));
  });

  it('say that a file is shorter than its span, and that it can not be read', async () => {
    const [job] = jobs(null);
    if (job === undefined) throw new Error('no spans');
    const beyond = { ...job, offset: 1 << 30 };
    await expect(threads.run(file.fd, beyond)).rejects.toMatchObject({ code: 'object-short', kind: 'corrupt' });
    await expect(threads.run(99_999, job)).rejects.toMatchObject({ code: 'store-io', kind: 'io' });
  });

  it('make room in a sparse file for what is about to be written, and say when there is none', async () => {
    const target = `${folder}/sparse`;
    await writeFile(target, '');
    const handle = await open(target, 'r+');
    try {
      await handle.truncate(16 * MIB);
      const outlet = { path: target, direct: handle.fd, directBytes: 4096, cached: handle.fd, isSparse: true };
      const ranges = [
        { offset: 0, lengthBytes: MIB },
        // Touches the one before.
        { offset: MIB, lengthBytes: 4096 },
        { offset: 8 * MIB, lengthBytes: 256 * 1024 },
        // Not worth a call.
        { offset: 12 * MIB, lengthBytes: 4096 },
      ];
      const roomBytes = async (): Promise<number> => (await handle.stat()).blocks * 512;
      await threads.reserve({ ...outlet, isSparse: false }, ranges);
      await threads.reserve({ ...outlet, direct: null }, ranges);
      expect(await roomBytes()).toBe(0);
      await threads.reserve(outlet, ranges);
      expect(await roomBytes()).toBe(MIB + 4096 + 256 * 1024);
      const tooMuch = [{ offset: 0, lengthBytes: 2 ** 50 }];
      await expect(threads.reserve(outlet, tooMuch)).rejects.toMatchObject({
        kind: 'io',
        message: expect.stringContaining(target) as string,
      });
    } finally {
      await handle.close();
    }
  });

  it('that die fail what they were at, and the next job finds new ones', async () => {
    const [job] = jobs(null);
    if (job === undefined) throw new Error('no spans');
    const running = Array.from({ length: 40 }, () =>
      threads.run(file.fd, job).then(
        () => 'done',
        (error: unknown) => (error as { code: string }).code,
      ),
    );
    await threads.close();
    const ended = await Promise.all(running);
    expect(ended).toContain('thread-died');
    expect(new Set(ended).size).toBeLessThanOrEqual(2);
    expect((await threads.run(file.fd, job)).failures).toEqual([]);
  });
});
