/**
 * qcow2 images made by a restore, judged by QEMU's own tools: clean, and the same as the raw disk, whatever the history, the size and the interruption.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { open, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { systemClock } from '../../shared/clock.js';
import { GIB, KIB, MIB } from '../../shared/units.js';
import { runCli } from '../../receiver/cli/program.js';
import { openStore } from '../../receiver/store/open.js';
import { CLUSTER_BYTES, Qcow2Layout } from '../../receiver/volume/qcow2-layout.js';
import { openTarget } from '../../receiver/volume/target.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { Chain, type Change } from '../helpers/layers.js';
import { detachLoops, isRoot, loopDevice } from '../helpers/loop.js';
import { randomChain } from '../helpers/random-chain.js';
import { planOf, restoreTo } from '../helpers/restore.js';

removeTempFolders();
detachLoops();
const SEEDS = Number(process.env['AFTERIMAGE_SEEDS'] ?? '4');
const FIRST_SEED = Number(process.env['AFTERIMAGE_SEED'] ?? '1');
const hasQemu = spawnSync('qemu-img', ['--version']).status === 0;
if (!hasQemu) process.stderr.write('qemu-img is missing (Debian: qemu-utils): images are not judged by it\n');

const qemuImg = (...args: string[]): { status: number | null; text: string } => {
  const { status, stdout, stderr } = spawnSync('qemu-img', args, { encoding: 'utf8' });
  return { status, text: stdout + stderr };
};

/** Clean, without leaks, and with the content of a raw file. */
function expectSame(image: string, raw: string): void {
  expect(qemuImg('check', '-f', 'qcow2', image)).toEqual({
    status: 0,
    text: expect.stringMatching(/^No errors were found on the image/) as unknown,
  });
  expect(qemuImg('compare', '-f', 'qcow2', '-F', 'raw', image, raw)).toEqual({
    status: 0,
    text: 'Images are identical.\n',
  });
}

const newChain = async (sizeBytes: number, blockBytes = 4096): Promise<{ url: string; chain: Chain }> => {
  const url = `file:${await tempFolder('qcow2')}/store`;
  const store = await openStore(url, { create: true });
  return { url, chain: new Chain(store, { sizeBytes, blockBytes }) };
};

async function planned(url: string, chain: Chain, point: number): ReturnType<typeof planOf> {
  return planOf(await openStore(url), chain.machine, chain.disk, point);
}

/** A disk with data in many places, the last block included, as deltas over bases. */
async function scattered(sizeBytes: number): Promise<{ url: string; chain: Chain }> {
  const { url, chain } = await newChain(sizeBytes);
  const { blockCount } = chain.geometry;
  const changes: Change[] = [];
  for (let first = 0; first < blockCount; first += 9_973) {
    const count = Math.min(1 + (first % 40), blockCount - first);
    changes.push({ first, blocks: Array.from({ length: count }, (_, i) => chain.block(first + i, 'base', false)) });
  }
  changes.push({ first: blockCount - 1, blocks: [chain.block(blockCount - 1, 'end')] });
  chain.apply(changes);
  for (let s = 0; s < chain.geometry.segmentCount; s++) await chain.base(s, 1);
  chain.point(1);
  // Half a cluster of its own, and in the middle of what the bases have.
  const later: Change[] = [{ first: 5, blocks: [chain.block(5, 'later'), chain.block(6, 'later')] }];
  if (blockCount > 1_000) later.push({ first: 777, blocks: [chain.block(777, 'later')] });
  chain.apply(later);
  await chain.delta(2, 2, later);
  chain.point(2);
  await chain.publish();
  return { url, chain };
}

describe.skipIf(!hasQemu)('qcow2 images', () => {
  for (let seed = FIRST_SEED; seed < FIRST_SEED + SEEDS; seed++) {
    it(`are clean and exact for random histories (seed ${seed})`, async () => {
      const folder = await tempFolder('qcow2');
      const store = await openStore(`file:${folder}/store`, { create: true });
      const chain = await randomChain(store, seed * 31);
      await chain.publish();
      for (const number of [...chain.models.keys()].slice(-3)) {
        const plan = await planOf(store, chain.machine, chain.disk, number);
        const [image, raw] = [join(folder, `${number}.qcow2`), join(folder, `${number}.raw`)];
        await restoreTo(plan, { path: image, format: 'qcow2', readBack: true, sparse: number % 2 === 0 });
        await restoreTo(plan, { path: raw });
        expectSame(image, raw);
        const blocksPerCluster = CLUSTER_BYTES / chain.geometry.blockBytes;
        const held = new Set(
          [...(chain.models.get(number)?.keys() ?? [])].map((b) => Math.floor(b / blocksPerCluster)),
        );
        // What is zero takes no place: data, and a handful of tables.
        expect((await stat(image)).size).toBeLessThanOrEqual((held.size + 6) * CLUSTER_BYTES);
      }
    });
  }

  for (const [sizeBytes, what] of [
    [MIB, 'the smallest disk'],
    [5 * MIB + 512, 'a sector more than clusters'],
    [64 * MIB - 512, 'a sector less'],
    [512 * MIB + 60 * KIB, 'a little more than one L2 table'],
    [2 * GIB + 3 * 512, 'several L2 tables'],
  ] as const) {
    it(`may have any size: ${what}`, async () => {
      const { url, chain } = await scattered(sizeBytes);
      const plan = await planned(url, chain, 2);
      const folder = await tempFolder('size');
      const [image, raw] = [join(folder, 'disk.qcow2'), join(folder, 'disk.raw')];
      await restoreTo(plan, { path: image, format: 'qcow2', readBack: true });
      await restoreTo(plan, { path: raw });
      expectSame(image, raw);
      const info = JSON.parse(qemuImg('info', '--output=json', '-f', 'qcow2', image).text) as Record<string, unknown>;
      expect(info['virtual-size']).toBe(sizeBytes);
    });
  }

  it('may be empty', async () => {
    const { url, chain } = await newChain(40 * MIB);
    chain.point(1);
    await chain.publish();
    const image = join(await tempFolder('empty'), 'disk.qcow2');
    await restoreTo(await planned(url, chain, 1), { path: image, format: 'qcow2', readBack: true });
    const raw = join(await tempFolder('empty'), 'disk.raw');
    await restoreTo(await planned(url, chain, 1), { path: raw });
    expectSame(image, raw);
  });

  it('count their own tables, also where that takes one more', async () => {
    const path = join(await tempFolder('layout'), 'disk.qcow2');
    // One block of refcounts covers 32,768 clusters, its own and those of all tables among them.
    for (const dataClusters of [32_759, 32_760, 32_761, 32_762, 65_530, 65_540]) {
      const data = new BlockSet();
      data.addRange(3, dataClusters);
      const layout = new Qcow2Layout(6 * GIB, data);
      const file = await open(path, 'w');
      await file.truncate(layout.fileBytes);
      for (const { offset, bytes } of layout.tables()) await file.write(bytes, 0, bytes.length, offset);
      const header = layout.header();
      await file.write(header, 0, header.length, 0);
      await file.close();
      const { status, text } = qemuImg('check', '-f', 'qcow2', path);
      expect([status, text]).toEqual([0, expect.stringContaining(`${dataClusters}/98304 = `)]);
      expect(text).toMatch(/^No errors/);
    }
  });

  it('are refused to replace data, unless forced', async () => {
    const { url, chain } = await scattered(5 * MIB);
    const plan = await planned(url, chain, 2);
    const path = join(await tempFolder('full'), 'disk.qcow2');
    await writeFile(path, 'precious');
    await expect(restoreTo(plan, { path, format: 'qcow2' })).rejects.toMatchObject({ code: 'target-not-empty' });
    expect(await readFile(path, 'utf8')).toBe('precious');
    await restoreTo(plan, { path, format: 'qcow2', force: true });
    expect(qemuImg('check', '-f', 'qcow2', path).status).toBe(0);
  });

  it('continue after a cancel', async () => {
    const { url, chain } = await scattered(300 * MIB);
    const plan = await planned(url, chain, 2);
    const folder = await tempFolder('cancel');
    const [image, raw] = [join(folder, 'disk.qcow2'), join(folder, 'disk.raw')];
    const stop = new AbortController();
    const first = restoreTo(plan, {
      path: image,
      format: 'qcow2',
      signal: stop.signal,
      syncBytes: 1,
      onProgress: (r) => r.phase === 'restore' && stop.abort(),
    });
    const poll = setInterval(() => existsSync(`${image}.afterimage-restore`) && stop.abort(), 1);
    await expect(first).rejects.toMatchObject({ kind: 'cancelled' });
    clearInterval(poll);
    expect(qemuImg('check', '-f', 'qcow2', image).status).not.toBe(0);
    await restoreTo(plan, { path: image, format: 'qcow2', readBack: true });
    await restoreTo(plan, { path: raw });
    expectSame(image, raw);
  });

  for (const [place, keeps] of [
    ['restore.unit-written:1', false],
    ['restore.unit-recorded:1', true],
    ['restore.unit-recorded:4', true],
    ['restore.finished:1', true],
  ] as const) {
    it(`continue after kill -9 (${place}), and are no image before the end`, async () => {
      const { url, chain } = await scattered(300 * MIB);
      const folder = await tempFolder('killed');
      const [image, raw] = [join(folder, 'disk.qcow2'), join(folder, 'disk.raw')];
      const journal = `${image}.afterimage-restore`;
      const child = ['--import', './test/helpers/ts-loader.mjs', 'test/receiver/restore-child.ts'];
      const { signal } = spawnSync(process.execPath, [...child, url, '2', image, journal, 'no', 'qcow2'], {
        env: { ...process.env, AFTERIMAGE_FAILPOINT: place },
        stdio: 'inherit',
      });
      expect(signal).toBe('SIGKILL');
      const finished = place.startsWith('restore.finished');
      expect(qemuImg('check', '-f', 'qcow2', image).status === 0).toBe(finished);
      if (!finished) expect((await readFile(image)).toString('latin1', 0, 100)).toMatch(/not finished/);
      const plan = await planned(url, chain, 2);
      // A raw restore of the same name is another one.
      await expect(restoreTo(plan, { path: image, format: 'raw' })).rejects.toMatchObject({ kind: 'refused' });
      const result = await restoreTo(plan, { path: image, format: 'qcow2', readBack: true });
      expect(result.keptBytes > 0).toBe(keeps);
      expect(existsSync(journal)).toBe(false);
      await restoreTo(plan, { path: raw });
      expectSame(image, raw);
    });
  }

  it('come from the command as well, by its other name', async () => {
    const { url, chain } = await scattered(70 * MIB);
    const folder = await tempFolder('cli');
    const [image, raw] = [join(folder, 'a.qcow2'), join(folder, 'b.qcow2')];
    const run = async (...args: string[]): Promise<{ code: number; err: string }> => {
      const [out, err] = [new PassThrough(), new PassThrough()];
      const io = { out, err, env: { AFTERIMAGE_STORE: url }, clock: systemClock, signal: new AbortController().signal };
      const code = await runCli(args, io);
      return { code, err: String(err.read()) };
    };
    const to = ['web1', '--point', 'latest', '--to'];
    expect((await run('materialise', ...to, image, '--format', 'qcow2', '--read-back')).err).toMatch(
      /proven by digest/,
    );
    // The name of a file says nothing.
    expect((await run('restore', ...to, raw, '--sparse')).code).toBe(0);
    expectSame(image, raw);
    expect(await run('restore', ...to, join(folder, 'c'), '--format', 'vmdk')).toMatchObject({
      code: 2,
      err: expect.stringMatching(/raw, qcow2/) as unknown,
    });
    expect(chain.geometry.segmentCount).toBe(2);
  });
});

it.skipIf(!isRoot)('a block device is no qcow2 image', async () => {
  const device = loopDevice(join(await tempFolder('device'), 'disk'), 10 * MIB);
  const open = openTarget(device, { sizeBytes: 10 * MIB, sparse: true, format: 'qcow2' });
  await expect(open).rejects.toMatchObject({ kind: 'usage' });
});
