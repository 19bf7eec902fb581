/**
 * What a reader of one disk can read: decrypts its chunks and indexes with the keys of the store (catalog/store-keys.ts), and says beforehand whether it can.
 * Keys are looked up when something encrypted is met, once more when one is missing (it may be new), and not at all for what is in the clear.
 */
import { plainHasher, type BlockHasher } from '../../shared/crypto/block-hasher.js';
import { isHiddenDigest, type MachineCipher } from '../../shared/crypto/machine-cipher.js';
import {
  decodeChunkHeader,
  openChunk,
  type ChunkHeader,
  type ChunkOpener,
  type ChunkSeal,
  type ChunkSealer,
} from '../../shared/layer/chunk.js';
import { indexSealOf } from '../../shared/layer/layer.js';
import type { DiskId, MachineId } from '../../shared/units.js';
import { keysOf } from '../catalog/store-keys.js';
import type { ObjectStore } from '../store/store.js';

/** A chunk in the form in which a layer of the same machine and disk takes it. */
export interface StoredChunk {
  readonly number: number;
  readonly bytes: Buffer;
  readonly header: ChunkHeader;
}

/** A chunk that can be decoded. */
export interface ReadChunk extends StoredChunk {
  /** As its block hashes were made. */
  readonly hash: BlockHasher;
}

/** As a point's disk says of its block hashes. */
export interface HashesUnder {
  readonly hashCheck?: string | undefined;
}

export class DiskKeys {
  readonly #store: ObjectStore;
  readonly #machine: MachineId;
  readonly #disk: DiskId;
  /** By key: one for many chunks. */
  readonly #hashers = new Map<number, BlockHasher>();

  constructor(store: ObjectStore, machine: MachineId, disk: DiskId) {
    this.#store = store;
    this.#machine = machine;
    this.#disk = disk;
  }

  /** Whether its key is at hand. Never throws for a key that is missing. */
  async canOpen(seal: ChunkSeal | null): Promise<boolean> {
    return seal === null || (await this.#cipher(seal)).canOpen(seal);
  }

  /** Decrypts. Throws code `key-missing`, or kind `corrupt` when it isn't what was encrypted. */
  async open(chunk: StoredChunk): Promise<ReadChunk> {
    const { seal } = chunk.header;
    if (seal === null) return { ...chunk, hash: plainHasher };
    const cipher = await this.#cipher(seal);
    const bytes = openChunk(chunk.bytes, chunk.header, cipher.opener(this.#disk));
    let hash = this.#hashers.get(seal.keyId);
    if (hash === undefined) this.#hashers.set(seal.keyId, (hash = cipher.hasherOf(chunk.header, this.#disk)));
    return { number: chunk.number, bytes, header: decodeChunkHeader(bytes, false), hash };
  }

  /** For decodeIndex; undefined for an index in the clear. */
  async indexOpener(bytes: Buffer): Promise<ChunkOpener | undefined> {
    const seal = indexSealOf(bytes);
    return seal === null ? undefined : (await this.#cipher(seal)).opener(this.#disk);
  }

  /** Throws code `key-missing` when the point's disk can't be read with the keys at hand, before anything of it is. */
  async require(disk: HashesUnder & { readonly digest: string }): Promise<void> {
    if (!isHiddenDigest(disk.digest) && disk.hashCheck === undefined) return;
    const cipher = await keysOf(this.#store).cipherOf(this.#machine);
    cipher.showDigest(this.#disk, disk.digest);
    if (disk.hashCheck !== undefined) cipher.hasherFor(disk.hashCheck, this.#disk);
  }

  async hasherFor({ hashCheck }: HashesUnder): Promise<BlockHasher> {
    if (hashCheck === undefined) return plainHasher;
    return (await keysOf(this.#store).cipherOf(this.#machine)).hasherFor(hashCheck, this.#disk);
  }

  /** Encrypts as the source does, for it; null for hashes that aren't under its key. */
  async sealerFor({ hashCheck }: HashesUnder): Promise<ChunkSealer | null> {
    if (hashCheck === undefined) return null;
    return (await keysOf(this.#store).cipherOf(this.#machine)).sealerFor(hashCheck, this.#disk);
  }

  async #cipher(seal: ChunkSeal): Promise<MachineCipher> {
    const keys = keysOf(this.#store);
    const cipher = await keys.cipherOf(this.#machine);
    return cipher.canOpen(seal) ? cipher : keys.cipherOf(this.#machine, 'now');
  }
}
