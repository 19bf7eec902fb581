/**
 * The disk that the quickstart protects: a loop device with a mounted filesystem and a program that writes to it (as root), or an image file that is
 * written in bursts (without root). Makes it, writes to it, compares it with what was restored, and takes it away again.
 */
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs';
import { cp, mkdir, open, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const run = (command: string, ...args: string[]): string =>
  execFileSync(command, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` },
  }).trim();

export interface Comparison {
  readonly files: number;
  readonly bytes: number;
}

export interface DemoDisk {
  /** What is protected. */
  readonly path: string;
  readonly description: string;
  /** Bytes that the load has written so far. */
  readonly writtenBytes: number;
  startLoad(): void;
  stopLoad(): Promise<void>;
  /** Restores are written here. */
  readonly restoreTarget: string;
  readonly restoreArguments: readonly string[];
  /** Throws when what was restored differs. */
  compare(): Promise<Comparison>;
  remove(): Promise<void>;
}

const MIB = 1024 * 1024;
const DISK_BYTES = 512 * MIB;
const IMAGE_BYTES = 128 * MIB;
const FILES = 40;
const FILE_BYTES = 256 * 1024;

/** As root: ext4 on a loop device. Restores go to a second loop device. */
export async function makeLoopDisk(folder: string): Promise<DemoDisk> {
  const source = await makeLoop(join(folder, 'source.img'));
  run('mkfs.ext4', '-q', source);
  const mount = join(folder, 'source');
  await mkdir(mount);
  run('mount', source, mount);
  // Something real to copy first: the documentation of this system, or whatever of it there is.
  await cp('/usr/share/doc', join(mount, 'doc'), {
    recursive: true,
    verbatimSymlinks: true,
    errorOnExist: false,
  }).catch(() => undefined);
  run('sync', '-f', mount);
  const target = await makeLoop(join(folder, 'target.img'));
  const load = new FileLoad(join(mount, 'data'));
  const restored = join(folder, 'restored');
  return {
    path: source,
    description: `${source}, ext4 mounted at ${mount}`,
    get writtenBytes() {
      return load.writtenBytes;
    },
    startLoad: () => load.start(),
    stopLoad: async () => {
      await load.stop();
      run('sync', '-f', mount);
    },
    restoreTarget: target,
    restoreArguments: [],
    compare: async () => {
      await mkdir(restored, { recursive: true });
      run('mount', '-o', 'ro', target, restored);
      try {
        return compareTrees(await hashTree(mount), await hashTree(restored));
      } finally {
        run('umount', restored);
      }
    },
    remove: async () => {
      await load.stop();
      run('umount', mount);
      run('losetup', '-d', source);
      run('losetup', '-d', target);
    },
  };
}

async function makeLoop(image: string): Promise<string> {
  await writeFile(image, '');
  await truncate(image, DISK_BYTES);
  return run('losetup', '-f', '--show', image);
}

/** Writes, appends, fsyncs and deletes files, a few MiB per second. */
class FileLoad {
  readonly #folder: string;
  writtenBytes = 0;
  #running: Promise<void> | null = null;
  #stopping = false;

  constructor(folder: string) {
    this.#folder = folder;
  }

  start(): void {
    this.#stopping = false;
    this.#running = this.#loop();
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#running;
    this.#running = null;
  }

  async #loop(): Promise<void> {
    await mkdir(this.#folder, { recursive: true });
    for (let n = 0; !this.#stopping; n++) {
      const file = join(this.#folder, `file-${n % FILES}`);
      if (n % 7 === 0) await rm(file, { force: true });
      const handle = await open(file, n % 3 === 0 ? 'a' : 'w');
      await handle.write(randomBytes(FILE_BYTES));
      await handle.sync();
      await handle.close();
      this.writtenBytes += FILE_BYTES;
      await sleep(50);
    }
  }
}

type Tree = Map<string, { hash: string; bytes: number }>;

async function hashTree(root: string): Promise<Tree> {
  const tree: Tree = new Map();
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const content = await readFile(path);
    tree.set(path.slice(root.length), {
      hash: createHash('sha256').update(content).digest('hex'),
      bytes: content.length,
    });
  }
  return tree;
}

function compareTrees(source: Tree, restored: Tree): Comparison {
  let bytes = 0;
  for (const [path, file] of source) {
    if (restored.get(path)?.hash !== file.hash) throw new Error(`${path} differs between source and restored disk`);
    bytes += file.bytes;
  }
  if (restored.size !== source.size)
    throw new Error(`${source.size} files on the source, ${restored.size} on the restored disk`);
  return { files: source.size, bytes };
}

/** Without root: an image file, written in bursts with pauses in which it can be read consistently. */
export async function makeImageDisk(folder: string): Promise<DemoDisk> {
  const image = join(folder, 'source.img');
  await writeFile(image, randomBytes(16 * MIB));
  await truncate(image, IMAGE_BYTES);
  const load = new BurstLoad(image);
  const target = join(folder, 'restored.img');
  return {
    path: image,
    description: `image file ${image}`,
    get writtenBytes() {
      return load.writtenBytes;
    },
    startLoad: () => load.start(),
    stopLoad: () => load.stop(),
    restoreTarget: target,
    restoreArguments: ['--sparse'],
    compare: async () => {
      const [a, b] = [await readFile(image), await readFile(target)];
      if (!a.equals(b)) throw new Error('the restored image differs from the source');
      return { files: 1, bytes: a.length };
    },
    remove: () => load.stop(),
  };
}

class BurstLoad {
  readonly #image: string;
  writtenBytes = 0;
  #running: Promise<void> | null = null;
  #stopping = false;

  constructor(image: string) {
    this.#image = image;
  }

  start(): void {
    this.#stopping = false;
    this.#running = this.#loop();
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#running;
    this.#running = null;
  }

  async #loop(): Promise<void> {
    for (let n = 0; !this.#stopping; n++) {
      const fd = openSync(this.#image, 'r+');
      for (let i = 0; i < 64; i++) {
        writeSync(fd, randomBytes(4096), 0, 4096, ((n * 977 + i * 131) % (IMAGE_BYTES / 4096)) * 4096);
        this.writtenBytes += 4096;
      }
      fsyncSync(fd);
      closeSync(fd);
      for (let i = 0; i < 40 && !this.#stopping; i++) await sleep(100);
    }
  }
}
