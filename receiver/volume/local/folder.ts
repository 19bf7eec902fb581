/**
 * The files of one local image: `lock`, `header`, `image`, `live`, `durable`. Opened by one process at a time: the lock ends with the process.
 *
 * At the first opening the header comes last, so that a folder without one holds nothing. Later: same boot of the host, the live map counts;
 * another boot, the durable one does, and it becomes the live one again before the header says so. A crash in between repeats that.
 */
import { closeSync, constants, fstatSync, fsyncSync, ftruncateSync, openSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { geometryOf, type Geometry } from '../../../shared/blocks/geometry.js';
import { makeFolderDurably, syncFolder } from '../../../shared/durable-file.js';
import { AfterimageError, corrupt, errnoOf } from '../../../shared/errors.js';
import { SysError, tryLock } from '../../../shared/native/libc.js';
import { checkHeader, HeaderFile, type ExpectedImage, type ImageHeader } from './header.js';
import { BlockMaps, mapsBytes, syncData } from './maps.js';
import { reserve } from './native.js';
import { localError } from './problems.js';

const FOLDER_MODE = 0o700;
const FILE_MODE = 0o600;
const HEADER = 'header';

export interface OpenFolder extends ExpectedImage {
  readonly folder: string;
  readonly writable: boolean;
  readonly bootId: string;
}

export interface LocalFiles {
  readonly geometry: Geometry;
  readonly imageFd: number;
  readonly maps: BlockMaps;
  readonly header: ImageHeader;
  /** The host crashed while clients could write: which local blocks differ from the point isn't known, so all count as written. */
  readonly doubted: boolean;
  /** Replaces the header. */
  save(header: ImageHeader): Promise<void>;
  /** Closes everything and gives up the lock. */
  close(): Promise<void>;
}

function takeLock(folder: string): number {
  const lock = openSync(join(folder, 'lock'), 'a', FILE_MODE);
  if (tryLock(lock)) return lock;
  closeSync(lock);
  throw new AfterimageError(`the local image in ${folder} is open in another process`, {
    code: 'volume-in-use',
    kind: 'refused',
    hint: 'Only one receiver may serve it. Stop the other, or wait until it has ended.',
  });
}

export async function openFolder(options: OpenFolder): Promise<LocalFiles> {
  const { folder } = options;
  await makeFolderDurably(folder, FOLDER_MODE);
  // The lock is first, and so the last to be closed.
  const fds = [takeLock(folder)];
  const closeAll = (): void => {
    for (const fd of fds.splice(0).reverse()) closeSync(fd);
  };
  try {
    const found = await HeaderFile.open(join(folder, HEADER));
    try {
      return await openFiles(options, found, fds, closeAll);
    } catch (error) {
      await found?.file.close();
      throw error;
    }
  } catch (error) {
    closeAll();
    throw error instanceof SysError || !(error instanceof AfterimageError)
      ? localError(`opening the local image in ${folder}`, error)
      : error;
  }
}

async function openFiles(
  options: OpenFolder,
  opened: { readonly file: HeaderFile; readonly header: ImageHeader } | undefined,
  fds: number[],
  closeAll: () => void,
): Promise<LocalFiles> {
  const { folder } = options;
  const found = opened?.header;
  if (found !== undefined) checkHeader(folder, found, options);
  const size = found ?? options.geometry;
  if (size === null) throw nothingThere(folder);
  const geometry = geometryOf(size.sizeBytes, size.blockBytes);
  const openFile = (name: string, create: boolean, lengthBytes: number): number => {
    // Without a header what may lie there is half of an image: from the beginning.
    const start = found === undefined ? constants.O_TRUNC : 0;
    const fd = openSync(join(folder, name), constants.O_RDWR | start | (create ? constants.O_CREAT : 0), FILE_MODE);
    fds.push(fd);
    if (!create && fstatSync(fd).size !== lengthBytes) throw wrongLength(join(folder, name), lengthBytes);
    return fd;
  };
  const bytes = mapsBytes(geometry.blockCount);
  const imageFd = openFile('image', found === undefined, geometry.sizeBytes);
  const durableFd = openFile('durable', found === undefined, bytes);
  const liveFd = openFile('live', true, bytes);
  const liveKept = found?.bootId === options.bootId && fstatSync(liveFd).size === bytes;
  if (found === undefined) {
    ftruncateSync(imageFd, geometry.sizeBytes);
    await reserveMap(durableFd, bytes);
    await reserveMap(liveFd, bytes);
    for (const fd of [imageFd, durableFd, liveFd]) fsyncSync(fd);
    await syncFolder(folder);
  } else if (!liveKept) {
    await reserveMap(liveFd, bytes);
    await BlockMaps.restoreLive(liveFd, durableFd, geometry.blockCount);
  }
  const doubted = found !== undefined && !liveKept && !found.clean && found.writes;
  const maps = new BlockMaps(liveFd, durableFd, geometry.blockCount, found === undefined);
  try {
    if (found !== undefined) {
      await maps.findChanges();
      // A write that was cut off between its two bits: its data is in the file.
      maps.local.addAll(maps.written);
    }
    if (doubted) {
      maps.written.addAll(maps.local);
      await maps.flush(() => syncData(imageFd));
    }
    const header: ImageHeader = {
      disk: options.disk,
      sizeBytes: geometry.sizeBytes,
      blockBytes: geometry.blockBytes,
      baseKey: options.baseKey ?? found?.baseKey ?? '',
      bootId: options.bootId,
      clean: false,
      writes: options.writable || (found?.writes ?? false),
    };
    const file = opened?.file ?? (await HeaderFile.create(join(folder, HEADER), header));
    if (opened !== undefined) await file.save(header);
    const close = async (): Promise<void> => {
      maps.close();
      await file.close();
      closeAll();
    };
    return { geometry, imageFd, maps, header, doubted, save: (next) => file.save(next), close };
  } catch (error) {
    maps.close();
    throw error;
  }
}

/** Reserved, since a mapped page for which the disk has no room kills the process, and a flush must not fail for want of a few KiB. */
async function reserveMap(fd: number, lengthBytes: number): Promise<void> {
  if (!(await reserve(fd, lengthBytes))) ftruncateSync(fd, lengthBytes);
}

/** Removes a local image and all writes that only it holds. The header goes first: half a removal leaves nothing that looks whole. */
export async function destroyFolder(folder: string): Promise<void> {
  let lock: number;
  try {
    lock = takeLock(folder);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return;
    throw error;
  }
  try {
    await rm(join(folder, HEADER), { force: true });
    await syncFolder(folder);
    await rm(folder, { recursive: true, force: true });
  } finally {
    closeSync(lock);
  }
}

const nothingThere = (folder: string): AfterimageError =>
  new AfterimageError(`there is no local image in ${folder}, and no recovery point to make one from`, {
    code: 'volume-not-found',
    kind: 'not-found',
    hint: 'Open it with the recovery point that it shows.',
  });

const wrongLength = (path: string, lengthBytes: number): AfterimageError =>
  corrupt(
    'volume-file-length',
    `${path} does not have the ${lengthBytes} bytes that its header asks for`,
    'The local image can not be used. Remove its folder: it is made again, but writes that only it holds are lost.',
  );
