/**
 * Descriptors of files that are read again and again, kept open for a while: opening and closing cost more than most reads. Bounded in number, and
 * closed soon after the last use, so that a removed file's space comes back. For files that never change once they have their name.
 */
import { close, open } from 'node:fs';
import { promisify } from 'node:util';
import { OPEN_FILES_IDLE_MS, OPEN_FILES_MAX } from '../../shared/limits.js';

const openFd = promisify(open);
const closeFd = promisify(close);

interface Slot {
  readonly fd: Promise<number>;
  users: number;
  /** Used since the timer last looked. */
  used: boolean;
  /** Not to be found any more: the last user closes it. */
  dropped: boolean;
}

export class OpenFiles {
  /** In order of use, oldest first. */
  readonly #slots = new Map<string, Slot>();
  #timer: NodeJS.Timeout | undefined;

  /** Runs `use` on the open file; throws what opening it throws. After an error of `use` the file is opened anew for the next. */
  async use<T>(path: string, use: (fd: number) => Promise<T>): Promise<T> {
    const slot = this.#take(path);
    try {
      return await use(await slot.fd);
    } catch (error) {
      this.#drop(path, slot);
      throw error;
    } finally {
      slot.users--;
      await closeUnused(slot);
    }
  }

  /** Forgets a file that was removed, so that its space comes back; whoever reads it still can. */
  async forget(path: string): Promise<void> {
    const slot = this.#slots.get(path);
    if (slot === undefined) return;
    this.#drop(path, slot);
    await closeUnused(slot);
  }

  /** Closes what nobody uses now; what is in use is closed by its user. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
    const slots = [...this.#slots];
    for (const [path, slot] of slots) this.#drop(path, slot);
    await Promise.all(slots.map(([, slot]) => closeUnused(slot)));
  }

  #take(path: string): Slot {
    const found = this.#slots.get(path);
    const slot: Slot = found ?? { fd: openFd(path, 'r'), users: 0, used: true, dropped: false };
    // To the end: the one that rested longest goes first.
    this.#slots.delete(path);
    this.#slots.set(path, slot);
    slot.users++;
    slot.used = true;
    for (const [oldPath, old] of this.#slots) {
      if (this.#slots.size <= OPEN_FILES_MAX) break;
      this.#drop(oldPath, old);
      void closeUnused(old);
    }
    this.#timer ??= setInterval(() => this.#closeIdle(), OPEN_FILES_IDLE_MS).unref();
    return slot;
  }

  #drop(path: string, slot: Slot): void {
    slot.dropped = true;
    if (this.#slots.get(path) === slot) this.#slots.delete(path);
  }

  #closeIdle(): void {
    for (const [path, slot] of this.#slots) {
      if (!slot.used && slot.users === 0) {
        this.#drop(path, slot);
        void closeUnused(slot);
      }
      slot.used = false;
    }
    if (this.#slots.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}

async function closeUnused(slot: Slot): Promise<void> {
  if (!slot.dropped || slot.users > 0) return;
  // One that could not be opened needs no closing, and a file that was only read loses nothing when closing it fails.
  await slot.fd.then(closeFd).catch(() => undefined);
}
