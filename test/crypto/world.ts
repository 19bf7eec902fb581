/**
 * A store in memory with keys, an agent's side of the session protocol that may encrypt, and what an onlooker can find in it.
 */
import { randomBytes } from 'node:crypto';
import { attachKeys } from '../../receiver/catalog/store-keys.js';
import { MachineKeys, type MachineKeysDeps } from '../../receiver/keys/machine-keys.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import type { KeyProvider } from '../../receiver/keys/provider.js';
import { digestToText, hashBlockAt } from '../../shared/blocks/hash.js';
import { systemClock } from '../../shared/clock.js';
import { keyCheckOf, newKeySet, type KeySet } from '../../shared/crypto/keys.js';
import { MachineCipher } from '../../shared/crypto/machine-cipher.js';
import { chunkBytesMax, encodeChunk } from '../../shared/layer/chunk.js';
import type { DataTarget, Hello } from '../../shared/wire/messages.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { BLOCK_BYTES, dataMessage, DISK, HELLO_DISK, helloOf, MACHINE, TestAgent } from '../session/ingest-fixture.js';

/** Wraps with a key in memory; counts what it is asked for. */
export class MemoryProvider implements KeyProvider {
  readonly name = 'memory:';
  kek = 'first';
  calls: string[] = [];
  /** Set: it fails. */
  broken = false;

  async currentKek(): Promise<string> {
    return this.kek;
  }

  async wrap(key: Buffer, context: string): Promise<{ kek: string; wrapped: string }> {
    this.calls.push(`wrap ${context}`);
    return { kek: this.kek, wrapped: Buffer.from(key.map((b) => b ^ 0x5a)).toString('base64') };
  }

  async unwrap({ wrapped }: { wrapped: string }, context: string): Promise<Buffer> {
    this.calls.push(`unwrap ${context}`);
    if (this.broken) throw new Error('the provider is gone');
    return Buffer.from(Buffer.from(wrapped, 'base64').map((b) => b ^ 0x5a));
  }
}

export function keysFor(store: ObjectStore, more: Partial<MachineKeysDeps> = {}): MachineKeys {
  const keys = new MachineKeys({
    store,
    clock: systemClock,
    randomBytes,
    provider: null,
    atRest: more.provider !== undefined && more.provider !== null,
    files: [],
    ...more,
  });
  attachKeys(store, keys);
  return keys;
}

/** The same objects, seen by a program of its own: other keys, nothing cached. */
export function seenBy(store: MemoryStore, more: Partial<MachineKeysDeps> = {}): MemoryStore {
  const other = new MemoryStore();
  for (const [name, bytes] of store.objects) other.objects.set(name, Buffer.from(bytes));
  keysFor(other, more);
  return other;
}

export const agentKeySet = (): KeySet => newKeySet('agent', MACHINE, randomBytes, 1_700_000_000_000);

export const agentCipher = (set: KeySet, machine: string = MACHINE): MachineCipher =>
  new MachineCipher({
    machine,
    sets: [set],
    writesAs: 'agent',
    hashCheck: keyCheckOf(set.hash),
    randomBytes,
  });

/** An agent that encrypts with its own keys; with none it is the plain one. */
export class KeyedAgent extends TestAgent {
  readonly keys: KeySet | null;
  readonly cipher: MachineCipher | null;

  constructor(store: MemoryStore, keys: KeySet | null, model = new Map<number, Buffer>()) {
    super(store, model);
    this.keys = keys;
    this.cipher = keys === null ? null : agentCipher(keys);
  }

  helloMessage(more: Partial<Hello['disks'][number]> = {}): Hello {
    const { keys } = this;
    const encryption =
      keys === null ? {} : { encryption: { hashCheck: keyCheckOf(keys.hash), dataKeys: keys.data.map((d) => d.id) } };
    return helloOf([{ ...HELLO_DISK, ...more }], encryption);
  }

  #hash(n: number, bytes: Buffer): bigint {
    const seal = this.cipher?.sealer(DISK) ?? null;
    return (this.cipher?.hasherOf({ seal }, DISK) ?? hashBlockAt)(bytes, 0, BLOCK_BYTES, n);
  }

  override data(
    blocks: ReadonlyMap<number, Buffer | null>,
    target: DataTarget = 'cycle',
    segment: number | null = null,
  ): void {
    for (const [n, bytes] of blocks) {
      if (bytes === null) this.model.delete(n);
      else this.model.set(n, bytes);
    }
    const extents = [...blocks].map(([first, bytes]) => ({ first, count: 1, zero: bytes === null }));
    const data = [...blocks].filter(([, bytes]) => bytes !== null) as [number, Buffer][];
    const hashes = BigUint64Array.from(data, ([n, bytes]) => this.#hash(n, bytes));
    const plain = Buffer.concat(data.map(([, bytes]) => bytes));
    const chunk = Buffer.alloc(chunkBytesMax(extents.length, data.length, plain.length));
    const length = encodeChunk(chunk, BLOCK_BYTES, extents, hashes, plain, this.cipher?.sealer(DISK) ?? null);
    this.transport.deliver(dataMessage(chunk.subarray(0, length), ++this.sequence, target, segment));
  }

  override get digest(): string {
    let digest = 0n;
    for (const [n, bytes] of this.model) digest ^= this.#hash(n, bytes);
    return digestToText(digest);
  }
}

/** What of these blocks an onlooker finds in an object: their bytes, their plain hashes (as numbers or text), a digest made of them. */
export function leaks(
  objects: Iterable<readonly [string, Buffer]>,
  model: ReadonlyMap<number, Buffer>,
  blockBytes = BLOCK_BYTES,
): string[] {
  const found: string[] = [];
  let digest = 0n;
  const needles: [string, Buffer][] = [];
  for (const [n, bytes] of model) {
    const hash = hashBlockAt(bytes, 0, blockBytes, n);
    digest ^= hash;
    const number = Buffer.alloc(8);
    number.writeBigUInt64LE(hash);
    needles.push([`bytes of block ${n}`, bytes.subarray(0, 24)], [`hash of block ${n}`, number]);
    needles.push([`hash of block ${n} as text`, Buffer.from(digestToText(hash))]);
  }
  needles.push(['digest', Buffer.from(digestToText(digest))]);
  for (const [name, bytes] of objects)
    for (const [what, needle] of needles) if (bytes.includes(needle)) found.push(`${what} in ${name}`);
  return found;
}
