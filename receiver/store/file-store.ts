/**
 * The object store as a folder: the embedded default. One file per object; `.tmp/` holds what is not complete yet.
 * Many processes may use the same folder at once. What is visible is complete and survives a power cut.
 * After a crash, temporary files remain; they are removed at a later open, once untouched for TEMP_MAX_AGE_MS.
 */
import { randomUUID } from 'node:crypto';
import { close, fstat, open, read as readAt } from 'node:fs';
import { mkdir, readdir, stat, statfs, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { systemClock, type Clock } from '../../shared/clock.js';
import { AfterimageError, corrupt, errnoOf, messageOf } from '../../shared/errors.js';
import { STORE_FREE_BYTES_MIN, TEMP_MAX_AGE_MS } from '../../shared/limits.js';
import { formatBytes } from '../../shared/units.js';
import { syncFolder } from '../../shared/durable-file.js';
import { DeleteError, type KeptObject } from './delete-error.js';
import { DurableFolders } from './durable-folders.js';
import { storeError, storeFull } from './file-errors.js';
import { FileWriter } from './file-writer.js';
import { OpenFiles } from './open-files.js';
import { checkName, checkPrefix, isNamePart, startAfter } from './object-name.js';
import type { CreateResult, ListOptions, ObjectInfo, ObjectStore, ObjectWriter } from './store.js';

const openFd = promisify(open);
const closeFd = promisify(close);
const statFd = promisify(fstat);

const TEMP_FOLDER = '.tmp';
/** Files whose size is asked for at once while listing. */
const STATS_IN_FLIGHT = 64;

export interface FileStoreOptions {
  readonly clock?: Clock;
  /** Unique text for temporary names. */
  readonly newId?: () => string;
}

const isAbsent = (error: unknown): boolean => errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR';

/** Fills `target` from `offset` on; returns the bytes got, fewer only at the end of the file. */
async function readFully(fd: number, target: Buffer, offset: number): Promise<number> {
  let got = 0;
  while (got < target.length) {
    const n = await new Promise<number>((resolve, reject) => {
      readAt(fd, target, got, target.length - got, offset + got, (error, bytes) => {
        if (error) reject(error);
        else resolve(bytes);
      });
    });
    if (n === 0) break;
    got += n;
  }
  return got;
}

/** Folder of an object's name; '' is the root. */
const folderOf = (name: string): string => name.slice(0, Math.max(0, name.lastIndexOf('/')));

function byFolder(names: readonly string[]): Map<string, string[]> {
  const folders = new Map<string, string[]>();
  for (const name of new Set(names)) {
    const folder = folderOf(name);
    const members = folders.get(folder);
    if (members === undefined) folders.set(folder, [name]);
    else members.push(name);
  }
  return folders;
}

interface Entry {
  /** File or folder name; a folder's ends in a slash, so that names sort as whole object names do. */
  readonly key: string;
  readonly folder: boolean;
}

export class FileStore implements ObjectStore {
  readonly url: string;
  readonly #root: string;
  readonly #folders: DurableFolders;
  readonly #newId: () => string;
  readonly #open = new OpenFiles();

  private constructor(root: string, newId: () => string) {
    this.url = `file:${root}`;
    this.#root = root;
    this.#folders = new DurableFolders(root);
    this.#newId = newId;
  }

  /** Opens a folder (absolute path) that exists, and tidies its temporary files. */
  static async open(root: string, options: FileStoreOptions = {}): Promise<FileStore> {
    const store = new FileStore(root, options.newId ?? randomUUID);
    try {
      if (!(await stat(root)).isDirectory()) throw new Error('not a folder');
      await store.#tidy((options.clock ?? systemClock).nowMs());
    } catch (error) {
      throw storeError(`opening store ${store.url}`, error);
    }
    return store;
  }

  async createIfAbsent(name: string, bytes: Buffer): Promise<CreateResult> {
    const writer = await this.#writer(name);
    try {
      await writer.write([bytes]);
      return await writer.finish();
    } catch (error) {
      await writer.abort();
      throw error;
    }
  }

  async openWriter(name: string): Promise<ObjectWriter> {
    checkName(name);
    // Small objects (manifests) are still taken when it is this low: a commit in progress must be able to end.
    const free = await this.freeBytes();
    if (free < STORE_FREE_BYTES_MIN) throw storeFull(`writing ${name} with ${formatBytes(free)} free`);
    return this.#writer(name);
  }

  async get(name: string, maxBytes: number): Promise<Buffer | null> {
    return this.#withFile(name, async (fd) => {
      const { size } = await statFd(fd);
      if (size > maxBytes) {
        throw corrupt('object-too-large', `object ${name} has ${size} bytes, at most ${maxBytes} were expected`);
      }
      const bytes = Buffer.allocUnsafe(size);
      const got = await readFully(fd, bytes, 0);
      return got === size ? bytes : bytes.subarray(0, got);
    });
  }

  async read(name: string, offset: number, lengthBytes: number, room?: Buffer): Promise<Buffer> {
    checkName(name);
    const read = async (fd: number): Promise<Buffer> => {
      const target = room?.subarray(0, lengthBytes) ?? Buffer.allocUnsafe(lengthBytes);
      const got = await readFully(fd, target, offset);
      if (got === lengthBytes) return target;
      throw corrupt(
        'object-short',
        `object ${name} ends at byte ${offset + got}, ${offset + lengthBytes} were expected`,
      );
    };
    return this.#withOpen(name, read);
  }

  readonly lend = async <T>(name: string, _lengthBytes: number, use: (fd: number) => Promise<T>): Promise<T> => {
    checkName(name);
    return this.#withOpen(name, use);
  };

  async head(name: string): Promise<ObjectInfo | null> {
    checkName(name);
    return this.#info(name);
  }

  async *list(prefix: string, options: ListOptions = {}): AsyncGenerator<ObjectInfo> {
    checkPrefix(prefix);
    const after = startAfter(prefix, options.after);
    if (after !== null) yield* this.#listAfter(prefix, after);
  }

  async listFolders(prefix: string): Promise<string[]> {
    checkPrefix(prefix);
    const folders = (await this.#entries(prefix)).filter((e) => e.folder);
    return folders.map((e) => e.key.slice(0, -1)).sort();
  }

  async deleteMany(names: readonly string[]): Promise<void> {
    for (const name of names) checkName(name);
    const kept: KeptObject[] = [];
    for (const [folder, members] of byFolder(names)) kept.push(...(await this.#deleteIn(folder, members)));
    if (kept.length > 0) throw new DeleteError(kept);
  }

  async freeBytes(): Promise<number> {
    try {
      const { bavail, bsize } = await statfs(this.#root);
      return bavail * bsize;
    } catch (error) {
      throw storeError(`asking for the free space of ${this.url}`, error);
    }
  }

  close(): Promise<void> {
    return this.#open.close();
  }

  async #withOpen<T>(name: string, use: (fd: number) => Promise<T>): Promise<T> {
    try {
      return await this.#open.use(join(this.#root, name), use);
    } catch (error) {
      if (!isAbsent(error)) throw storeError(`reading ${name}`, error);
      throw new AfterimageError(`object ${name} is absent`, { code: 'object-absent', kind: 'not-found' });
    }
  }

  async #writer(name: string): Promise<FileWriter> {
    checkName(name);
    return FileWriter.open(this.#root, name, join(this.#root, TEMP_FOLDER, this.#newId()), this.#folders);
  }

  /** Deletes objects of one folder, then the folder if that was all; returns what is still there. */
  async #deleteIn(folder: string, names: readonly string[]): Promise<KeptObject[]> {
    const kept: KeptObject[] = [];
    const keep = (name: string, error: unknown): void => {
      kept.push({ name, reason: 'failed', lockedUntilMs: null, message: messageOf(error) });
    };
    const unlinked: string[] = [];
    for (const name of names) {
      try {
        await this.#unlink(name);
        unlinked.push(name);
      } catch (error) {
        keep(name, error);
      }
    }
    try {
      // Also for what was absent: somebody who was killed before the sync may have removed it.
      await syncFolder(join(this.#root, folder));
    } catch (error) {
      // Gone now, but perhaps not after a power cut.
      if (!isAbsent(error)) for (const name of unlinked) keep(name, error);
      return kept;
    }
    // The objects are gone either way; an empty folder that can't be removed only lies about.
    await this.#folders.removeEmpty(folder).catch(() => undefined);
    return kept;
  }

  async #unlink(name: string): Promise<void> {
    const path = join(this.#root, name);
    try {
      await unlink(path);
    } catch (error) {
      if (!isAbsent(error)) throw error;
    } finally {
      await this.#open.forget(path);
    }
  }

  async *#listAfter(prefix: string, after: string): AsyncGenerator<ObjectInfo> {
    const entries = await this.#entries(prefix);
    let files: string[] = [];
    for (const entry of entries) {
      const name = prefix + entry.key;
      // A folder that `after` lies in is gone into; one before it holds nothing greater.
      const inside = entry.folder && after.startsWith(name);
      if (name <= after && !inside) continue;
      if (!entry.folder) files.push(name);
      if (files.length >= STATS_IN_FLIGHT || entry.folder) {
        yield* await this.#infos(files);
        files = [];
      }
      if (entry.folder) yield* this.#listAfter(name, inside ? after : '');
    }
    yield* await this.#infos(files);
  }

  /** Runs `use` on the open file of an object; null when absent. */
  async #withFile<T>(name: string, use: (fd: number) => Promise<T>): Promise<T | null> {
    checkName(name);
    let fd = -1;
    try {
      fd = await openFd(join(this.#root, name), 'r');
      return await use(fd);
    } catch (error) {
      if (fd < 0 && isAbsent(error)) return null;
      throw storeError(`reading ${name}`, error);
    } finally {
      if (fd >= 0) await closeFd(fd);
    }
  }

  async #info(name: string): Promise<ObjectInfo | null> {
    try {
      const found = await stat(join(this.#root, name));
      return found.isFile() ? { name, sizeBytes: found.size } : null;
    } catch (error) {
      if (isAbsent(error)) return null;
      throw storeError(`asking for ${name}`, error);
    }
  }

  /** Objects that still exist, in the order of their names. */
  async #infos(names: readonly string[]): Promise<ObjectInfo[]> {
    const found = await Promise.all(names.map((name) => this.#info(name)));
    return found.filter((info) => info !== null);
  }

  /** What a folder holds, ascending; what has no name of ours (`.tmp`, `lost+found`) is left out. */
  async #entries(prefix: string): Promise<Entry[]> {
    try {
      const found = await readdir(join(this.#root, prefix), { withFileTypes: true });
      return found
        .filter((e) => isNamePart(e.name) && (e.isFile() || e.isDirectory()))
        .map((e) => ({ key: e.isDirectory() ? `${e.name}/` : e.name, folder: e.isDirectory() }))
        .sort((a, b) => (a.key < b.key ? -1 : 1));
    } catch (error) {
      if (isAbsent(error)) return [];
      throw storeError(`listing ${prefix}`, error);
    }
  }

  async #tidy(nowMs: number): Promise<void> {
    const folder = join(this.#root, TEMP_FOLDER);
    try {
      await mkdir(folder);
      await syncFolder(this.#root);
    } catch (error) {
      // A store on a read-only filesystem can still be restored from.
      if (errnoOf(error) !== 'EEXIST' && errnoOf(error) !== 'EROFS' && errnoOf(error) !== 'EACCES') throw error;
    }
    for (const name of await readdir(folder).catch(() => [])) {
      const path = join(folder, name);
      const age = await stat(path).then(
        (found) => nowMs - found.mtimeMs,
        () => 0,
      );
      if (age > TEMP_MAX_AGE_MS) await unlink(path).catch(() => undefined);
    }
  }
}
