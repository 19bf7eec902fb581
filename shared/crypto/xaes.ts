/**
 * XAES-256-GCM (C2SP, c2sp.org/XAES-256-GCM): AES-256-GCM under a key that is derived from the first half of a 24-byte nonce.
 *
 * Why not plain AES-256-GCM: its 12-byte nonce is too short to be drawn at random for years of chunks, and a counter would have to be kept
 * durably by a receiver that keeps nothing. Here each writer draws 12 random bytes once (the prefix) and counts in the rest: within a writer a nonce can't
 * repeat, and two writers would have to draw the same 96 bits. One key derivation per writer, then the speed of plain GCM.
 */
import { createCipheriv, createDecipheriv } from 'node:crypto';
import { corrupt, DAMAGE_HINT } from '../errors.js';

export const KEY_BYTES = 32;
export const NONCE_BYTES = 24;
export const TAG_BYTES = 16;
const PREFIX_BYTES = 12;
/** Chunks under one derived key: GCM's bound for one key is 2^32 calls. */
const CALLS_PER_PREFIX = 2 ** 32;
/** Derived keys that a reader keeps: a point is read from the layers of many writers, each asked for again and again. */
const DERIVED_KEPT = 256;

const ecb = (key: Buffer, block: Buffer): Buffer => {
  const cipher = createCipheriv('aes-256-ecb', key, null).setAutoPadding(false);
  return Buffer.concat([cipher.update(block), cipher.final()]);
};

/** One key; derives and remembers what it needs. */
export class XaesKey {
  readonly #key: Buffer;
  readonly #mask: Buffer;
  readonly #derived = new Map<string, Buffer>();

  constructor(key: Buffer) {
    if (key.length !== KEY_BYTES) throw new Error(`a key has ${KEY_BYTES} bytes`);
    this.#key = key;
    this.#mask = doubled(ecb(key, Buffer.alloc(16)));
  }

  /** Encrypts `plain` and returns it with its tag. */
  seal(nonce: Buffer, aad: Buffer, plain: Buffer): { sealed: Buffer; tag: Buffer } {
    const cipher = createCipheriv('aes-256-gcm', this.#derive(nonce), nonce.subarray(PREFIX_BYTES));
    cipher.setAAD(aad);
    const sealed = cipher.update(plain);
    cipher.final();
    return { sealed, tag: cipher.getAuthTag() };
  }

  /** Decrypts; undefined when anything (data, tag, nonce, what was authenticated along, the key) isn't what was sealed. */
  open(nonce: Buffer, aad: Buffer, sealed: Buffer, tag: Buffer): Buffer | undefined {
    const decipher = createDecipheriv('aes-256-gcm', this.#derive(nonce), nonce.subarray(PREFIX_BYTES));
    decipher.setAAD(aad);
    decipher.setAuthTag(tag);
    const plain = decipher.update(sealed);
    try {
      decipher.final();
    } catch {
      plain.fill(0);
      return undefined;
    }
    return plain;
  }

  #derive(nonce: Buffer): Buffer {
    if (nonce.length !== NONCE_BYTES) throw new Error(`a nonce has ${NONCE_BYTES} bytes`);
    const prefix = nonce.toString('latin1', 0, PREFIX_BYTES);
    let key = this.#derived.get(prefix);
    if (key !== undefined) return key;
    // CMAC of the two blocks of NIST SP 800-108's counter mode, as the specification writes it out.
    key = Buffer.concat([1, 2].map((counter) => ecb(this.#key, this.#block(counter, nonce))));
    if (this.#derived.size >= DERIVED_KEPT) this.#derived.delete(this.#derived.keys().next().value ?? '');
    this.#derived.set(prefix, key);
    return key;
  }

  #block(counter: number, nonce: Buffer): Buffer {
    const block = Buffer.from(this.#mask);
    block[1] = (block[1] ?? 0) ^ counter;
    block[2] = (block[2] ?? 0) ^ 0x58;
    for (let i = 0; i < PREFIX_BYTES; i++) block[4 + i] = (block[4 + i] ?? 0) ^ (nonce[i] ?? 0);
    return block;
  }
}

/** Doubling in GF(2^128), as CMAC makes its subkeys. */
function doubled(block: Buffer): Buffer {
  const out = Buffer.alloc(16);
  let carry = 0;
  for (let i = 15; i >= 0; i--) {
    const byte = block[i] ?? 0;
    out[i] = ((byte << 1) | carry) & 0xff;
    carry = byte >>> 7;
  }
  if (carry === 1) out[15] = (out[15] ?? 0) ^ 0x87;
  return out;
}

/** Nonces of one writer: a random prefix and a counter. Not shared between writers, not kept. */
export class NonceSource {
  readonly #randomBytes: (length: number) => Buffer;
  #prefix: Buffer;
  #next = 0;

  constructor(randomBytes: (length: number) => Buffer) {
    this.#randomBytes = randomBytes;
    this.#prefix = randomBytes(PREFIX_BYTES);
  }

  next(): Buffer {
    if (this.#next === CALLS_PER_PREFIX) {
      this.#prefix = this.#randomBytes(PREFIX_BYTES);
      this.#next = 0;
    }
    const nonce = Buffer.alloc(NONCE_BYTES);
    this.#prefix.copy(nonce);
    nonce.writeUInt32LE(this.#next++, PREFIX_BYTES);
    return nonce;
  }
}

export const unauthentic = (what: string): Error =>
  corrupt(
    'unauthentic',
    `${what} is not what was encrypted: damaged, moved from elsewhere, or of another key`,
    DAMAGE_HINT,
  );
