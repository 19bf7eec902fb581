/**
 * Keys and chunks for tests of encryption: fixed keys, and noise that is known byte for byte.
 */
import { createHash } from 'node:crypto';
import { MachineCipher, type WritesAs } from '../../shared/crypto/machine-cipher.js';
import { keyCheckOf, keyIdOf, type KeyHolder, type KeySet } from '../../shared/crypto/keys.js';
import { chunkBytesMax, encodeChunk, type ChunkExtent } from '../../shared/layer/chunk.js';

export const BLOCK = 4096;
export const MACHINE = '11111111-2222-4333-8444-555555555555';
export const OTHER_MACHINE = '99999999-2222-4333-8444-555555555555';
export const DISK = 'disk0';

/** Bytes that don't compress and never change. */
export function noise(bytes: number, seed: string): Buffer {
  const parts: Buffer[] = [];
  for (let i = 0; i < bytes / 32; i++) parts.push(createHash('sha256').update(`${seed} ${i}`).digest());
  return Buffer.concat(parts).subarray(0, bytes);
}

/** "Random" bytes that are the same in each run. */
export function seededBytes(seed: string): (length: number) => Buffer {
  let calls = 0;
  return (length) => Buffer.from(noise(length, `${seed}/${calls++}`));
}

export function keySetOf(holder: KeyHolder, seed: string, dataKeys = 1): KeySet {
  const data = Array.from({ length: dataKeys }, (_, i) => {
    const key = Buffer.from(noise(32, `${seed} data ${i}`));
    return { id: keyIdOf(key), key, madeAtMs: 1_700_000_000_000 + i };
  });
  return { holder, machine: MACHINE, hash: Buffer.from(noise(32, `${seed} hash`)), data };
}

export const cipherOf = (
  sets: readonly KeySet[],
  writesAs: WritesAs,
  machine = MACHINE,
  seed = 'nonces',
): MachineCipher =>
  new MachineCipher({
    machine,
    sets,
    writesAs,
    hashCheck: writesAs === 'agent' && sets[0] !== undefined ? keyCheckOf(sets[0].hash) : '',
    randomBytes: seededBytes(seed),
  });

export const EXTENTS: readonly ChunkExtent[] = [
  { first: 3, count: 1, zero: false },
  { first: 4, count: 1000, zero: true },
  { first: 20_000, count: 1, zero: false },
];

/** A chunk of two data blocks and a zero run, encrypted when the cipher writes so. */
export function chunkOf(cipher: MachineCipher | null, plain: Buffer, disk = DISK, extents = EXTENTS): Buffer {
  const numbers = extents.filter((e) => !e.zero).flatMap((e) => Array.from({ length: e.count }, (_, i) => e.first + i));
  const sealer = cipher?.sealer(disk) ?? null;
  const hash = cipher?.hasherOf({ seal: sealer }, disk) ?? cipherOf([], 'plain').hasherOf({ seal: null }, disk);
  const hashes = BigUint64Array.from(numbers.map((n, i) => hash(plain, i * BLOCK, BLOCK, n)));
  const target = Buffer.alloc(chunkBytesMax(extents.length, hashes.length, plain.length));
  return target.subarray(0, encodeChunk(target, BLOCK, extents, hashes, plain, sealer));
}
