/**
 * A file as the target of a restore: raw (space reserved, so that it can't run out half way) or sparse. It is emptied first, so all that
 * the restore doesn't write reads as zero. Locked while it is written. Written around the page cache where the filesystem can do that: it costs
 * a tenth of the CPU, and the disk works from the first write on instead of at the next sync.
 */
import { constants } from 'node:fs';
import { open, realpath, stat, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { errnoOf, messageOf, usageError } from '../../shared/errors.js';
import { DIRECT_WRITE_BYTES_MIN, RESERVE_BYTES_MIN } from '../../shared/limits.js';
import { nextData, tryLock } from '../../shared/native/libc.js';
import { syncFolder } from '../../shared/durable-file.js';
import { readFully, writeFully } from './fd-io.js';
import { dropPageCache, preallocate, reserveForWrite } from './native-io.js';
import { checkFileUnused } from './target-checks.js';
import { targetError } from './target-error.js';
import { asItIs, refused, type RestoreTarget, type TargetOptions, type TargetOutlet } from './target.js';

/** What the offset, the length and the memory of a write around the page cache are multiples of, on any disk. */
const DIRECT_BYTES = 4096;

/** The path with links resolved; the file itself need not exist, its folder must. */
async function resolved(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw usageError(`target ${path}: ${messageOf(error)}`);
  }
  const folder = await realpath(dirname(path)).catch(() => {
    throw usageError(`target ${path}: its folder does not exist`, 'Make the folder first.');
  });
  return join(folder, basename(path));
}

export async function openFileTarget(path: string, options: TargetOptions): Promise<FileTarget> {
  const real = await resolved(path);
  await checkFileUnused(real);
  const target = new FileTarget(real, options);
  await target.openExisting();
  return target;
}

export class FileTarget implements RestoreTarget {
  readonly path: string;
  readonly kind = 'file';
  /** Set by prepare() of the run that began: the file is emptied before anything is written. */
  readonly knownZero = true;
  readonly #options: TargetOptions;
  #handle: FileHandle | undefined;
  /** The same file, written around the page cache; undefined where that can't be. */
  #direct: FileHandle | undefined;
  #directWorks = true;
  /** Ranges of a sparse file are reserved before they are written; no more where the filesystem can't. */
  #reserves: boolean;
  #identity = '';

  constructor(path: string, options: TargetOptions) {
    this.path = path;
    this.#options = options;
    this.#reserves = options.sparse;
  }

  get identity(): string {
    return this.#identity;
  }

  /** Opens the file if there is one; making it is a change, so that waits for prepare(). */
  async openExisting(): Promise<void> {
    const found = await stat(this.path).catch(() => undefined);
    if (found === undefined) return;
    await this.#open(constants.O_RDWR);
  }

  async checkEmpty(): Promise<void> {
    if (this.#handle === undefined || (await this.#handle.stat()).size === 0) return;
    throw refused(
      'target-not-empty',
      `target ${this.path} exists and is not empty`,
      'Pick another name, or run again with --force if its content may be lost.',
    );
  }

  layOut(): Promise<void> {
    return Promise.resolve();
  }

  /** `lengthBytes`: of the file, where that isn't the size of the disk. */
  async prepare(lengthBytes = this.#options.sizeBytes): Promise<void> {
    try {
      if (this.#handle === undefined) await this.#open(constants.O_RDWR | constants.O_CREAT | constants.O_EXCL);
      const handle = this.#use();
      await handle.truncate(0);
      await handle.truncate(lengthBytes);
      // Where a filesystem can't reserve, the file is made as long as the disk and filled as it is written.
      if (!this.#options.sparse) await preallocate(handle.fd, lengthBytes);
      await handle.sync();
      await syncFolder(dirname(this.path));
      await this.#identify();
    } catch (error) {
      throw targetError(`preparing ${this.path}`, error);
    }
  }

  async write(offset: number, bytes: Buffer, isReserved = false): Promise<void> {
    // Only the end of an odd-sized disk isn't made of whole blocks.
    const isLong = bytes.length >= DIRECT_WRITE_BYTES_MIN;
    const direct = isLong && offset % DIRECT_BYTES === 0 ? bytes.length - (bytes.length % DIRECT_BYTES) : 0;
    const done = await this.#writeDirect(offset, bytes.subarray(0, direct), isReserved);
    if (done < bytes.length) await this.writeCached(offset + done, bytes.subarray(done));
  }

  /** For what isn't aligned. */
  async writeCached(offset: number, bytes: Buffer): Promise<void> {
    try {
      await writeFully(this.#use().fd, bytes, offset);
    } catch (error) {
      throw targetError(`writing to ${this.path} at byte ${offset}`, error);
    }
  }

  /** Returns the bytes written: all of them or none. */
  async #writeDirect(offset: number, bytes: Buffer, isReserved: boolean): Promise<number> {
    if (this.#direct === undefined || !this.#directWorks || bytes.length === 0) return 0;
    try {
      // Else writes that come at once wait for each other (see Outlet.isSparse).
      if (!isReserved && this.#reserves && bytes.length >= RESERVE_BYTES_MIN)
        this.#reserves = await reserveForWrite(this.#use().fd, offset, bytes.length);
      await writeFully(this.#direct.fd, bytes, offset);
      return bytes.length;
    } catch (error) {
      if (errnoOf(error) !== 'EINVAL') throw targetError(`writing to ${this.path} at byte ${offset}`, error);
      // Some filesystems let a file be opened like this, or want larger blocks, and refuse the write: from now on through the page cache.
      this.#directWorks = false;
      return 0;
    }
  }

  zero(): Promise<void> {
    return Promise.resolve();
  }

  async sync(): Promise<void> {
    try {
      await this.#use().datasync();
    } catch (error) {
      throw targetError(`making ${this.path} durable`, error);
    }
  }

  finish(): Promise<void> {
    return Promise.resolve();
  }

  async forgetCached(): Promise<void> {
    await this.sync();
    dropPageCache(this.#use().fd);
  }

  async read(offset: number, into: Buffer): Promise<number> {
    try {
      return await readFully(this.#use().fd, into, offset);
    } catch (error) {
      throw targetError(`reading ${this.path} at byte ${offset}`, error);
    }
  }

  nextData(offset: number): readonly [number, number] | null | undefined {
    return nextData(this.#use().fd, offset, this.#options.sizeBytes);
  }

  outlet(): TargetOutlet {
    const direct = this.#direct !== undefined && this.#directWorks ? this.#direct.fd : null;
    const isSparse = this.#options.sparse;
    return asItIs({ path: this.path, direct, directBytes: DIRECT_BYTES, cached: this.#use().fd, isSparse });
  }

  async close(): Promise<void> {
    await this.#direct?.close();
    await this.#handle?.close();
  }

  async #open(flags: number): Promise<void> {
    let handle: FileHandle;
    try {
      handle = await open(this.path, flags, 0o600);
    } catch (error) {
      throw usageError(`target ${this.path} can't be opened for writing: ${messageOf(error)}`);
    }
    if (!tryLock(handle.fd)) {
      await handle.close();
      throw refused(
        'target-busy',
        `target ${this.path} is being written by another restore`,
        'Wait for it, or stop it.',
      );
    }
    this.#handle = handle;
    // By the descriptor: the name may stand for another file by now.
    this.#direct = await open(`/proc/self/fd/${handle.fd}`, constants.O_RDWR | constants.O_DIRECT).catch(
      // Not every filesystem has it (EINVAL), and without it all goes through the page cache.
      () => undefined,
    );
    await this.#identify();
  }

  /** The length is part of it: a file that was cut short since isn't the one that a journal speaks of. */
  async #identify(): Promise<void> {
    const { dev, ino, size } = await this.#use().stat();
    this.#identity = `file ${dev} ${ino} ${size}`;
  }

  #use(): FileHandle {
    if (this.#handle === undefined) throw new Error(`target ${this.path} is used before it was prepared`);
    return this.#handle;
  }
}
