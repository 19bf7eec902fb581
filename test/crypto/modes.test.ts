/**
 * Through the real session, the real restore, the real way home and the replication of a running copy, in the clear, encrypted by the receiver and
 * encrypted by the source: what went in comes out, and an onlooker finds nothing.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { raiseGeneration } from '../../receiver/catalog/generation.js';
import { OwnedMachine } from '../../receiver/catalog/owned-machine.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { PointSource } from '../../receiver/session/differences.js';
import { wantedChunks } from '../../receiver/session/point-chunks.js';
import { checkHashes } from '../../receiver/volume/chunk-check.js';
import { workOf } from '../../receiver/volume/unit-work.js';
import { openPointContent } from '../../receiver/volume/point-content.js';
import { IndexCache } from '../../receiver/volume/index-cache.js';
import { VolumeReplicator } from '../../receiver/volume/replicate.js';
import { newBitmap, setBit } from '../../shared/blocks/bitmap.js';
import { systemClock } from '../../shared/clock.js';
import { hashBlockAt } from '../../shared/blocks/hash.js';
import { keyCheckOf, type KeySet } from '../../shared/crypto/keys.js';
import { MachineCipher } from '../../shared/crypto/machine-cipher.js';
import { decodeChunkData, decodeChunkHeader, encodeChunk, openChunk } from '../../shared/layer/chunk.js';
import { silentLogger } from '../../shared/log.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { MemoryCutSource } from '../helpers/memory-cut-source.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { randomOf } from '../helpers/random.js';
import { planOf, restoreTo } from '../helpers/restore.js';
import { differences } from '../helpers/restored.js';
import { blockBytes, BLOCK_BYTES, DISK, GEOMETRY, MACHINE, soundPoints } from '../session/ingest-fixture.js';
import { noise, OTHER_MACHINE } from './fixture.js';
import { agentCipher, agentKeySet, KeyedAgent, keysFor, leaks, MemoryProvider, seenBy } from './world.js';

removeTempFolders();

const MODES = ['plain', 'receiver', 'agent'] as const;
type Mode = (typeof MODES)[number];

interface World {
  readonly store: MemoryStore;
  readonly provider: MemoryProvider;
  readonly keys: KeySet | null;
  /** What the disk holds at each point. */
  readonly models: Map<number, Map<number, Buffer>>;
}

const deps = (store: MemoryStore) => ({ store, clock: systemClock, randomId: randomUUID });

/** A first copy of blocks in two segments, and a cycle that rewrites and discards some of them. */
async function world(mode: Mode): Promise<World> {
  const store = new MemoryStore();
  const provider = new MemoryProvider();
  const keys = mode === 'agent' ? agentKeySet() : null;
  keysFor(store, { provider: mode === 'plain' ? null : provider, files: keys === null ? [] : [keys] });
  const random = randomOf(7);
  const agent = new KeyedAgent(store, keys);
  await agent.hello(agent.helloMessage());
  const models = new Map<number, Map<number, Buffer>>();
  const first = new Map<number, Buffer>();
  for (const n of [0, 1, 2, 3, 700, 20_000, 33_279]) first.set(n, blockBytes(random));
  models.set(await agent.firstCopy(first), new Map(agent.model));
  agent.begin();
  agent.data(
    new Map([
      [1, blockBytes(random)],
      [2, null],
      [701, blockBytes(random)],
    ]),
  );
  models.set(await agent.commit(), new Map(agent.model));
  await agent.end();
  return { store, provider, keys, models };
}

async function wrongBlocks(store: MemoryStore, point: number, model: ReadonlyMap<number, Buffer>): Promise<number[]> {
  const path = join(await tempFolder('crypto'), 'image');
  await restoreTo(await planOf(store, MACHINE, DISK, point), { path, readBack: true });
  return differences(path, GEOMETRY, model);
}

const viewerOf = ({ store, provider, keys }: World, mode: Mode): MemoryStore =>
  seenBy(store, { provider: mode === 'receiver' ? provider : null, files: keys === null ? [] : [keys] });

describe.each(MODES)('%s', (mode) => {
  it('what went in comes out of a restore, read back, by a program that has only store and key', async () => {
    const made = await world(mode);
    const store = viewerOf(made, mode);
    for (const [point, model] of made.models) expect(await wrongBlocks(store, point, model)).toEqual([]);
    expect(await soundPoints(store)).toEqual([1, 2]);
  });

  it('an onlooker finds neither bytes nor hashes nor digests in the store', async () => {
    const { store, models } = await world(mode);
    for (const model of models.values()) {
      const found = leaks(store.objects, model);
      if (mode === 'plain') expect(found).not.toEqual([]);
      else expect(found).toEqual([]);
    }
  });

  it('points can be listed without a key, and no more', async () => {
    const { store, models } = await world(mode);
    const blind = seenBy(store);
    const numbers = [];
    for await (const point of (await MachineReader.open(blind, MACHINE)).points()) numbers.push(point.number);
    expect(numbers).toEqual([1, 2]);
    const restoring = wrongBlocks(blind, 2, models.get(2) ?? new Map());
    if (mode === 'plain') expect(await restoring).toEqual([]);
    else await expect(restoring).rejects.toMatchObject({ code: 'key-missing' });
  });

  it('the way home gives the agent what it asks for, as it may see it', async () => {
    const made = await world(mode);
    const store = viewerOf(made, mode);
    const model = made.models.get(2) ?? new Map<number, Buffer>();
    const view = await MachineReader.open(store, MACHINE);
    const point = await view.findPoint({ by: 'number', number: 2 });
    const source = await PointSource.open(store, view, point, DISK, new IndexCache());
    const wanted = newBitmap(16_384);
    for (const n of [0, 1, 3, 700]) setBit(wanted, n);
    const got = new Map<number, Buffer>();
    for await (const chunk of wantedChunks(source, 0, wanted)) {
      const sealed = decodeChunkHeader(chunk);
      expect(sealed.seal?.keyed ?? false).toBe(mode === 'agent');
      if (mode === 'agent') expect(leaks([['wire', chunk]], model)).toEqual([]);
      const bytes = made.keys === null ? chunk : openChunk(chunk, sealed, agentCipher(made.keys).opener(DISK));
      const header = decodeChunkHeader(bytes);
      const plain = Buffer.alloc(header.plainBytes);
      decodeChunkData(bytes, header, plain);
      let at = 0;
      for (const { first, count } of header.extents)
        for (let i = 0; i < count; i++, at += BLOCK_BYTES) got.set(first + i, plain.subarray(at, at + BLOCK_BYTES));
    }
    for (const n of [0, 1, 3, 700])
      expect(got.get(n)?.equals(model.get(n) ?? Buffer.alloc(0)), `block ${n}`).toBe(true);
  });

  it('a running copy goes on with the chain, and its points restore as well', async () => {
    const made = await world(mode);
    const store = viewerOf(made, mode);
    const owned = await raiseGeneration(deps(store), MACHINE, 1);
    const view = await MachineReader.open(store, MACHINE);
    const content = (number: number) =>
      view
        .findPoint({ by: 'number', number })
        .then((p) => openPointContent(store, view, p, view.diskOf(p, DISK), new IndexCache()));
    const model = new Map(made.models.get(2));
    const bytes = Buffer.alloc(GEOMETRY.sizeBytes);
    for (const [n, block] of model) block.copy(bytes, n * BLOCK_BYTES);
    const source = new MemoryCutSource(DISK, GEOMETRY, bytes);
    const replicator = new VolumeReplicator(
      { ...deps(store), log: silentLogger() },
      {
        owned,
        volumes: [{ source, reference: await content(2), reopenReference: content, device: 'memory' }],
        intervalMs: 5,
        reason: 'test',
      },
    );
    const fresh = blockBytes(randomOf(99));
    source.set(5, fresh);
    source.set(0, Buffer.alloc(BLOCK_BYTES));
    model.set(5, fresh);
    model.delete(0);
    const point = await replicator.pointNow();
    expect(
      await wrongBlocks(
        seenBy(store, {
          provider: mode === 'receiver' ? made.provider : null,
          files: made.keys === null ? [] : [made.keys],
        }),
        point.number,
        model,
      ),
    ).toEqual([]);
    if (mode !== 'plain') expect(leaks(store.objects, model)).toEqual([]);
  });
});

describe('what an agent says and does', () => {
  it.each([
    ['a chunk in the clear from one that said it encrypts', true],
    ['an encrypted chunk from one that did not', false],
  ])('%s ends the session', async (_, says) => {
    const store = new MemoryStore();
    const keys = agentKeySet();
    keysFor(store);
    const said = new KeyedAgent(store, says ? keys : null);
    const sends = new KeyedAgent(new MemoryStore(), says ? null : keys);
    await said.hello(said.helloMessage());
    let message: Buffer = Buffer.alloc(0);
    sends.transport.deliver = (bytes) => (message = bytes);
    sends.data(new Map([[0, blockBytes(randomOf(1))]]), 'sweep-base', 0);
    said.transport.deliver(message);
    await said.done;
    expect(said.transport.end?.code).toBe(4400);
  });

  it('its keys are noted by id and check, and nothing else of them', async () => {
    const { store, keys } = await world('agent');
    const object = [...store.objects].find(([name]) => name.includes('/keys/'))?.[1].toString() ?? '';
    expect(object).toContain(String(keys?.data[0]?.id));
    for (const key of [keys?.hash, keys?.data[0]?.key])
      expect(object).not.toContain(key?.toString('base64').slice(0, 20));
  });

  it.each([
    ['begins to encrypt', 'plain', 'agent', 'the source encrypts from now on'],
    ['ceases to encrypt', 'agent', 'plain', 'does not encrypt any more'],
    ['has another key', 'agent', 'agent', 'with another hash key'],
  ] as const)(
    'a source that %s is compared from end to end, and each point restores with the keys of its time',
    async (_, from, to, reason) => {
      const made = await world(from);
      const later = to === 'agent' ? agentKeySet() : null;
      const files = [made.keys, later].filter((k) => k !== null);
      keysFor(made.store, { files });
      const agent = new KeyedAgent(made.store, later, new Map(made.models.get(2)));
      const welcome = await agent.hello(
        agent.helloMessage({ committedPoint: 2, committedSeries: null, hashStore: 'valid' }),
      );
      expect(welcome.disks[0]).toMatchObject({ verdict: 'compare' });
      expect(welcome.disks[0]?.reason).toContain(reason);
      // As a comparison finds it: every block that isn't zero has another hash.
      const all = [...agent.model].sort((a, b) => a[0] - b[0]);
      for (const [segment, end] of [
        [0, 16_384],
        [1, 32_768],
        [2, 33_280],
      ] as const) {
        const inside = new Map(all.filter(([n]) => n >= segment * 16_384 && n < end));
        if (inside.size > 0) agent.data(inside, 'sweep-delta', segment);
        agent.endSegment(segment, 'sweep-delta');
      }
      agent.begin();
      const point = await agent.commit();
      await agent.end();
      const viewer = seenBy(made.store, { files });
      expect(await wrongBlocks(viewer, 2, made.models.get(2) ?? new Map())).toEqual([]);
      expect(await wrongBlocks(viewer, point, agent.model)).toEqual([]);
    },
  );
});

describe('the receiver’s keys', () => {
  it('without them an agent is refused, and nothing is written in the clear', async () => {
    const { store } = await world('receiver');
    keysFor(store);
    const before = new Map(store.objects);
    const agent = new KeyedAgent(store, null);
    agent.say(agent.helloMessage({ committedPoint: 2 }));
    expect(await agent.transport.next('refused')).toMatchObject({ code: 4430 });
    await agent.done;
    expect([...store.objects.keys()]).toEqual([...before.keys()]);
  });

  it('stay in use when encryption is switched off for new machines', async () => {
    const { store, provider } = await world('receiver');
    keysFor(store, { provider, atRest: false });
    const agent = new KeyedAgent(store, null);
    await agent.hello(agent.helloMessage({ committedPoint: 2 }));
    const fresh = blockBytes(randomOf(5));
    agent.begin();
    agent.data(new Map([[9, fresh]]));
    await agent.commit({ disks: [{ disk: DISK, series: null, digest: '0'.repeat(16) }] });
    await agent.end();
    expect(leaks(store.objects, new Map([[9, fresh]]))).toEqual([]);
  });

  it('a machine that was in the clear is encrypted from the next session on, and nothing is sent again', async () => {
    const { store, models } = await world('plain');
    const provider = new MemoryProvider();
    keysFor(store, { provider });
    const agent = new KeyedAgent(store, null, new Map(models.get(2)));
    const welcome = await agent.hello(agent.helloMessage({ committedPoint: 2, hashStore: 'valid', changedBlocks: 1 }));
    expect(welcome.disks[0]?.verdict).toBe('delta');
    const fresh = blockBytes(randomOf(5));
    agent.begin();
    agent.data(new Map([[9, fresh]]));
    const point = await agent.commit();
    await agent.end();
    expect(await wrongBlocks(seenBy(store, { provider }), point, agent.model)).toEqual([]);
    expect(leaks(store.objects, new Map([[9, fresh]]))).toEqual([]);
  });

  it('a rotation adds a key for what is written next; the layers of before stay as they are and readable', async () => {
    const { store, provider, models } = await world('receiver');
    const layers = [...store.objects].filter(([name]) => /\/(base|delta)\//.test(name));
    const keys = keysFor(store, { provider });
    const before = await keys.objectOf(MACHINE);
    await keys.rotate(MACHINE);
    const after = await keys.objectOf(MACHINE);
    expect(after?.number).toBe(2);
    expect(after?.receiver?.data.map((d) => d.id).slice(0, 1)).toEqual(before?.receiver?.data.map((d) => d.id));
    expect(after?.receiver?.digests).toEqual(before?.receiver?.digests);
    const agent = new KeyedAgent(store, null, new Map(models.get(2)));
    await agent.hello(agent.helloMessage({ committedPoint: 2, hashStore: 'valid', changedBlocks: 1 }));
    agent.begin();
    agent.data(new Map([[9, blockBytes(randomOf(5))]]));
    const point = await agent.commit();
    await agent.end();
    const viewer = seenBy(store, { provider });
    expect(await wrongBlocks(viewer, point, agent.model)).toEqual([]);
    expect(await wrongBlocks(viewer, 1, models.get(1) ?? new Map())).toEqual([]);
    for (const [name, bytes] of layers) expect(store.objects.get(name)).toEqual(bytes);
    const newest = [...store.objects].filter(([name]) => name.includes('/delta/')).at(-1)?.[1] ?? Buffer.alloc(0);
    expect(newest.readUInt32LE(64 + 32)).toBe(after?.receiver?.data[1]?.id);
  });

  it('are wrapped anew without touching data, and a recovery file opens everything without the provider', async () => {
    const { store, provider, models } = await world('receiver');
    const keys = keysFor(store, { provider });
    const others = [...store.objects].filter(([name]) => !name.includes('/keys/'));
    expect(await keys.rewrap(MACHINE)).toBe(false);
    provider.kek = 'second';
    expect(await keys.rewrap(MACHINE)).toBe(true);
    expect((await keys.objectOf(MACHINE))?.receiver?.data.map((d) => d.kek)).toEqual(['second']);
    expect([...store.objects].filter(([name]) => !name.includes('/keys/'))).toEqual(others);
    const recovery = await keys.exportKeys(MACHINE);
    expect(await wrongBlocks(seenBy(store, { files: [recovery] }), 2, models.get(2) ?? new Map())).toEqual([]);
    const wrong = { ...recovery, hash: Buffer.alloc(32), data: agentKeySet().data };
    await expect(wrongBlocks(seenBy(store, { files: [wrong] }), 2, new Map())).rejects.toMatchObject({
      code: 'key-missing',
    });
  });

  it.each([true, false])(
    'whose object is lost are not made anew (atRest %s); a recovery file opens the points',
    async (atRest) => {
      const { store, provider, models } = await world('receiver');
      const recovery = await keysFor(store, { provider }).exportKeys(MACHINE);
      for (const name of [...store.objects.keys()]) if (name.includes('/keys/')) store.objects.delete(name);
      keysFor(store, { provider, atRest });
      const before = [...store.objects.keys()];
      const agent = new KeyedAgent(store, null, new Map(models.get(2)));
      agent.say(agent.helloMessage({ committedPoint: 2 }));
      const refused = await agent.transport.next('refused');
      expect(refused).toMatchObject({ code: 4430 });
      expect(refused.reason).toContain('keys are not in the store any more');
      await agent.done;
      expect([...store.objects.keys()]).toEqual(before);
      expect(await wrongBlocks(seenBy(store, { files: [recovery] }), 2, models.get(2) ?? new Map())).toEqual([]);
    },
  );
});

it('a store that nobody gave keys to is as it always was', async () => {
  const store = new MemoryStore();
  const owned = await OwnedMachine.takeOver(deps(store), MACHINE, () =>
    Promise.resolve({
      generation: 1,
      machine: { id: MACHINE, name: 'web1', description: null },
      lastPoint: 0,
      disks: [],
      pages: [],
      tail: { points: [], deltas: [] },
    }),
  );
  expect(owned.epoch).toBe(1);
  expect([...store.objects.keys()].some((name) => name.includes('/keys/'))).toBe(false);
});

describe.each(['receiver', 'agent'] as const)('whoever can write to a store that the %s encrypted', (mode) => {
  /** Offset and length of the only chunk of a layer. */
  const only = (bytes: Buffer): readonly [number, number] => {
    const indexAt = Number(bytes.readBigUInt64LE(bytes.length - 32));
    return [Number(bytes.readBigUInt64LE(indexAt + 16)), bytes.readUInt32LE(indexAt + 16 + 8)];
  };

  /** Two cycles that write the same block, of the same length. */
  async function twice(): Promise<World> {
    const made = await world(mode);
    const agent = new KeyedAgent(made.store, made.keys, new Map(made.models.get(2)));
    await agent.hello(agent.helloMessage({ committedPoint: 2, hashStore: 'valid', changedBlocks: 1 }));
    for (const seed of ['old', 'new']) {
      agent.begin();
      agent.data(new Map([[800, noise(BLOCK_BYTES, seed)]]));
      made.models.set(await agent.commit(), new Map(agent.model));
    }
    await agent.end();
    return made;
  }

  it('can not put an older chunk in the place of a newer one, nor have it moved on as if it were', async () => {
    const made = await twice();
    const [before = '', after = ''] = [...made.store.objects.keys()]
      .filter((name) => name.includes('/delta/'))
      .sort()
      .slice(-2);
    const older = made.store.objects.get(before) ?? Buffer.alloc(0);
    const newer = made.store.objects.get(after) ?? Buffer.alloc(0);
    const [from, length] = only(older);
    const [to, sameLength] = only(newer);
    expect(length).toBe(sameLength);
    older.copy(newer, to, from, from + length);
    const store = viewerOf(made, mode);
    await expect(wrongBlocks(store, 4, new Map())).rejects.toMatchObject({ code: 'block-hash' });
    expect(await wrongBlocks(store, 3, made.models.get(3) ?? new Map())).toEqual([]);
    const { reader, plan } = await planOf(store, MACHINE, DISK, 4);
    const unit = plan.units.find((u) => u.kind === 'delta' && u.layer.lastPoint === 4);
    if (unit?.kind !== 'delta') throw new Error('the plan has no such layer');
    const index = await reader.index(unit.layer);
    const pieces = workOf(plan, unit, index).pieces;
    for await (const chunk of reader.movableChunks(unit.layer, index, [0]))
      expect(() => checkHashes('layer', index, chunk, pieces)).toThrow(/do not match/);
  });

  it('can not put a chunk of another disk or machine there, even with a checksum that fits', async () => {
    const made = await twice();
    const name =
      [...made.store.objects.keys()]
        .filter((n) => n.includes('/delta/'))
        .sort()
        .at(-1) ?? '';
    const layer = made.store.objects.get(name) ?? Buffer.alloc(0);
    const [at, length] = only(layer);
    const set = made.keys ?? (await keysFor(made.store, { provider: made.provider }).exportKeys(MACHINE));
    for (const [machine, disk] of [
      [MACHINE, 'disk1'],
      [OTHER_MACHINE, DISK],
    ] as const) {
      const foreign = new MachineCipher({
        machine,
        sets: [set],
        writesAs: mode,
        hashCheck: keyCheckOf(set.hash),
        randomBytes,
      });
      const target = Buffer.alloc(length);
      const own = agentCipherHash(made, 800, noise(BLOCK_BYTES, 'new'));
      encodeChunk(
        target,
        BLOCK_BYTES,
        [{ first: 800, count: 1, zero: false }],
        BigUint64Array.of(own),
        noise(BLOCK_BYTES, 'new'),
        foreign.sealer(disk),
      );
      target.copy(layer, at);
      await expect(wrongBlocks(viewerOf(made, mode), 4, new Map())).rejects.toMatchObject({ code: 'unauthentic' });
    }
  });
});

function agentCipherHash({ keys }: World, block: number, bytes: Buffer): bigint {
  if (keys === null) return hashBlockAt(bytes, 0, BLOCK_BYTES, block);
  return agentCipher(keys).hasherFor(keyCheckOf(keys.hash), DISK)(bytes, 0, BLOCK_BYTES, block);
}
