/**
 * Encrypted chunks and indexes: what comes back, what is refused, and that their bytes don't change from version to version.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { checksum64, hashBlockAt } from '../../shared/blocks/hash.js';
import { MachineCipher } from '../../shared/crypto/machine-cipher.js';
import { keyIdText } from '../../shared/crypto/keys.js';
import {
  decodeChunkData,
  decodeChunkHeader,
  encodeChunk,
  openChunk,
  sealChunk,
  SEAL_BYTES,
} from '../../shared/layer/chunk.js';
import {
  decodeFooter,
  decodeIndex,
  indexSealOf,
  LAYER_FOOTER_BYTES,
  LAYER_HEADER_BYTES,
  LayerIndexBuilder,
} from '../../shared/layer/layer.js';
import { BLOCK, chunkOf, cipherOf, DISK, EXTENTS, keySetOf, MACHINE, noise, OTHER_MACHINE } from './fixture.js';

const PLAIN = noise(2 * BLOCK, 'plain');
const RECEIVER = keySetOf('receiver', 'r');
const AGENT = keySetOf('agent', 'a');
const FOLDER = new URL('../golden/', import.meta.url);

function open(cipher: MachineCipher, bytes: Buffer, disk = DISK): Buffer {
  const chunk = openChunk(bytes, decodeChunkHeader(bytes), cipher.opener(disk));
  const header = decodeChunkHeader(chunk);
  const plain = Buffer.alloc(header.plainBytes);
  decodeChunkData(chunk, header, plain);
  return plain;
}

/** What an attacker who can write to the store does: the checksum is no secret. */
function resummed(bytes: Buffer): Buffer {
  bytes.writeBigUInt64LE(checksum64(bytes.subarray(8)), 0);
  return bytes;
}

describe.each([
  ['receiver', cipherOf([RECEIVER], 'receiver')],
  ['agent', cipherOf([AGENT], 'agent')],
] as const)('a chunk that the %s encrypted', (mode, cipher) => {
  const bytes = chunkOf(cipher, PLAIN);

  it('comes back as it was, and says with which key', () => {
    const header = decodeChunkHeader(bytes);
    expect(header.seal).toEqual({ keyId: (mode === 'agent' ? AGENT : RECEIVER).data[0]?.id, keyed: mode === 'agent' });
    expect(header.extents).toEqual(EXTENTS);
    expect(open(cipher, bytes)).toEqual(PLAIN);
  });

  it('holds neither plain bytes nor plain hashes', () => {
    for (let at = 0; at + 16 <= PLAIN.length; at += 16) expect(bytes.includes(PLAIN.subarray(at, at + 16))).toBe(false);
    for (const [i, block] of [3, 20_000].entries()) {
      const hash = Buffer.alloc(8);
      hash.writeBigUInt64LE(hashBlockAt(PLAIN, i * BLOCK, BLOCK, block));
      expect(bytes.includes(hash)).toBe(false);
    }
  });

  it('is refused when any bit of it is flipped, even when the checksum is made to fit', () => {
    const wrong: number[] = [];
    // Every byte of what isn't data, and some of that.
    for (let at = 8; at < bytes.length; at += at < 200 ? 1 : 53) {
      const bad = Buffer.from(bytes);
      bad[at] = (bad[at] ?? 0) ^ (1 << (at % 8));
      expect(() => open(cipher, bad), `byte ${at}, checksum not made to fit`).toThrow();
      try {
        open(cipher, resummed(bad));
        wrong.push(at);
      } catch {
        // refused
      }
    }
    expect(wrong).toEqual([]);
  });

  it('is refused as a chunk of another disk or machine', () => {
    expect(() => open(cipher, bytes, 'disk1')).toThrow(/damaged, moved/);
    const set = mode === 'agent' ? AGENT : RECEIVER;
    expect(() => open(cipherOf([set], mode, OTHER_MACHINE), bytes)).toThrow(/damaged, moved/);
  });

  it('is refused without its key, and names it', () => {
    const other = cipherOf([keySetOf(mode, 'another')], mode);
    const set = mode === 'agent' ? AGENT : RECEIVER;
    expect(other.canOpen(decodeChunkHeader(bytes).seal)).toBe(false);
    expect(() => open(other, bytes)).toThrow(keyIdText(set.data[0]?.id ?? 0));
  });

  it('has a nonce of its own each time', () => {
    const nonces = new Set<string>();
    const sealer = cipher.sealer(DISK);
    for (let i = 0; i < 100; i++) {
      const target = Buffer.alloc(3 * BLOCK);
      encodeChunk(target, BLOCK, EXTENTS, BigUint64Array.of(1n, 2n), PLAIN, sealer);
      nonces.add(target.toString('hex', 40, 64));
    }
    expect(nonces.size).toBe(100);
  });

  it('has the bytes of its version', async () => {
    const name = `chunk-v2-${mode}.bin`;
    const fresh = chunkOf(cipherOf([mode === 'agent' ? AGENT : RECEIVER], mode, MACHINE, 'golden'), PLAIN);
    if (process.env['AFTERIMAGE_WRITE_GOLDEN'] === '1') {
      await mkdir(FOLDER, { recursive: true });
      await writeFile(new URL(name, FOLDER), fresh);
    }
    const stored = await readFile(new URL(name, FOLDER));
    expect(fresh.equals(stored)).toBe(true);
    expect(open(cipher, stored)).toEqual(PLAIN);
  });
});

it('a chunk with zero runs alone is authenticated, too', () => {
  const cipher = cipherOf([RECEIVER], 'receiver');
  const extents = [{ first: 5, count: 9, zero: true }];
  const bytes = chunkOf(cipher, Buffer.alloc(0), DISK, extents);
  expect(open(cipher, bytes)).toEqual(Buffer.alloc(0));
  const moved = Buffer.from(bytes);
  moved.writeUInt32LE(6, 32 + SEAL_BYTES);
  expect(() => open(cipher, resummed(moved))).toThrow(/damaged, moved/);
});

it('a chunk that is encrypted afterwards is the one that is encrypted while it is made', () => {
  const plain = chunkOf(null, PLAIN);
  const sealed = sealChunk(plain, cipherOf([RECEIVER], 'receiver').sealer(DISK) ?? fail());
  expect(sealed.equals(chunkOf(cipherOf([RECEIVER], 'receiver'), PLAIN))).toBe(true);
  expect(plain.equals(chunkOf(null, PLAIN))).toBe(true);
});

it('a chunk of the receiver does not pass as one of the source, nor the other way round', () => {
  // The same key in both hands: only the flag tells them apart.
  const both = { ...RECEIVER, holder: 'agent' as const };
  const bytes = chunkOf(cipherOf([RECEIVER], 'receiver'), PLAIN);
  expect(() => open(cipherOf([both], 'agent'), bytes)).toThrow(/damaged, moved/);
});

it('after a rotation new chunks have the new key, and old ones can be read', () => {
  const before = chunkOf(cipherOf([RECEIVER], 'receiver'), PLAIN);
  const rotated = cipherOf([keySetOf('receiver', 'r', 2)], 'receiver');
  const after = chunkOf(rotated, PLAIN);
  expect(decodeChunkHeader(after).seal?.keyId).not.toBe(decodeChunkHeader(before).seal?.keyId);
  expect(open(rotated, before)).toEqual(PLAIN);
  expect(open(rotated, after)).toEqual(PLAIN);
});

describe('a sealed index', () => {
  const cipher = cipherOf([RECEIVER], 'receiver');
  const chunk = chunkOf(null, PLAIN);
  const builder = new LayerIndexBuilder();
  builder.append(chunk, decodeChunkHeader(chunk));
  const tail = builder.finish(cipher.sealer(DISK));
  const size = LAYER_HEADER_BYTES + chunk.length + tail.length;
  const footer = decodeFooter(tail.subarray(tail.length - LAYER_FOOTER_BYTES), size, 'layer');
  const index = tail.subarray(0, footer.indexBytes);

  it('comes back as it was', () => {
    expect(indexSealOf(index)).toEqual({ keyId: RECEIVER.data[0]?.id, keyed: false });
    const plain = builder.finish();
    const plainFooter = decodeFooter(
      plain.subarray(plain.length - LAYER_FOOTER_BYTES),
      LAYER_HEADER_BYTES + chunk.length + plain.length,
      'layer',
    );
    const plainIndex = plain.subarray(0, plainFooter.indexBytes);
    expect(indexSealOf(plainIndex)).toBe(null);
    expect(decodeIndex(index, footer, 'layer', cipher.opener(DISK))).toEqual(
      decodeIndex(plainIndex, plainFooter, 'layer'),
    );
  });

  it('shows no plain hash, and is refused when a bit of it is flipped', () => {
    const hash = Buffer.alloc(8);
    hash.writeBigUInt64LE(hashBlockAt(PLAIN, 0, BLOCK, 3));
    expect(index.includes(hash)).toBe(false);
    for (let at = 0; at < index.length; at++) {
      const bad = Buffer.from(index);
      bad[at] = (bad[at] ?? 0) ^ 1;
      const fits = { ...footer, indexChecksum: checksum64(bad) };
      expect(() => decodeIndex(bad, fits, 'layer', cipher.opener(DISK)), `byte ${at}`).toThrow();
    }
    expect(() => decodeIndex(index, footer, 'layer', cipher.opener('disk1'))).toThrow(/damaged, moved/);
  });
});

describe('digests in the manifest', () => {
  const cipher = cipherOf([RECEIVER], 'receiver');
  it('are hidden and shown again, per disk', () => {
    const hidden = cipher.hideDigest(DISK, '00000000000000ff');
    expect(hidden).toMatch(/^k[0-9a-f]{32}$/);
    expect(cipher.hideDigest(DISK, hidden)).toBe(hidden);
    expect(cipher.showDigest(DISK, hidden)).toBe('00000000000000ff');
    expect(cipher.hideDigest('disk1', '00000000000000ff')).not.toBe(hidden);
    expect(() => cipher.showDigest('disk1', hidden)).toThrow(/damaged, moved/);
    expect(() => cipherOf([], 'plain').showDigest(DISK, hidden)).toThrow(/not at hand/);
  });
  it('are left alone where the source encrypts or nobody does', () => {
    expect(cipherOf([AGENT], 'agent').hideDigest(DISK, '00000000000000ff')).toBe('00000000000000ff');
    expect(cipherOf([], 'plain').hideDigest(DISK, '00000000000000ff')).toBe('00000000000000ff');
  });
});

describe('keyed hashes', () => {
  it('differ by key, block and disk, keep zero, and say nothing of the plain hash', () => {
    const hash = cipherOf([AGENT], 'agent').hasherOf({ seal: { keyId: AGENT.data[0]?.id ?? 0, keyed: true } }, DISK);
    const other = keySetOf('agent', 'b');
    const otherHash = cipherOf([other], 'agent').hasherOf(
      { seal: { keyId: other.data[0]?.id ?? 0, keyed: true } },
      DISK,
    );
    const otherDisk = cipherOf([AGENT], 'agent').hasherOf(
      { seal: { keyId: AGENT.data[0]?.id ?? 0, keyed: true } },
      'disk1',
    );
    const values = [
      hash(PLAIN, 0, BLOCK, 3),
      hash(PLAIN, 0, BLOCK, 4),
      otherHash(PLAIN, 0, BLOCK, 3),
      otherDisk(PLAIN, 0, BLOCK, 3),
    ];
    expect(new Set([...values, hashBlockAt(PLAIN, 0, BLOCK, 3)]).size).toBe(5);
    expect(hash(PLAIN, 0, BLOCK, 3)).toBe(values[0]);
    expect(hash(Buffer.alloc(BLOCK), 0, BLOCK, 3)).toBe(0n);
  });
});

function fail(): never {
  throw new Error('no sealer');
}
