/**
 * The few file operations that the hash store needs, as an interface, so that tests can kill the process or cut the power between any two
 * of them. The real ones stand below. Small transfers are synchronous (they end in the page cache); what waits for the disk is not.
 */
import { readSync, writeSync } from 'node:fs';
import { mkdir, open, readdir, rename, unlink, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { syncFolder } from '../../../shared/durable-file.js';
import { errnoOf } from '../../../shared/errors.js';
import { fileError } from './errors.js';

export interface StateFile {
  /** Reads up to `bytes` into the start of `into`; returns how many there were before the end of the file. */
  readAt(into: Uint8Array, bytes: number, position: number): number;
  /** Writes bytes [start, start + bytes) of `from`, all of them. */
  writeAt(from: Uint8Array, start: number, bytes: number, position: number): void;
  /** The same for large records, off the event loop: a busy disk may hold writers back for long. */
  append(from: Uint8Array, position: number): Promise<void>;
  /** Returns when all that was written survives a power cut. */
  sync(): Promise<void>;
  truncate(bytes: number): Promise<void>;
  sizeBytes(): Promise<number>;
  close(): Promise<void>;
}

export interface StateFolder {
  list(): Promise<string[]>;
  /** Makes an empty file, or empties the one there is. */
  create(name: string): Promise<StateFile>;
  /** Opens a file; null when there is none. */
  open(name: string): Promise<StateFile | null>;
  /** Takes the place of `to` at once. */
  rename(from: string, to: string): Promise<void>;
  remove(name: string): Promise<void>;
  /** Makes creations and renames survive a power cut. */
  sync(): Promise<void>;
}

/** Files are held open for long; one that won't be is closed. */
export async function closingOnFailure<T>(file: { close(): Promise<void> }, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    // The first failure is the one to report.
    await file.close().catch(() => undefined);
    throw error;
  }
}

async function attempt<T>(action: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw fileError(action, cause);
  }
}

class DiskFile implements StateFile {
  readonly #handle: FileHandle;

  constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  readAt(into: Uint8Array, bytes: number, position: number): number {
    let done = 0;
    try {
      while (done < bytes) {
        const n = readSync(this.#handle.fd, into, done, bytes - done, position + done);
        if (n === 0) break;
        done += n;
      }
    } catch (cause) {
      throw fileError('read', cause);
    }
    return done;
  }

  writeAt(from: Uint8Array, start: number, bytes: number, position: number): void {
    let done = 0;
    try {
      // A full file system shows as a short write first.
      while (done < bytes) done += writeSync(this.#handle.fd, from, start + done, bytes - done, position + done);
    } catch (cause) {
      throw fileError('write', cause);
    }
  }

  append(from: Uint8Array, position: number): Promise<void> {
    return attempt('write', async () => {
      let done = 0;
      while (done < from.length) {
        done += (await this.#handle.write(from, done, from.length - done, position + done)).bytesWritten;
      }
    });
  }

  sync(): Promise<void> {
    return attempt('sync', () => this.#handle.datasync());
  }

  truncate(bytes: number): Promise<void> {
    return attempt('size', () => this.#handle.truncate(bytes));
  }

  sizeBytes(): Promise<number> {
    return attempt('read', async () => (await this.#handle.stat()).size);
  }

  close(): Promise<void> {
    return attempt('close', () => this.#handle.close());
  }
}

class DiskFolder implements StateFolder {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  list(): Promise<string[]> {
    return attempt('list', () => readdir(this.#path));
  }

  create(name: string): Promise<StateFile> {
    return attempt('create', async () => new DiskFile(await open(join(this.#path, name), 'w+', 0o600)));
  }

  async open(name: string): Promise<StateFile | null> {
    try {
      return new DiskFile(await open(join(this.#path, name), 'r+'));
    } catch (cause) {
      if (errnoOf(cause) === 'ENOENT') return null;
      throw fileError('open', cause);
    }
  }

  rename(from: string, to: string): Promise<void> {
    return attempt('rename', () => rename(join(this.#path, from), join(this.#path, to)));
  }

  remove(name: string): Promise<void> {
    return attempt('clean', () => unlink(join(this.#path, name)));
  }

  sync(): Promise<void> {
    return attempt('sync', () => syncFolder(this.#path));
  }
}

/** The folder at a path, made when it isn't there. */
export async function stateFolder(path: string): Promise<StateFolder> {
  await attempt('create', () => mkdir(path, { recursive: true, mode: 0o700 }));
  return new DiskFolder(path);
}
