/**
 * Folders of a folder store, made durably: when `ensure` resolves, the folder and every folder above it up to the root survive a power cut.
 * A folder that another process has just made may not be durable yet, so each is synced once per process, not only when we made it.
 * Empty folders are removed (`removeEmpty`), by any process at any time: whoever is about to put something into one finds it gone and makes it
 * again, or (`ensureSame`) finds another in its place, whose durability is not known.
 */
import { mkdir, rmdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { syncFolder } from '../../shared/durable-file.js';
import { errnoOf } from '../../shared/errors.js';

/** Which folder it is, even when another of its name takes its inode number. */
type Identity = string;

/** Why a folder can't be removed: it is not empty (two names for it), or gone already. */
const NOT_REMOVED = new Set(['ENOTEMPTY', 'EEXIST', 'ENOENT']);

export class DurableFolders {
  readonly #root: string;
  /** Folders (relative) whose entry in their parent is known to be durable. Promises, so that parallel calls share the work. */
  readonly #known = new Map<string, Promise<Identity>>();

  constructor(root: string) {
    this.#root = root;
  }

  /** `folder` is relative to the root, without a slash at its end; '' is the root itself. */
  async ensure(folder: string): Promise<void> {
    if (folder !== '') await this.#ensure(folder);
  }

  /**
   * For a folder that holds something of the caller's by now, so that nobody can remove it: makes sure that it is the one that `ensure` made
   * durable, not one that came in its place.
   */
  async ensureSame(folder: string): Promise<void> {
    if (folder === '') return;
    if ((await this.#ensure(folder)) === (await this.#identity(folder))) return;
    this.forget(folder);
    await this.#ensure(folder);
  }

  /** Removes a folder, and those above it, as far as they are empty. An empty folder that comes back after a power cut does no harm. */
  async removeEmpty(folder: string): Promise<void> {
    for (let f = folder; f !== '' && f !== '.'; f = dirname(f)) {
      try {
        await rmdir(join(this.#root, f));
      } catch (error) {
        if (NOT_REMOVED.has(errnoOf(error) ?? '')) return;
        throw error;
      }
      this.#known.delete(f);
    }
  }

  /** Forgets a folder that turned out to be gone, and those above it, which may be gone as well. */
  forget(folder: string): void {
    for (let f = folder; f !== '' && f !== '.'; f = dirname(f)) this.#known.delete(f);
  }

  async #ensure(folder: string): Promise<Identity> {
    const running = this.#known.get(folder);
    if (running !== undefined) return running;
    const made = this.#make(folder);
    this.#known.set(folder, made);
    try {
      return await made;
    } catch (error) {
      if (this.#known.get(folder) === made) this.#known.delete(folder);
      throw error;
    }
  }

  async #make(folder: string): Promise<Identity> {
    const parent = dirname(folder);
    await this.ensure(parent === '.' ? '' : parent);
    const path = join(this.#root, folder);
    try {
      await mkdir(path);
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
    }
    // Before the sync: one that comes in between is then not taken for the one that was synced.
    const identity = await this.#identity(folder);
    await syncFolder(dirname(path));
    return identity;
  }

  async #identity(folder: string): Promise<Identity> {
    const { ino, birthtimeNs } = await stat(join(this.#root, folder), { bigint: true });
    return `${ino}-${birthtimeNs}`;
  }
}
