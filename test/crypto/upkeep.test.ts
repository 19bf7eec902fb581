/**
 * Merging what is encrypted: with the source's chunks as a whole and without its key, with the receiver's as with any.
 */
import { randomUUID } from 'node:crypto';
import { expect, it } from 'vitest';
import { raiseGeneration } from '../../receiver/catalog/generation.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { layerName } from '../../receiver/catalog/names.js';
import { indexesOf, readerOf, writeWinners } from '../../receiver/upkeep/merge-layers.js';
import { unpaced } from '../../receiver/upkeep/pace.js';
import { checkLayer } from '../../receiver/upkeep/scrub-layer.js';
import { winnersOf } from '../../receiver/upkeep/winners.js';
import { provePieces } from '../../receiver/volume/chunk-check.js';
import { allPieces } from '../../receiver/volume/verify.js';
import { systemClock } from '../../shared/clock.js';
import { decodeChunkHeader } from '../../shared/layer/chunk.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { BLOCK_BYTES, DISK, MACHINE } from '../session/ingest-fixture.js';
import { noise } from './fixture.js';
import { agentKeySet, KeyedAgent, keysFor, leaks, MemoryProvider, seenBy } from './world.js';

const block = (seed: string): Buffer => noise(BLOCK_BYTES, seed);
const owner = { machine: MACHINE, disk: DISK, blockBytes: BLOCK_BYTES };

it.each(['plain', 'receiver', 'agent'] as const)(
  'deltas of a machine (%s) are merged into what the last of them held',
  async (mode) => {
    const made = new MemoryStore();
    const provider = new MemoryProvider();
    const keys = mode === 'agent' ? agentKeySet() : null;
    const withKeys = { provider: mode === 'receiver' ? provider : null, files: keys === null ? [] : [keys] };
    keysFor(made, withKeys);
    const agent = new KeyedAgent(made, keys);
    await agent.hello(agent.helloMessage());
    await agent.firstCopy(new Map([[10, block('first 10')]]));
    const cycles: ReadonlyMap<number, Buffer | null>[] = [
      new Map([
        [10, block('a10')],
        [11, block('a11')],
        [12, block('a12')],
        [13, block('a13')],
      ]),
      new Map([
        [11, block('b11')],
        [13, null],
      ]),
      new Map([[14, block('c14')]]),
    ];
    for (const blocks of cycles) {
      agent.begin();
      agent.data(blocks);
      await agent.commit();
    }
    await agent.end();

    // The source's key isn't there where its machine is looked after.
    const store = seenBy(made, { provider: withKeys.provider });
    const owned = await raiseGeneration({ store, clock: systemClock, randomId: randomUUID }, MACHINE, 1);
    const reader = readerOf({ store, owned }, DISK, BLOCK_BYTES);
    const { deltas } = await (await MachineReader.open(store, MACHINE)).layersFor(DISK, 4);
    const layers = [...deltas].sort((a, b) => a.lastPoint - b.lastPoint);
    const winners = winnersOf(await indexesOf(reader, layers));
    const pace = unpaced(systemClock);
    const written = await writeWinners({ store, owned, pace, signal: new AbortController().signal }, reader, winners, {
      ...{ disk: DISK, blockBytes: BLOCK_BYTES, kind: 'delta' as const, segment: null },
      ...{ firstPoint: 2, lastPoint: 4 },
    });

    const found = new Map<number, Buffer | null>();
    const viewer = seenBy(store, withKeys);
    const reading = readerOf({ store: viewer, owned }, DISK, BLOCK_BYTES);
    for (const layer of written.layers) {
      expect((await checkLayer({ store, owner, layer })).problems).toEqual([]);
      expect((await checkLayer({ store: viewer, owner, layer, plain: true })).problems).toEqual([]);
      const index = await reading.index(layer);
      for (let i = 0; i < index.first.length; i++) if (index.zero[i] === 1) found.set(index.first[i] ?? 0, null);
      const pieces = allPieces(index);
      const plain = Buffer.alloc(256 * 1024);
      for await (const chunk of reading.chunks(layer, index, [...pieces.keys()])) {
        provePieces('merged', index, chunk, pieces.get(chunk.number) ?? [], plain);
        for (const { first, count, position } of pieces.get(chunk.number) ?? [])
          for (let b = 0; b < count; b++)
            found.set(
              first + b,
              Buffer.from(plain.subarray((position + b) * BLOCK_BYTES, (position + b + 1) * BLOCK_BYTES)),
            );
      }
      const bytes = store.objects.get(layerName(MACHINE, DISK, layer)) ?? Buffer.alloc(0);
      if (mode !== 'plain') expect(leaks([['merged', bytes]], agent.model)).toEqual([]);
      if (mode === 'agent') {
        const first = index.chunks[0];
        const chunk = bytes.subarray(first?.offset ?? 0, (first?.offset ?? 0) + (first?.lengthBytes ?? 0));
        expect(decodeChunkHeader(chunk).seal?.keyed).toBe(true);
      }
    }
    expect([...found.keys()].sort((a, b) => a - b)).toEqual([10, 11, 12, 13, 14]);
    for (const [n, want] of [
      [10, 'a10'],
      [11, 'b11'],
      [12, 'a12'],
      [13, null],
      [14, 'c14'],
    ] as const)
      expect(found.get(n), `block ${n}`).toEqual(want === null ? null : block(want));
  },
);

it('a layer that the receiver encrypted is found whole, and found damaged, without its keys', async () => {
  const made = new MemoryStore();
  keysFor(made, { provider: new MemoryProvider() });
  const agent = new KeyedAgent(made, null);
  await agent.hello(agent.helloMessage());
  await agent.firstCopy(
    new Map([
      [10, block('x')],
      [11, block('y')],
    ]),
  );
  await agent.end();
  const store = seenBy(made);
  const view = await MachineReader.open(store, MACHINE);
  const [layer] = (await view.layersFor(DISK, 1)).bases;
  if (layer === undefined) throw new Error('no base');
  expect((await checkLayer({ store, owner, layer })).problems).toEqual([]);
  expect((await checkLayer({ store, owner, layer, plain: true })).problems).toEqual([]);
  const bytes = store.objects.get(layerName(MACHINE, DISK, layer)) ?? Buffer.alloc(0);
  for (let at = 0; at < bytes.length; at += 97) {
    bytes[at] = (bytes[at] ?? 0) ^ 4;
    expect((await checkLayer({ store, owner, layer })).problems, `byte ${at}`).not.toEqual([]);
    bytes[at] = (bytes[at] ?? 0) ^ 4;
  }
});
