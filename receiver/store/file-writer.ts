/**
 * One object being written to a folder store: bytes go to a temporary file, which gets its name by link(2) when it is complete and durable.
 * link fails if the name is taken and never replaces it; a rename would. After a crash only the temporary file is left, which no listing shows.
 */
import { close, fdatasync, open, writev } from 'node:fs';
import { link, lstat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { AfterimageError, errnoOf } from '../../shared/errors.js';
import { syncFolder } from '../../shared/durable-file.js';
import type { DurableFolders } from './durable-folders.js';
import { storeError } from './file-errors.js';
import type { CreateResult, ObjectWriter } from './store.js';

// Callback calls on a bare descriptor: a FileHandle costs up to three times the CPU per call (measured).
const openFd = promisify(open);
const closeFd = promisify(close);
const syncData = promisify(fdatasync);
const writeBuffers = promisify<number, readonly NodeJS.ArrayBufferView[], number>((fd, buffers, done) => {
  writev(fd, buffers, (error, written) => {
    done(error, written);
  });
});

/** Buffers per writev (IOV_MAX). */
const BUFFERS_MAX = 1024;

/** Times that a folder is made for one object. Each loss of it takes a deletion just then; so many in a row are an error of another kind. */
const FOLDER_TRIES_MAX = 100;

/** Whether an object has this name, or had it a moment ago; false for a folder. */
async function standsForObject(path: string): Promise<boolean> {
  try {
    return (await lstat(path)).isFile();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return true;
    throw error;
  }
}

/** What is left of `buffers` after their first `bytes` bytes. */
function after(buffers: readonly Buffer[], bytes: number): Buffer[] {
  let skip = bytes;
  const rest: Buffer[] = [];
  for (const buffer of buffers) {
    if (skip >= buffer.length) {
      skip -= buffer.length;
      continue;
    }
    rest.push(skip === 0 ? buffer : buffer.subarray(skip));
    skip = 0;
  }
  return rest;
}

export class FileWriter implements ObjectWriter {
  readonly #root: string;
  readonly #name: string;
  readonly #temp: string;
  readonly #folders: DurableFolders;
  #fd: number;
  #state: 'open' | 'failed' | 'closed' = 'open';

  private constructor(root: string, name: string, temp: string, fd: number, folders: DurableFolders) {
    this.#root = root;
    this.#name = name;
    this.#temp = temp;
    this.#fd = fd;
    this.#folders = folders;
  }

  static async open(root: string, name: string, temp: string, folders: DurableFolders): Promise<FileWriter> {
    try {
      return new FileWriter(root, name, temp, await openFd(temp, 'wx', 0o640), folders);
    } catch (error) {
      throw storeError(`creating a temporary file for ${name}`, error);
    }
  }

  async write(buffers: readonly Buffer[]): Promise<void> {
    this.#mustBeOpen();
    let rest = buffers.filter((b) => b.length > 0);
    try {
      while (rest.length > 0) {
        const batch = rest.length > BUFFERS_MAX ? rest.slice(0, BUFFERS_MAX) : rest;
        rest = after(rest, await writeBuffers(this.#fd, batch));
      }
    } catch (error) {
      this.#state = 'failed';
      throw storeError(`writing ${this.#name}`, error);
    }
  }

  async finish(): Promise<CreateResult> {
    this.#mustBeOpen();
    try {
      await syncData(this.#fd);
      const result = await this.#link();
      await this.#release();
      return result;
    } catch (error) {
      await this.abort();
      throw storeError(`finishing ${this.#name}`, error);
    }
  }

  async abort(): Promise<void> {
    try {
      await this.#release();
    } catch {
      // Promised never to throw. The file has no name in the store; the clean-up at the next open removes it.
    }
  }

  async #release(): Promise<void> {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    const fd = this.#fd;
    this.#fd = -1;
    await closeFd(fd);
    await unlink(this.#temp);
  }

  async #link(): Promise<CreateResult> {
    const path = join(this.#root, this.#name);
    const parent = dirname(this.#name);
    const folder = parent === '.' ? '' : parent;
    try {
      await this.#linkInto(folder, path);
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
      if (await standsForObject(path)) return 'exists';
      throw new AfterimageError(`object ${this.#name} can't be made: a folder has its name`, {
        code: 'object-name',
        kind: 'usage',
        hint: 'Remove what does not belong to the store from its folder.',
      });
    }
    await this.#folders.ensureSame(folder);
    await syncFolder(dirname(path));
    return 'created';
  }

  /** A folder that became empty may be removed by whoever deletes, at any moment before it holds our object: then it is made again. */
  async #linkInto(folder: string, path: string): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        await this.#folders.ensure(folder);
        await link(this.#temp, path);
        return;
      } catch (error) {
        if (errnoOf(error) !== 'ENOENT' || tries === FOLDER_TRIES_MAX) throw error;
        // What is missing may be our own file as well: no folder helps then.
        await lstat(this.#temp);
        this.#folders.forget(folder);
      }
    }
  }

  #mustBeOpen(): void {
    if (this.#state === 'open') return;
    throw new AfterimageError(`writer of ${this.#name} is ${this.#state}`, { code: 'writer-state', kind: 'internal' });
  }
}
