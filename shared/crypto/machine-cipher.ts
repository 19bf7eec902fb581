/**
 * Encrypts, decrypts and hashes for one machine with the keys that are at hand. The receiver and the agent use the same.
 *
 * Promises: what is encrypted for one machine and disk can't be decrypted as another's; what can't be proven isn't returned.
 * A key that is missing is an error that says which, whose, and where to get it (kind `refused`, code `key-missing`).
 */
import { createCipheriv, createDecipheriv, createHash } from 'node:crypto';
import { digestFromText, digestToText } from '../blocks/hash.js';
import { AfterimageError } from '../errors.js';
import type { ChunkHeader, ChunkOpener, ChunkSeal, ChunkSealer } from '../layer/chunk.js';
import { keyedHasher, plainHasher, type BlockHasher } from './block-hasher.js';
import { keyCheckOf, keyIdText, type KeySet, type RandomBytes } from './keys.js';
import { NonceSource, unauthentic, XaesKey } from './xaes.js';

interface Held {
  readonly set: KeySet;
  readonly xaes: XaesKey;
}

/** How new chunks of a machine are written. */
export type WritesAs = 'plain' | 'receiver' | 'agent';

export interface CipherOptions {
  readonly machine: string;
  readonly sets: readonly KeySet[];
  readonly writesAs: WritesAs;
  /** Check value of the source's hash key; '' unless it encrypts. */
  readonly hashCheck?: string;
  readonly randomBytes: RandomBytes;
}

const HIDDEN = /^k([0-9a-f]{32})$/;
export const isHiddenDigest = (text: string): boolean => HIDDEN.test(text);

export class MachineCipher {
  readonly machine: string;
  readonly writesAs: WritesAs;
  readonly hashCheck: string;
  readonly #sets: readonly KeySet[];
  readonly #randomBytes: RandomBytes;
  readonly #held = new Map<number, Held>();

  constructor({ machine, sets, writesAs, hashCheck = '', randomBytes }: CipherOptions) {
    this.machine = machine;
    this.writesAs = writesAs;
    this.hashCheck = hashCheck;
    this.#sets = sets;
    this.#randomBytes = randomBytes;
    for (const set of sets) for (const { id, key } of set.data) this.#held.set(id, { set, xaes: new XaesKey(key) });
  }

  /** Whether the key of a chunk is at hand. What has none is readable. */
  canOpen(seal: ChunkSeal | null): boolean {
    return seal === null || this.#held.has(seal.keyId);
  }

  /** Encrypts new chunks of a disk; a writer of its own each time, so that nonces never meet. Null: they are written plain. */
  sealer(disk: string): ChunkSealer | null {
    if (this.writesAs === 'plain') return null;
    return this.#sealerOf(this.#writing(), disk);
  }

  /** The same with the keys of a source, by the check value of its hash key. */
  sealerFor(hashCheck: string, disk: string): ChunkSealer {
    return this.#sealerOf(this.#agentSet(hashCheck), disk);
  }

  #sealerOf(set: KeySet, disk: string): ChunkSealer {
    const current = set.data[set.data.length - 1];
    const held = current === undefined ? undefined : this.#held.get(current.id);
    if (current === undefined || held === undefined) throw new Error('a set of keys without a data key');
    const nonces = new NonceSource(this.#randomBytes);
    const context = this.#context(disk);
    return {
      keyId: current.id,
      keyed: set.holder === 'agent',
      seal: (aad, plain) => {
        const nonce = nonces.next();
        return { nonce, ...held.xaes.seal(nonce, Buffer.concat([context, aad]), plain) };
      },
    };
  }

  /** Decrypts chunks and indexes of a disk. */
  opener(disk: string): ChunkOpener {
    const context = this.#context(disk);
    return (seal, nonce, tag, aad, sealed) => {
      const { xaes } = this.#of(seal);
      const plain = xaes.open(nonce, Buffer.concat([context, aad]), sealed, tag);
      if (plain === undefined) throw unauthentic(`what is encrypted with key ${keyIdText(seal.keyId)}`);
      return plain;
    };
  }

  /** The hashes of a chunk's blocks, as whoever wrote it made them. */
  hasherOf({ seal }: Pick<ChunkHeader, 'seal'>, disk: string): BlockHasher {
    return seal?.keyed === true ? keyedHasher(this.#of(seal).set.hash, disk) : plainHasher;
  }

  /** The hashes under a digest of the machine, by the check value of their key; '' for plain ones. */
  hasherFor(hashCheck: string, disk: string): BlockHasher {
    if (hashCheck === '') return plainHasher;
    return keyedHasher(this.#agentSet(hashCheck).hash, disk);
  }

  #agentSet(hashCheck: string): KeySet {
    const set = this.#sets.find((s) => s.holder === 'agent' && keyCheckOf(s.hash) === hashCheck);
    if (set === undefined) throw this.#missing(`the key file of its source (hash key ${hashCheck})`);
    return set;
  }

  /** A digest as it stands in the manifest: that of plain hashes isn't shown to whoever reads the store. */
  hideDigest(disk: string, digest: string): string {
    if (this.writesAs !== 'receiver' || isHiddenDigest(digest)) return digest;
    const block = Buffer.alloc(16);
    block.writeBigUInt64LE(digestFromText(digest), 0);
    diskTag(disk).copy(block, 8);
    const cipher = createCipheriv('aes-256-ecb', this.#writing().hash, null).setAutoPadding(false);
    return `k${cipher.update(block).toString('hex')}`;
  }

  get canShowDigests(): boolean {
    return this.#sets.some((s) => s.holder === 'receiver');
  }

  showDigest(disk: string, text: string): string {
    const hidden = HIDDEN.exec(text)?.[1];
    if (hidden === undefined) return text;
    const sets = this.#sets.filter((s) => s.holder === 'receiver');
    if (sets.length === 0) throw this.#missing('the keys of the receiver');
    for (const set of sets) {
      const decipher = createDecipheriv('aes-256-ecb', set.hash, null).setAutoPadding(false);
      const block = decipher.update(Buffer.from(hidden, 'hex'));
      if (block.subarray(8).equals(diskTag(disk))) return digestToText(block.readBigUInt64LE(0));
    }
    throw unauthentic(`the digest of disk ${disk}`);
  }

  #of(seal: ChunkSeal): Held {
    const held = this.#held.get(seal.keyId);
    if (held === undefined) {
      throw this.#missing(`key ${keyIdText(seal.keyId)} of the ${seal.keyed ? 'source' : 'receiver'}`);
    }
    if ((held.set.holder === 'agent') !== seal.keyed) throw unauthentic(`a chunk of key ${keyIdText(seal.keyId)}`);
    return held;
  }

  #writing(): KeySet {
    if (this.writesAs === 'agent') return this.#agentSet(this.hashCheck);
    const set = this.#sets.find((s) => s.holder === 'receiver');
    if (set === undefined) throw this.#missing('the key of the receiver');
    return set;
  }

  #missing(which: string): AfterimageError {
    return keyMissing(this.machine, which);
  }

  #context(disk: string): Buffer {
    return Buffer.from(`afterimage\0${this.machine}\0${disk}\0`, 'utf8');
  }
}

const diskTag = (disk: string): Buffer => createHash('sha256').update(disk).digest().subarray(0, 8);

export const keyMissing = (machine: string, which: string): AfterimageError =>
  new AfterimageError(`machine ${machine} is encrypted, and ${which} is not at hand`, {
    code: 'key-missing',
    kind: 'refused',
    hint: 'Give the recovery key file with --key FILE or AFTERIMAGE_KEY_FILE, or set `encryption:` in the receiver’s configuration.',
  });
