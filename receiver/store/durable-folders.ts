/**
 * Folders of a folder store, made durably: when `ensure` resolves, the folder and every folder above it up to the root survive a power cut.
 * A folder that another process has just made may not be durable yet, so each is synced once per process, not only when we made it.
 */
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { syncFolder } from '../../shared/durable-file.js';
import { errnoOf } from '../../shared/errors.js';

export class DurableFolders {
  readonly #root: string;
  /** Folders (relative) whose entry in their parent is known to be durable. Promises, so that parallel calls share the work. */
  readonly #known = new Map<string, Promise<void>>();

  constructor(root: string) {
    this.#root = root;
  }

  /** `folder` is relative to the root, without a slash at its end; '' is the root itself. */
  async ensure(folder: string): Promise<void> {
    if (folder === '') return;
    const running = this.#known.get(folder);
    if (running !== undefined) return running;
    const made = this.#make(folder);
    this.#known.set(folder, made);
    try {
      await made;
    } catch (error) {
      this.#known.delete(folder);
      throw error;
    }
  }

  /** Forgets a folder that turned out to be gone (an operator tidied up). */
  forget(folder: string): void {
    for (let f = folder; f !== '' && f !== '.'; f = dirname(f)) this.#known.delete(f);
  }

  async #make(folder: string): Promise<void> {
    const parent = dirname(folder);
    await this.ensure(parent === '.' ? '' : parent);
    const path = join(this.#root, folder);
    try {
      await mkdir(path);
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
    }
    await syncFolder(dirname(path));
  }
}
