/**
 * The source's own keys, when `encryption: { keyFile }` is set: what leaves this machine is encrypted then, and its block hashes are keyed, so that a receiver
 * can store, compare and thin out what it can't read. Without the file there is no encryption here.
 *
 * The agent never makes keys unasked and never sends one. A key file that is missing or damaged keeps the disks from being opened: nothing is sent in
 * the clear because a file wasn't there.
 */
import { randomBytes } from 'node:crypto';
import { plainHasher, type BlockHasher } from '../../shared/crypto/block-hasher.js';
import { loadKeyFile } from '../../shared/crypto/key-file.js';
import { keyCheckOf, type KeySet, type RandomBytes } from '../../shared/crypto/keys.js';
import { MachineCipher } from '../../shared/crypto/machine-cipher.js';
import { usageError } from '../../shared/errors.js';
import type { ChunkOpener, ChunkSealer } from '../../shared/layer/chunk.js';
import type { Hello } from '../../shared/wire/messages.js';

/** How the blocks of one disk are hashed, and its chunks encrypted and decrypted. */
export interface DiskCipher {
  /** Check value of the hash key; '' for plain hashes. */
  readonly hashCheck: string;
  readonly hash: BlockHasher;
  /** One per writer, so that nonces never meet; null: chunks go out in the clear. */
  sealer(): ChunkSealer | null;
  /** Null: there are no keys here. */
  readonly opener: ChunkOpener | null;
}

export const PLAIN_DISK: DiskCipher = { hashCheck: '', hash: plainHasher, sealer: () => null, opener: null };

export class SourceKeys {
  readonly #set: KeySet;
  readonly #cipher: MachineCipher;
  readonly #hashCheck: string;

  constructor(set: KeySet, machine: string, random: RandomBytes = randomBytes) {
    this.#set = set;
    this.#hashCheck = keyCheckOf(set.hash);
    this.#cipher = new MachineCipher({
      machine,
      sets: [set],
      writesAs: 'agent',
      hashCheck: this.#hashCheck,
      randomBytes: random,
    });
  }

  static async load(path: string, machine: string): Promise<SourceKeys> {
    const set = await loadKeyFile(path);
    if (set.holder !== 'agent') {
      throw usageError(
        `key file ${path} holds a receiver’s keys`,
        'Make one for this machine: afterimage-agent keys init.',
      );
    }
    if (set.machine !== null && set.machine !== machine) {
      throw usageError(
        `key file ${path} is that of machine ${set.machine}, this is ${machine}`,
        'Two machines must not share keys.',
      );
    }
    return new SourceKeys(set, machine);
  }

  get hello(): NonNullable<Hello['encryption']> {
    return { hashCheck: this.#hashCheck, dataKeys: this.#set.data.map((d) => d.id) };
  }

  forDisk(disk: string): DiskCipher {
    return {
      hashCheck: this.#hashCheck,
      hash: this.#cipher.hasherFor(this.#hashCheck, disk),
      sealer: () => this.#cipher.sealer(disk),
      opener: this.#cipher.opener(disk),
    };
  }
}
