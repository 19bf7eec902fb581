/**
 * A decorator that keeps small objects on a local disk: those that were just written, which upkeep soon reads again, and those that were read
 * whole. Objects never change, so only a deletion makes a copy wrong. A copy is believed only as far as its checksums go; one that is damaged
 * or gone is read from the store. Nothing of it outlives the process: its folder is emptied at the start. Not for whoever wants to know
 * what the store really holds (the scrub): that one is given the store beneath.
 */
import { mkdir, open, rm, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { checksum64 } from '../../shared/blocks/hash.js';
import { CACHE_PIECE_BYTES, CACHED_OBJECT_BYTES_MAX } from '../../shared/limits-store.js';
import { tooLarge, tooShort } from './body.js';
import type { CreateResult, ListOptions, ObjectInfo, ObjectStore, ObjectWriter } from './store.js';

interface Copy {
  readonly path: string;
  readonly sizeBytes: number;
  /** Of each piece of the file: a range is proven without the rest. */
  readonly checksums: readonly bigint[];
}

export class CachedStore implements ObjectStore {
  readonly url: string;
  readonly #under: ObjectStore;
  readonly #folder: string;
  readonly #bytesMax: number;
  /** In order of use, oldest first. */
  readonly #copies = new Map<string, Copy>();
  #bytes = 0;
  #files = 0;
  /** Copies on their way to the disk, by name: a deletion waits for its own. */
  readonly #keeping = new Map<string, Promise<void>>();

  private constructor(under: ObjectStore, folder: string, bytesMax: number) {
    this.url = under.url;
    this.#under = under;
    this.#folder = folder;
    this.#bytesMax = bytesMax;
  }

  /** The folder is the cache's own: what is in it is removed. */
  static async open(under: ObjectStore, folder: string, bytesMax: number): Promise<CachedStore> {
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true, mode: 0o700 });
    return new CachedStore(under, folder, bytesMax);
  }

  async createIfAbsent(name: string, bytes: Buffer): Promise<CreateResult> {
    const result = await this.#under.createIfAbsent(name, bytes);
    if (result === 'created') await this.#keep(name, bytes);
    return result;
  }

  async openWriter(name: string): Promise<ObjectWriter> {
    const writer = await this.#under.openWriter(name);
    let written: Buffer[] | null = [];
    let bytes = 0;
    return {
      write: async (buffers) => {
        // Before they leave our hands: then they may be used again.
        for (const buffer of buffers) bytes += buffer.length;
        if (bytes > CACHED_OBJECT_BYTES_MAX) written = null;
        else written?.push(...buffers.map((buffer) => Buffer.from(buffer)));
        await writer.write(buffers);
      },
      finish: async () => {
        const result = await writer.finish();
        if (result === 'created' && written !== null) await this.#keep(name, Buffer.concat(written));
        written = null;
        return result;
      },
      abort: () => {
        written = null;
        return writer.abort();
      },
    };
  }

  async get(name: string, maxBytes: number): Promise<Buffer | null> {
    const copy = this.#copies.get(name);
    if (copy !== undefined && copy.sizeBytes > maxBytes) throw tooLarge(name, copy.sizeBytes, maxBytes);
    const kept = copy === undefined ? null : await this.#readCopy(name, copy, 0, copy.sizeBytes);
    if (kept !== null) return kept;
    const bytes = await this.#under.get(name, maxBytes);
    if (bytes !== null) await this.#keep(name, bytes);
    return bytes;
  }

  async read(name: string, offset: number, lengthBytes: number, room?: Buffer): Promise<Buffer> {
    const copy = this.#copies.get(name);
    if (copy !== undefined) {
      const end = offset + lengthBytes;
      if (end > copy.sizeBytes) throw tooShort(name, copy.sizeBytes, end);
      const kept = await this.#readCopy(name, copy, offset, lengthBytes);
      if (kept !== null) return kept;
    }
    return this.#under.read(name, offset, lengthBytes, room);
  }

  head(name: string): Promise<ObjectInfo | null> {
    return this.#under.head(name);
  }

  list(prefix: string, options?: ListOptions): AsyncIterable<ObjectInfo> {
    return this.#under.list(prefix, options);
  }

  listFolders(prefix: string): Promise<string[]> {
    return this.#under.listFolders(prefix);
  }

  /** Copies go first: from here on nobody may be told of an object that is gone. */
  async deleteMany(names: readonly string[]): Promise<void> {
    for (const name of names) {
      await this.#keeping.get(name);
      await this.#forget(name);
    }
    await this.#under.deleteMany(names);
  }

  serverClockMs(): number | null {
    return this.#under.serverClockMs?.() ?? null;
  }

  freeBytes(): Promise<number | null> {
    return this.#under.freeBytes();
  }

  async close(): Promise<void> {
    await this.#under.close();
    await rm(this.#folder, { recursive: true, force: true });
  }

  async #keep(name: string, bytes: Buffer): Promise<void> {
    if (bytes.length > CACHED_OBJECT_BYTES_MAX || bytes.length > this.#bytesMax || this.#copies.has(name)) return;
    if (this.#keeping.has(name)) return;
    const kept = this.#write(name, bytes)
      // A cache that can't be written to is none; the store has the object.
      .catch(() => undefined)
      .finally(() => this.#keeping.delete(name));
    this.#keeping.set(name, kept);
    await kept;
  }

  async #write(name: string, bytes: Buffer): Promise<void> {
    const path = join(this.#folder, String(this.#files++));
    const checksums: bigint[] = [];
    for (let at = 0; at < bytes.length; at += CACHE_PIECE_BYTES) {
      checksums.push(checksum64(bytes.subarray(at, at + CACHE_PIECE_BYTES)));
    }
    try {
      await writeFile(path, bytes, { flag: 'wx', mode: 0o600 });
    } catch (error) {
      await unlink(path).catch(() => undefined);
      throw error;
    }
    this.#copies.set(name, { path, sizeBytes: bytes.length, checksums });
    this.#bytes += bytes.length;
    for (const oldest of this.#copies.keys()) {
      if (this.#bytes <= this.#bytesMax) break;
      await this.#forget(oldest);
    }
  }

  /** Null when the copy is not what it should be; it is forgotten then. */
  async #readCopy(name: string, copy: Copy, offset: number, lengthBytes: number): Promise<Buffer | null> {
    const first = Math.floor(offset / CACHE_PIECE_BYTES);
    const from = first * CACHE_PIECE_BYTES;
    const to = Math.min(copy.sizeBytes, Math.ceil((offset + lengthBytes) / CACHE_PIECE_BYTES) * CACHE_PIECE_BYTES);
    const bytes = await readRange(copy.path, from, to - from);
    if (bytes === null || !isProven(bytes, copy.checksums.slice(first))) {
      if (this.#copies.get(name) === copy) await this.#forget(name);
      return null;
    }
    // To the end: the one that rested longest goes first.
    if (this.#copies.get(name) === copy) {
      this.#copies.delete(name);
      this.#copies.set(name, copy);
    }
    return bytes.subarray(offset - from, offset - from + lengthBytes);
  }

  async #forget(name: string): Promise<void> {
    const copy = this.#copies.get(name);
    if (copy === undefined) return;
    this.#copies.delete(name);
    this.#bytes -= copy.sizeBytes;
    await unlink(copy.path).catch(() => undefined);
  }
}

async function readRange(path: string, offset: number, lengthBytes: number): Promise<Buffer | null> {
  const file = await open(path, 'r').catch(() => null);
  if (file === null) return null;
  try {
    const bytes = Buffer.allocUnsafe(lengthBytes);
    const { bytesRead } = await file.read(bytes, 0, lengthBytes, offset);
    return bytesRead === lengthBytes ? bytes : null;
  } catch {
    return null;
  } finally {
    await file.close();
  }
}

function isProven(bytes: Buffer, checksums: readonly bigint[]): boolean {
  for (let at = 0; at < bytes.length; at += CACHE_PIECE_BYTES) {
    if (checksum64(bytes.subarray(at, at + CACHE_PIECE_BYTES)) !== checksums[at / CACHE_PIECE_BYTES]) return false;
  }
  return true;
}
