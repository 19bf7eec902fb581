/**
 * Golden files: bytes of version 1 of each format, checked in. Today's code must read them, and write the same bytes for the same content
 * (with data that doesn't compress, stored as it is: LZ4's output may differ between implementations, what it means may not).
 * To make them anew after a deliberate change of a version: AFTERIMAGE_WRITE_GOLDEN=1.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { MANIFEST_VERSION, manifestSchema, type Manifest } from '../../receiver/catalog/manifest.js';
import { openSealedJson, sealJson } from '../../receiver/catalog/sealed-json.js';
import { checksum64, digestToText, hashBlock, hashBlockAt, loadBundledXxh64 } from '../../shared/blocks/hash.js';
import {
  chunkBytesMax,
  chunkHash,
  decodeChunkData,
  decodeChunkHeader,
  encodeChunk,
  type ChunkExtent,
} from '../../shared/layer/chunk.js';
import { bundledLz4, CODEC_LZ4, CODEC_NONE, lz4 } from '../../shared/layer/codec.js';
import {
  decodeFooter,
  decodeIndex,
  decodeLayerHeader,
  LAYER_FOOTER_BYTES,
  type LayerIdentity,
} from '../../shared/layer/layer.js';
import { asDiskId, asMachineId, asSeriesId } from '../../shared/units.js';
import { buildLayer } from '../helpers/layers.js';

const FOLDER = new URL('../golden/', import.meta.url);
const BLOCK = 4096;

/** Bytes that don't compress and never change. */
function noise(blocks: number, seed: string): Buffer {
  const parts: Buffer[] = [];
  for (let i = 0; i < (blocks * BLOCK) / 32; i++) parts.push(createHash('sha256').update(`${seed} ${i}`).digest());
  return Buffer.concat(parts);
}

async function golden(name: string, bytes: Buffer): Promise<Buffer> {
  const file = new URL(name, FOLDER);
  if (process.env['AFTERIMAGE_WRITE_GOLDEN'] === '1') {
    await mkdir(FOLDER, { recursive: true });
    await writeFile(file, bytes);
  }
  return readFile(file);
}

function chunkOf(extents: readonly ChunkExtent[], plain: Buffer): Buffer {
  const numbers = extents.filter((e) => !e.zero).flatMap((e) => Array.from({ length: e.count }, (_, i) => e.first + i));
  const hashes = BigUint64Array.from(numbers.map((n, i) => hashBlockAt(plain, i * BLOCK, BLOCK, n)));
  const target = Buffer.alloc(chunkBytesMax(extents.length, hashes.length, plain.length));
  return target.subarray(0, encodeChunk(target, BLOCK, extents, hashes, plain));
}

const EXTENTS: readonly ChunkExtent[] = [
  { first: 3, count: 1, zero: false },
  { first: 4, count: 1000, zero: true },
  { first: 20_000, count: 1, zero: false },
];

const IDENTITY: LayerIdentity = {
  kind: 'delta',
  blockBytes: BLOCK,
  segment: null,
  firstPoint: 7,
  lastPoint: 9,
  epoch: 2,
  sequence: 5,
  machineId: '11111111-2222-4333-8444-555555555555',
  diskId: 'disk0',
  seriesId: 'aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee',
};

const MANIFEST: Manifest = {
  version: 1,
  number: 12,
  writeId: 'w',
  writtenAtMs: 1_700_000_000_000,
  epoch: 2,
  epochStart: 11,
  generation: 1,
  machine: {
    id: asMachineId(IDENTITY.machineId),
    name: 'web1',
    description: {
      hostname: 'web1',
      os: 'Debian 12',
      cpus: 2,
      memoryBytes: 4_294_967_296,
      firmware: 'uefi',
      nics: [{ name: 'eth0', mac: '52:54:00:00:00:01', addresses: ['192.0.2.1/24'] }],
    },
  },
  owner: null,
  lastPoint: 9,
  disks: [
    {
      id: asDiskId('disk0'),
      device: '/dev/vda',
      sizeBytes: 1_073_741_824,
      blockBytes: BLOCK,
      series: asSeriesId(IDENTITY.seriesId),
      bases: { name: 'machines/x/list', count: 1, checksum: '0123456789abcdef' },
      staged: null,
      lastPoint: 9,
    },
  ],
  pages: [{ name: 'machines/x/history', firstPoint: 1, lastPoint: 6, checksum: 'fedcba9876543210' }],
  tail: {
    points: [
      {
        number: 9,
        cutAtMs: 1_700_000_000_000,
        committedAtMs: 1_700_000_000_100,
        generation: 1,
        cycle: 'c9',
        consistency: 'crash',
        reason: 'interval',
        disks: [{ disk: asDiskId('disk0'), sizeBytes: 1_073_741_824, blockBytes: BLOCK, digest: '00000000000000ff' }],
        stats: { passes: 1, cutMs: 1.5, freezeMs: 0, changedBytes: 8192, storedBytes: 9000 },
      },
    ],
    deltas: [
      {
        disk: asDiskId('disk0'),
        layer: {
          kind: 'delta',
          firstPoint: 7,
          lastPoint: 9,
          segment: null,
          epoch: 2,
          sequence: 5,
          sizeBytes: 9000,
          indexChecksum: '0123456789abcdef',
        },
      },
    ],
  },
};

/** A point with all that was added later and may be absent. */
const WITH_MORE: Manifest = {
  ...MANIFEST,
  tail: {
    ...MANIFEST.tail,
    points: MANIFEST.tail.points.map((point) => ({
      ...point,
      consistency: 'application',
      label: 'before the move – für alle',
      quiesce: {
        asked: 'application',
        weaker: '',
        totalMs: 1011,
        heldMs: 227,
        filesystems: ['/srv/data', '/'],
        applications: [{ name: 'main', detail: 'PostgreSQL 15.18: checkpoint at 0/17D14B0' }],
        hooks: [{ name: '10-app', phase: 'pre', failure: null, tookMs: 12, output: ['flushed'] }],
        omitted: '3 hooks, applications or filesystems; the log has all',
      },
      stats: { ...point.stats, freezeMs: 12.5 },
    })),
  },
};

describe('golden files', () => {
  it('hashes: XXH64 as specified', () => {
    // Of the empty string and of "abc", from the specification's implementations.
    expect(digestToText(checksum64(Buffer.alloc(0)))).toBe('ef46db3751d8e999');
    expect(digestToText(checksum64(Buffer.from('abc')))).toBe('44bc2cf5ad770999');
    expect(digestToText(hashBlock(noise(1, 'hash'), 77))).toBe('b0bb34d03be6ae08');
  });

  it('hashes: the same by the library and by the bundled one', async () => {
    const bundled = await loadBundledXxh64();
    const bytes = Buffer.from(Array.from({ length: 5_000 }, (_, i) => (i * 31) % 251));
    for (const length of [0, 1, 7, 31, 32, 33, 4096]) {
      for (const seed of [0n, 1n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]) {
        const part = bytes.subarray(3, 3 + length);
        expect(checksum64(part, seed), `${length} bytes, seed ${seed}`).toBe(bundled(part, seed));
      }
    }
  });

  it('chunk v1, stored as it is', async () => {
    const plain = noise(2, 'chunk');
    const written = chunkOf(EXTENTS, plain);
    const bytes = await golden('chunk-v1-none.bin', written);
    expect(written.equals(bytes)).toBe(true);
    const header = decodeChunkHeader(bytes);
    expect(header).toMatchObject({ codec: CODEC_NONE, blockBytes: BLOCK, dataBlocks: 2, extents: EXTENTS });
    const out = Buffer.alloc(header.plainBytes);
    decodeChunkData(bytes, header, out);
    expect(out.equals(plain)).toBe(true);
    expect(chunkHash(bytes, header, 1)).toBe(hashBlock(plain.subarray(BLOCK), 20_000));
  });

  it('chunk v1, LZ4, read by both implementations', async () => {
    const plain = Buffer.concat([Buffer.alloc(BLOCK, 'after image '), noise(1, 'lz4')]);
    const bytes = await golden('chunk-v1-lz4.bin', chunkOf(EXTENTS, plain));
    const header = decodeChunkHeader(bytes);
    expect(header.codec).toBe(CODEC_LZ4);
    for (const implementation of [lz4, bundledLz4]) {
      const out = Buffer.alloc(header.plainBytes);
      implementation.decompress(bytes.subarray(header.storedOffset), out);
      expect(out.equals(plain)).toBe(true);
    }
  });

  it('layer v1', async () => {
    const chunks = [
      chunkOf(EXTENTS, noise(2, 'first')),
      chunkOf([{ first: 3, count: 2, zero: false }], noise(2, 'second')),
    ];
    const written = buildLayer(IDENTITY, chunks);
    const bytes = await golden('layer-v1.bin', written.bytes);
    expect(written.bytes.equals(bytes)).toBe(true);
    expect(decodeLayerHeader(bytes, 'golden')).toMatchObject({ kind: 'delta', firstPoint: 7, lastPoint: 9, epoch: 2 });
    const footer = decodeFooter(bytes.subarray(bytes.length - LAYER_FOOTER_BYTES), bytes.length, 'golden');
    const index = decodeIndex(
      bytes.subarray(footer.indexOffset, footer.indexOffset + footer.indexBytes),
      footer,
      'golden',
    );
    expect([...index.first].map((first, i) => [first, index.count[i], index.zero[i], index.chunk[i]])).toEqual([
      [3, 2, 0, 1],
      [5, 999, 1, 0],
      [20_000, 1, 0, 0],
    ]);
  });

  it.each([
    ['manifest-v1.json', MANIFEST],
    ['manifest-v1-application.json', WITH_MORE],
  ])('%s', async (name, manifest) => {
    const bytes = await golden(name, sealJson(manifest));
    expect(openSealedJson(bytes, manifestSchema, MANIFEST_VERSION, 'golden')).toEqual(manifest);
    expect(sealJson(manifest).equals(bytes)).toBe(true);
  });
});
