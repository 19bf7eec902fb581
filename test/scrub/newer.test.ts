/**
 * A layer or chunk that is whole and of a newer version isn't damage: the scrub stops at it and says what is needed, marks nothing, and nobody mends it. A
 * version that came about by a flipped bit still is damage.
 */
import { expect, it } from 'vitest';
import { loadDamage } from '../../receiver/catalog/damage-io.js';
import type { LayerRef } from '../../receiver/catalog/manifest.js';
import { checksum64 } from '../../shared/blocks/hash.js';
import { decodeIndex, decodeFooter, LAYER_FOOTER_BYTES, LAYER_HEADER_BYTES } from '../../shared/layer/layer.js';
import { MACHINE } from '../session/ingest-fixture.js';
import { scrub } from './finished-store.js';
import { Source } from './source.js';

const HEADER_VERSION_AT = 4;
const CHUNK_VERSION_AT = LAYER_HEADER_BYTES + 12;

async function made(): Promise<{ source: Source; layer: LayerRef | undefined; bytes: Buffer }> {
  const source = await Source.open();
  const { layers } = await source.point(new Map([[2, Source.block('two ')]]));
  const [layer] = layers;
  return { source, layer, bytes: source.store.objects.get(source.nameOf(layer)) ?? Buffer.alloc(0) };
}

/** As a newer program would write it: its checksums are right. */
function asNewer(bytes: Buffer, what: 'layer' | 'chunk'): void {
  if (what === 'layer') {
    bytes.writeUInt16LE(2, HEADER_VERSION_AT);
    bytes.writeBigUInt64LE(checksum64(bytes.subarray(0, LAYER_HEADER_BYTES - 8)), LAYER_HEADER_BYTES - 8);
    return;
  }
  const footer = decodeFooter(bytes.subarray(-LAYER_FOOTER_BYTES), bytes.length, 'x');
  const index = decodeIndex(bytes.subarray(footer.indexOffset, bytes.length - LAYER_FOOTER_BYTES), footer, 'x');
  const { offset, lengthBytes } = index.chunks[0] ?? { offset: 0, lengthBytes: 0 };
  const chunk = bytes.subarray(offset, offset + lengthBytes);
  chunk.writeUInt8(3, 12);
  chunk.writeBigUInt64LE(checksum64(chunk.subarray(8)), 0);
}

it.each(['layer', 'chunk'] as const)('a %s of a newer version is left alone', async (what) => {
  const { source, bytes } = await made();
  asNewer(bytes, what);
  const before = new Map([...source.store.objects].map(([name, b]) => [name, Buffer.from(b)]));
  await expect(scrub(source.store, MACHINE)).rejects.toMatchObject({ code: 'version-newer', kind: 'unsupported' });
  await source.repair();
  expect((await loadDamage(source.store, MACHINE))?.items ?? []).toEqual([]);
  expect(source.asked).toEqual([]);
  for (const [name, b] of before) expect(source.store.objects.get(name)?.equals(b), name).toBe(true);
});

it.each([
  ['layer', HEADER_VERSION_AT],
  ['chunk', CHUNK_VERSION_AT],
])('a flipped bit in the version of a %s is damage', async (_what, at) => {
  const { source, layer } = await made();
  source.flip(layer, at);
  const { findings } = await scrub(source.store, MACHINE);
  expect(findings).toHaveLength(1);
});
