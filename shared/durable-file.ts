/**
 * Small files that survive a power cut: whole or absent, never half. Owns no state.
 * After a crash a temporary file (`.NAME.RANDOM.tmp`) may remain beside the target; nothing reads it.
 */
import { randomBytes } from 'node:crypto';
import { link, mkdir, open, rename, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { errnoOf } from './errors.js';

/** Makes the entries of a folder durable. */
export async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Who a file shall belong to; a command run as root must not leave files that the daemon's user can't read. */
export interface FileOwner {
  readonly uid: number;
  readonly gid: number;
}

/** The owner that new files in a folder need: that of the folder when we are root, else (undefined) whoever we are. */
export async function ownerFor(folder: string): Promise<FileOwner | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const { uid, gid } = await stat(folder);
  return { uid, gid };
}

export interface DurableFileOptions {
  readonly mode: number;
  readonly owner?: FileOwner | undefined;
}

/** Writes a new file, complete and durable, without a name that anybody looks for yet. */
async function writeTemporary(path: string, bytes: string | Buffer, options: DurableFileOptions): Promise<string> {
  const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}.tmp`);
  const handle = await open(temporary, 'wx', options.mode);
  try {
    await handle.writeFile(bytes);
    if (options.owner !== undefined) await handle.chown(options.owner.uid, options.owner.gid);
    await handle.sync();
  } catch (error) {
    await unlink(temporary).catch(() => undefined);
    throw error;
  } finally {
    await handle.close();
  }
  return temporary;
}

/** Creates a file unless there is one of that name. */
export async function createFileDurably(
  path: string,
  bytes: string | Buffer,
  options: DurableFileOptions,
): Promise<'created' | 'exists'> {
  const temporary = await writeTemporary(path, bytes, options);
  try {
    await link(temporary, path);
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return 'exists';
    throw error;
  } finally {
    await unlink(temporary);
  }
  await syncFolder(dirname(path));
  return 'created';
}

/** Creates a file, or takes the place of the one there is, at once. */
export async function replaceFileDurably(
  path: string,
  bytes: string | Buffer,
  options: DurableFileOptions,
): Promise<void> {
  const temporary = await writeTemporary(path, bytes, options);
  try {
    await rename(temporary, path);
  } catch (error) {
    await unlink(temporary).catch(() => undefined);
    throw error;
  }
  await syncFolder(dirname(path));
}

/** Makes a folder and those above it, durably as far as they are new. */
export async function makeFolderDurably(path: string, mode: number): Promise<void> {
  const first = await mkdir(path, { recursive: true, mode });
  if (first === undefined) return;
  for (let folder = path; folder.length >= first.length; folder = dirname(folder)) await syncFolder(dirname(folder));
}
