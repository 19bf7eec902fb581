/**
 * A store with a machine of two disks: `root` with ext4 and `data` with XFS, each written through a mount; point 1 holds a file, point 2 another.
 */
import { execFile, execFileSync } from 'node:child_process';
import { closeSync, existsSync, openSync, readSync } from 'node:fs';
import { mkdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Manifest } from '../../receiver/catalog/manifest.js';
import { manifestName } from '../../receiver/catalog/names.js';
import { sealJson } from '../../receiver/catalog/sealed-json.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { asDiskId, MIB } from '../../shared/units.js';
import { Chain, MACHINE, type Change } from '../helpers/layers.js';

export const BLOCK_BYTES = 4096;
/** The least that mkfs.xfs takes. */
const XFS_BYTES = 300 * MIB;
const EXT4_BYTES = 96 * MIB;
const ZERO = Buffer.alloc(BLOCK_BYTES);

export interface Output {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs a program to its end, whatever comes of it. */
export const program = (command: string, ...args: readonly string[]): Promise<Output> =>
  new Promise((resolve) => {
    const child = execFile(command, args, { maxBuffer: 16 * MIB }, (error, out, err) =>
      resolve({ code: error === null ? 0 : (child.exitCode ?? -1), out, err }),
    );
  });

/** The same, and it must succeed. */
export async function must(command: string, ...args: readonly string[]): Promise<string> {
  const { code, out, err } = await program(command, ...args);
  if (code !== 0) throw new Error(`${command} ${args.join(' ')}: exit code ${code}\n${out}${err}`);
  return out;
}

/** Those that aren't installed; a test file without its tools skips itself and says so. */
export function missingTools(file: string, tools: readonly string[]): readonly string[] {
  const places = (process.env['PATH'] ?? '').split(':');
  const missing = tools.filter((tool) => !places.some((place) => existsSync(join(place, tool))));
  if (missing.length > 0)
    process.stdout.write(`${file}: tests with clients are skipped, missing: ${missing.join(', ')}\n`);
  return missing;
}

interface Image {
  readonly path: string;
  readonly chain: Chain;
  readonly mount: string;
}

async function mounted(image: Image, work: (folder: string) => Promise<void>): Promise<void> {
  await mkdir(image.mount, { recursive: true });
  execFileSync('mount', ['-o', 'loop', image.path, image.mount]);
  try {
    await work(image.mount);
  } finally {
    execFileSync('umount', [image.mount]);
  }
}

/** What the image holds now and didn't before, as runs of at most a chunk. */
function changesOf({ path, chain }: Image): Change[] {
  const fd = openSync(path, 'r');
  const changes: { first: number; blocks: Buffer[] }[] = [];
  try {
    for (let block = 0; block < chain.geometry.blockCount; block++) {
      const bytes = Buffer.alloc(BLOCK_BYTES);
      readSync(fd, bytes, 0, BLOCK_BYTES, block * BLOCK_BYTES);
      if (bytes.equals(chain.current.get(block) ?? ZERO)) continue;
      const last = changes.at(-1);
      if (last !== undefined && last.first + last.blocks.length === block) last.blocks.push(bytes);
      else changes.push({ first: block, blocks: [bytes] });
    }
  } finally {
    closeSync(fd);
  }
  return changes;
}

async function commit(image: Image, point: number): Promise<void> {
  const changes = changesOf(image);
  image.chain.apply(changes);
  if (point === 1) for (let s = 0; s < image.chain.geometry.segmentCount; s++) await image.chain.base(s, 1);
  else await image.chain.delta(point, point, changes);
  image.chain.point(point);
}

async function publish(store: ObjectStore, [root, data]: readonly [Image, Image]): Promise<void> {
  const a = await root.chain.publish();
  const b = await data.chain.publish();
  const points = a.tail.points.map((p, i) => ({ ...p, disks: [...p.disks, ...(b.tail.points[i]?.disks ?? [])] }));
  const both: Manifest = {
    ...a,
    number: 2,
    disks: [...a.disks, ...b.disks],
    tail: { points, deltas: [...a.tail.deltas, ...b.tail.deltas] },
  };
  await store.createIfAbsent(manifestName(MACHINE, 2), sealJson(both));
}

export async function storeWithFilesystems(store: ObjectStore, folder: string): Promise<void> {
  const make = async (disk: string, sizeBytes: number, mkfs: string, ...args: string[]): Promise<Image> => {
    const path = join(folder, `${disk}.img`);
    await writeFile(path, '');
    await truncate(path, sizeBytes);
    await must(mkfs, ...args, path);
    const chain = new Chain(store, { sizeBytes, blockBytes: BLOCK_BYTES, disk: asDiskId(disk) });
    return { path, chain, mount: join(folder, `${disk}.mount`) };
  };
  const root = await make('root', EXT4_BYTES, 'mkfs.ext4', '-q', '-F');
  const data = await make('data', XFS_BYTES, 'mkfs.xfs', '-q');
  for (const image of [root, data]) {
    for (const point of [1, 2]) {
      await mounted(image, (mount) => writeFile(join(mount, `file-${point}`), `point ${point} `.repeat(50_000)));
      await commit(image, point);
    }
  }
  await publish(store, [root, data]);
}
