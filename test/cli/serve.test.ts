/**
 * `afterimage serve` with the clients that people use: libnbd's tools, QEMU's, FUSE with a loop device and a mount, fio. Everything against what a restore
 * of the same point gives.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openStore } from '../../receiver/store/open.js';
import { MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { isRoot } from '../helpers/loop.js';
import { missingTools, must, program, storeWithFilesystems } from './images.js';
import { runWith, type Ran } from './fixture.js';

removeTempFolders();

const TOOLS = ['nbdinfo', 'nbdcopy', 'nbdfuse', 'qemu-img', 'qemu-io', 'fio', 'mkfs.ext4', 'mkfs.xfs', 'xfs_repair'];
const canRun = missingTools('serve', TOOLS).length === 0 && isRoot;
if (!isRoot) process.stdout.write('serve: tests with clients are skipped, not root\n');

let folder: string;
let url: string;

interface Served {
  readonly disks: { disk: string; uri: string; sizeBytes: number }[];
  readonly folder: string;
  readonly continued: boolean;
}

interface Serving extends Served {
  stop(): Promise<Ran>;
}

/** Serves in this process. */
async function serve(...args: string[]): Promise<Serving> {
  const stop = new AbortController();
  const state = args.includes('--state') ? [] : ['--state', join(await tempFolder('state'), 's')];
  let ready = (_: Served): void => undefined;
  const served = new Promise<Served>((resolve) => (ready = resolve));
  const ended = runWith(['--store', url, 'serve', 'web1', '--json', ...state, ...args], {
    signal: stop.signal,
    onOut: (text) => ready(JSON.parse(text) as Served),
  });
  const first = await Promise.race([served, ended]);
  if ('code' in first) throw new Error(`serve ended: ${first.err}`);
  return {
    ...first,
    stop: () => {
      stop.abort();
      return ended;
    },
  };
}

const uriOf = ({ disks }: Served, disk: string): string => disks.find((d) => d.disk === disk)?.uri ?? '';

async function restored(point: string, disk: string): Promise<string> {
  const path = join(folder, `${disk}-${point}.raw`);
  if (existsSync(path)) return path;
  const { code, err } = await runWith([
    '--store',
    url,
    'restore',
    'web1',
    '--point',
    point,
    '--disk',
    disk,
    '--to',
    path,
    '--sparse',
  ]);
  if (code !== 0) throw new Error(err);
  return path;
}

/** A mounted export: nbdfuse makes a file of it, a loop device a disk of that file. */
class Loop {
  readonly #fuse: ChildProcess;
  #mounted = false;

  private constructor(
    readonly place: string,
    readonly device: string,
    fuse: ChildProcess,
  ) {
    this.#fuse = fuse;
  }

  static async attach(uri: string, readOnly: boolean): Promise<Loop> {
    const place = await tempFolder('fuse');
    await mkdir(join(place, 'fuse'));
    const file = join(place, 'fuse', 'nbd');
    const fuse = spawn('nbdfuse', [...(readOnly ? ['-r'] : []), file, uri], { stdio: 'ignore' });
    await expect.poll(() => existsSync(file), { timeout: 10_000, interval: 20 }).toBe(true);
    const device = (await must('losetup', ...(readOnly ? ['-r'] : []), '-f', '--show', file)).trim();
    return new Loop(place, device, fuse);
  }

  async mount(...options: string[]): Promise<string> {
    const mount = join(this.place, 'mount');
    await mkdir(mount);
    await must('mount', ...options, this.device, mount);
    this.#mounted = true;
    return mount;
  }

  async detach(): Promise<void> {
    if (this.#mounted) await must('umount', join(this.place, 'mount'));
    await must('losetup', '-d', this.device);
    const ended = new Promise((resolve) => this.#fuse.once('exit', resolve));
    // The loop device lets go of the file a little after it is detached.
    await expect
      .poll(async () => (await program('umount', join(this.place, 'fuse'))).code, { timeout: 10_000, interval: 50 })
      .toBe(0);
    await ended;
  }
}

describe.skipIf(!canRun)('afterimage serve', () => {
  beforeAll(async () => {
    folder = await tempFolder('serve');
    url = `file:${folder}/store`;
    const store = await openStore(url, { create: true });
    await storeWithFilesystems(store, folder);
    await store.close();
  });

  test('all disks, read-only: what a restore of the same point gives', async () => {
    const serving = await serve('--point', '1');
    expect(serving.disks.map((d) => d.disk)).toEqual(['root', 'data']);
    const list = JSON.parse(await must('nbdinfo', '--list', '--json', uriOf(serving, 'root'))) as never;
    expect(list).toMatchObject({
      exports: [
        { 'export-name': 'root', 'export-size': 96 * MIB, is_read_only: true },
        { 'export-name': 'data', 'export-size': 300 * MIB, is_read_only: true },
      ],
    });
    for (const disk of ['root', 'data']) {
      const raw = await restored('1', disk);
      await must('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', raw, uriOf(serving, disk));
    }
    const copy = join(folder, 'copy.raw');
    await must('nbdcopy', uriOf(serving, 'root'), copy);
    await must('cmp', copy, await restored('1', 'root'));
    const write = await program('qemu-io', '-f', 'raw', '-c', 'write 0 4k', uriOf(serving, 'root'));
    expect(write.code).not.toBe(0);
    expect((await serving.stop()).code).toBe(0);
    expect(existsSync(serving.folder)).toBe(false);
  });

  test('one disk, whose export has no name as well', async () => {
    const serving = await serve('--point', 'latest', '--disk', 'data', '--cache-bytes', '1MiB');
    const [only] = serving.disks;
    expect(serving.disks).toHaveLength(1);
    const nameless = (only?.uri ?? '').replace('///data', '///');
    await must('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', await restored('2', 'data'), nameless);
    await serving.stop();
  });

  test('ext4 and XFS are whole, and hold the files of their point', async () => {
    const serving = await serve('--point', '1');
    const ext4 = await Loop.attach(uriOf(serving, 'root'), true);
    await must('e2fsck', '-fn', ext4.device);
    const root = await ext4.mount('-o', 'ro,noload');
    expect(await readFile(join(root, 'file-1'), 'utf8')).toBe('point 1 '.repeat(50_000));
    expect(await readdir(root)).not.toContain('file-2');
    await ext4.detach();
    const xfs = await Loop.attach(uriOf(serving, 'data'), true);
    await must('xfs_repair', '-n', xfs.device);
    const data = await xfs.mount('-o', 'ro,norecovery,nouuid');
    expect(await readFile(join(data, 'file-1'), 'utf8')).toBe('point 1 '.repeat(50_000));
    expect(await readdir(data)).toEqual(['file-1']);
    await xfs.detach();
    await serving.stop();
  });

  test('a writable filesystem, and a store that stays as it was', async () => {
    const before = await must('find', `${folder}/store`, '-type', 'f', '-printf', '%P %s %T@\n');
    const serving = await serve('--point', '2', '--writable');
    const ext4 = await Loop.attach(uriOf(serving, 'root'), false);
    const mount = await ext4.mount();
    await writeFile(join(mount, 'new'), 'new '.repeat(10_000));
    await must('rm', join(mount, 'file-1'));
    await must('sync', '-f', mount);
    expect((await readdir(mount)).sort()).toEqual(['file-2', 'lost+found', 'new']);
    await ext4.detach();
    await must('nbdcopy', uriOf(serving, 'root'), join(folder, 'written.raw'));
    await must('e2fsck', '-fn', join(folder, 'written.raw'));
    await serving.stop();
    expect(existsSync(serving.folder)).toBe(false);
    expect(await must('find', `${folder}/store`, '-type', 'f', '-printf', '%P %s %T@\n')).toBe(before);
  });

  test('fio finds what it has written', { timeout: 60_000 }, async () => {
    const serving = await serve('--point', '2', '--disk', 'data', '--writable', '--cache-bytes', '4MiB');
    const job = ['--ioengine=nbd', `--uri=${uriOf(serving, 'data')}`, '--name=verify', '--rw=randwrite'];
    const how = [
      '--bsrange=512-64k',
      '--blockalign=512',
      '--size=48M',
      '--io_size=24M',
      '--iodepth=8',
      '--verify=crc32c',
    ];
    await must('fio', ...job, ...how, '--do_verify=1', '--verify_fatal=1', '--randseed=7', `--aux-path=${folder}`);
    await serving.stop();
  });

  test('kill -9 after an acknowledged flush: the writes are there the next time', async () => {
    const state = join(await tempFolder('kept'), 'state');
    const args = [
      'serve',
      'web1',
      '--point',
      '2',
      '--disk',
      'root',
      '--writable',
      '--keep',
      '--state',
      state,
      '--json',
    ];
    const child = spawn(
      process.execPath,
      ['--import', './test/helpers/ts-loader.mjs', 'receiver/cli/main.ts', '--store', url, ...args],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    const served = await new Promise<Served>((resolve) => {
      let text = '';
      child.stdout.on('data', (bytes: Buffer) => {
        text += String(bytes);
        if (text.endsWith('}\n')) resolve(JSON.parse(text) as Served);
      });
    });
    const uri = served.disks[0]?.uri ?? '';
    const writes = [
      '-c',
      'write -P 0xab 40M 64k',
      '-c',
      'write -z 8M 1M',
      '-c',
      'write -P 0xcd 50000512 512',
      '-c',
      'flush',
    ];
    await must('qemu-io', '-f', 'raw', ...writes, uri);
    await must('nbdcopy', uri, join(folder, 'before-kill.raw'));
    // A second one must not come near it.
    const second = await runWith(['--store', url, ...args]);
    expect([second.code, second.err]).toEqual([1, expect.stringMatching(/open in another process/)]);
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;

    const again = await serve(...args.slice(2).filter((a) => a !== '--json'));
    expect([again.continued, again.folder]).toEqual([true, state]);
    const reads = ['-c', 'read -P 0xab 40M 64k', '-c', 'read -P 0 8M 1M', '-c', 'read -P 0xcd 50000512 512'];
    const read = await must('qemu-io', '-f', 'raw', ...reads, uriOf(again, 'root'));
    expect(read).not.toMatch(/verification failed/);
    await must('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', join(folder, 'before-kill.raw'), uriOf(again, 'root'));
    const { code } = await again.stop();
    expect(code).toBe(0);
    expect(existsSync(join(state, 'root', 'image'))).toBe(true);

    for (const [message, ...more] of [
      [/keeps writes over point 2/, '--point', '1', '--writable', '--keep'],
      [/keeps writes of an earlier run/, '--point', '2'],
    ] as const) {
      const refused = await runWith(['--store', url, 'serve', 'web1', '--state', state, ...more]);
      expect([refused.code, refused.err]).toEqual([2, expect.stringMatching(message)]);
    }
    expect(existsSync(join(state, 'root', 'image'))).toBe(true);
  });

  test('what a killed one left to be thrown away is removed by the next; Ctrl-C ends with exit code 0', async () => {
    const start = (): ChildProcess =>
      spawn(
        process.execPath,
        [
          '--import',
          './test/helpers/ts-loader.mjs',
          'receiver/cli/main.ts',
          '--store',
          url,
          'serve',
          'web1',
          '--point',
          '1',
        ],
        { stdio: ['ignore', 'ignore', 'pipe'] },
      );
    const ready = (child: ChildProcess): Promise<string> =>
      new Promise((resolve, reject) => {
        let text = '';
        child.once('exit', () => reject(new Error(text)));
        child.stderr?.on('data', (bytes: Buffer) => {
          text += String(bytes);
          if (text.includes('Ctrl-C ends it.')) resolve(text);
        });
      });
    const exit = (child: ChildProcess): Promise<number | null> => new Promise((resolve) => child.once('exit', resolve));
    const first = start();
    const text = await ready(first);
    expect(text).toMatch(/^web1, point 1 of .*: 2 disks, read-only\n {2}root {2}96\.0 MiB {2}nbd\+unix:/);
    expect(text).toMatch(/nbdinfo 'nbd.*\n.*nbdcopy 'nbd.*\n.*qemu-system-x86_64 .*snapshot=on/);
    const left = /socket=(\/var\/tmp\/afterimage-serve-[^/]+)\//.exec(text)?.[1] ?? '';
    expect(existsSync(join(left, 'root'))).toBe(true);
    first.kill('SIGKILL');
    await exit(first);
    const second = start();
    await ready(second);
    expect(existsSync(left)).toBe(false);
    second.kill('SIGINT');
    expect(await exit(second)).toBe(0);
  });

  const bad: [line: string, message: RegExp][] = [
    ['serve web1', /required option '--point/],
    ['serve nope --point 1', /no machine "nope"/],
    ['serve web1 --point 99', /no point 99/],
    ['serve web1 --point 1 --disk nope', /no disk nope/],
    ['serve web1 --point 1 --keep', /--keep needs --writable/],
    ['serve web1 --point 1 --listen 10809', /not an address/],
    ['serve web1 --point 1 --listen tcp:10809', /not an address/],
    ['serve web1 --point 1 --cache-bytes lots', /not a size/],
    ['serve web1 --point 1 --state FULL', /holds something else/],
    ['--config EMPTY serve web1 --point 1 --listen tcp:0.0.0.0:10809', /needs the receiver's CA, which is not there/],
  ];
  test.each(bad)('%s: exit code 2', async (line, message) => {
    const full = await tempFolder('full');
    await writeFile(join(full, 'precious'), 'x');
    await writeFile(join(full, 'receiver.yaml'), `stateDir: ${full}/none\n`);
    const args = line.replace('FULL', full).replace('EMPTY', join(full, 'receiver.yaml')).split(' ');
    const { code, out, err } = await runWith(['--store', url, ...args]);
    expect(err).toMatch(message);
    expect([code, out, (await readdir(full)).sort()]).toEqual([2, '', ['precious', 'receiver.yaml']]);
  });

  test('a socket that another process uses is left alone', async () => {
    const socket = join(await tempFolder('socket'), 'n.sock');
    const serving = await serve('--point', '1', '--listen', `unix:${socket}`);
    const state = join(await tempFolder('other'), 's');
    const other = await runWith([
      '--store',
      url,
      'serve',
      'web1',
      '--point',
      '1',
      '--listen',
      `unix:${socket}`,
      '--state',
      state,
    ]);
    expect([other.code, other.err]).toEqual([1, expect.stringMatching(/another process listens/)]);
    expect(existsSync(state)).toBe(false);
    await must('nbdinfo', uriOf(serving, 'root'));
    await serving.stop();
    expect(existsSync(socket)).toBe(false);
  });

  afterAll(async () => {
    // Nothing of ours is left behind.
    const loops = await must('losetup', '-a');
    expect(loops).not.toContain('afterimage-fuse-');
  });
});
