/**
 * Replication of a running copy when things fail: the store at every single request, the volumes, another receiver that takes the machine over.
 */
import { expect, test } from 'vitest';
import { raiseGeneration, resumeGeneration } from '../../receiver/catalog/generation.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { FailingStore } from '../helpers/failing-store.js';
import { removeTempFolders } from '../helpers/folders.js';
import { randomOf } from '../helpers/random.js';
import {
  blockOf,
  catalogDeps,
  Copy,
  digestOf,
  MACHINE,
  newMachine,
  newStore,
  pointNumbers,
} from './replicate-fixture.js';

removeTempFolders();

/** Each listed point must be one of the cuts that were taken, on all disks at once; resolves to those that aren't. */
async function unsound(store: ObjectStore, copy: Copy): Promise<number[]> {
  const cuts = copy
    .source(0)
    .images.map((_, i) => copy.sources.map((s) => digestOf(s.geometry, s.images[i] ?? Buffer.alloc(0))).join());
  const wrong: number[] = [];
  for await (const point of (await MachineReader.open(store, MACHINE)).points())
    if (point.number > 1 && !cuts.includes(point.disks.map((d) => d.digest).join())) wrong.push(point.number);
  return wrong;
}

test.each([
  ['before it is carried out', false, 1 << 20],
  ['after it was carried out', true, 1 << 20],
  ['before it is carried out, with no room for hashes', false, 4],
  ['after it was carried out, with no room for hashes', true, 4],
])('the store fails at each request of a cycle, %s: nothing is lost', async (_, late, hashesMax) => {
  const store = await newStore();
  const contents = await newMachine(store);
  const failing = new FailingStore(store);
  const owned = await resumeGeneration(catalogDeps(failing.store), MACHINE, 1);
  const copy = await Copy.start(failing.store, owned, contents, { hashesMax });
  const random = randomOf(21);
  const failedAt = new Set<string>();
  // One request further each time, until a cycle gets through; in larger steps where a cycle opens the growing chain again.
  for (let n = 1; ; n += hashesMax === 4 ? Math.ceil(n / 3) : 1) {
    copy.scribble(random, 12);
    failing.failed = null;
    failing.late = late;
    failing.failAt = failing.requests + n;
    const first = await copy.replicator.pointNow().catch((error: unknown) => error);
    failing.failAt = 0;
    if (failing.failed === null) break;
    failedAt.add(failing.failed);
    expect(first).toBeInstanceOf(Error);
    expect(copy.replicator.status.problem).toContain('failed');
    for (const source of copy.sources) expect([source.openCuts, source.isHeld]).toEqual([0, false]);
    copy.scribble(random, 3);
    const point = await copy.replicator.pointNow();
    expect(copy.replicator.status).toMatchObject({ problem: null, pendingBytes: 0, lastPoint: point.number });
    for (const source of copy.sources) expect(source.images.at(-1)?.equals(source.bytes)).toBe(true);
    expect(await copy.wrongAt(store, point.number)).toEqual([]);
  }
  if (hashesMax === 4) for (const what of ['list', 'get', 'read']) expect(failedAt).toContain(what);
  else expect([...failedAt].sort()).toEqual(['createIfAbsent', 'openWriter', 'writer.finish', 'writer.write']);
  expect(await unsound(store, copy)).toEqual([]);
  expect(copy.replicator.status.points).toBe((await pointNumbers(store)).length - 1);
});

test('what a failed cycle found is forgotten: a block that went back to what it was, and then to the same again', async () => {
  const store = await newStore();
  const contents = await newMachine(store);
  const failing = new FailingStore(store);
  const owned = await resumeGeneration(catalogDeps(failing.store), MACHINE, 1);
  const copy = await Copy.start(failing.store, owned, contents);
  const source = copy.source(0);
  const [old, other] = [blockOf(source.geometry, 4), blockOf(source.geometry, 99)];
  expect(source.bytes.subarray(3 * 4096, 4 * 4096).equals(old)).toBe(true);
  source.set(3, other);
  failing.failAt = failing.requests + 3;
  await expect(copy.replicator.pointNow()).rejects.toThrow('failed');
  for (const content of [old, other]) {
    source.set(3, content);
    expect(await copy.wrongAt(store, (await copy.replicator.pointNow()).number)).toEqual([]);
  }
});

test('the history page can not be written when the tail is full: the point waits, nothing is in doubt', async () => {
  const store = await newStore();
  const contents = await newMachine(store);
  const failing = new FailingStore(store);
  const owned = await resumeGeneration(catalogDeps(failing.store), MACHINE, 1);
  const copy = await Copy.start(failing.store, owned, contents);
  while (owned.manifest.tail.points.length < 64) await copy.replicator.pointNow('fill', true);
  failing.failAt = failing.requests + 1;
  await expect(copy.replicator.pointNow('full', true)).rejects.toThrow('createIfAbsent');
  failing.failAt = 0;
  const point = await copy.replicator.pointNow('full', true);
  expect(point.number).toBe(65);
  expect(owned.manifest.pages).toHaveLength(1);
});

test('run() goes on after failures, and a volume that fails to hold or to be read loses nothing', async () => {
  const store = await newStore();
  const contents = await newMachine(store);
  const owned = await resumeGeneration(catalogDeps(store), MACHINE, 1);
  const copy = await Copy.start(store, owned, contents);
  copy.scribble(randomOf(31), 60);
  const [first, second] = [copy.source(0), copy.source(1)];
  let failures = 0;
  second.onRead = () => (++failures === 2 ? Promise.reject(new Error('test: unreadable')) : Promise.resolve());
  await expect(copy.replicator.pointNow()).rejects.toThrow('unreadable');
  second.onRead = () => Promise.resolve();
  first.onHold = () => Promise.reject(new Error('test: no hold'));
  const stop = new AbortController();
  const run = copy.replicator.run(stop.signal);
  while (copy.replicator.status.problem?.includes('no hold') !== true) await new Promise((r) => setTimeout(r, 5));
  expect([first, second].map((s) => [s.isHeld, s.openCuts])).toEqual([
    [false, 0],
    [false, 0],
  ]);
  expect(await pointNumbers(store)).toEqual([1]);
  first.onHold = () => Promise.resolve();
  while (copy.replicator.status.points === 0) await new Promise((r) => setTimeout(r, 5));
  stop.abort();
  await run;
  expect(await copy.wrongAt(store, 2)).toEqual([]);
});

test.each(['in the middle of the cycle', 'between its cut and its first request'])(
  'another generation takes over %s: rejected, nothing is listed, the copy keeps its changes',
  async (when) => {
    const store = await newStore();
    const contents = await newMachine(store);
    const owned = await resumeGeneration(catalogDeps(store), MACHINE, 1);
    const copy = await Copy.start(store, owned, contents);
    copy.scribble(randomOf(41), 100);
    const pending = copy.replicator.status.pendingBytes;
    let reads = 0;
    const at = when === 'in the middle of the cycle' ? 2 : 1;
    copy.source(0).onRead = async () => {
      if (++reads === at) await raiseGeneration(catalogDeps(store), MACHINE, 1);
    };
    const stop = new AbortController();
    await expect(copy.replicator.run(stop.signal)).rejects.toMatchObject({ kind: 'fenced' });
    expect(await pointNumbers(store)).toEqual([1]);
    expect(copy.replicator.status.pendingBytes).toBe(pending);
    await expect(copy.replicator.pointNow('again', true)).rejects.toMatchObject({ kind: 'fenced' });
    await expect(copy.replicator.run(stop.signal)).rejects.toMatchObject({ kind: 'fenced' });
    expect(await pointNumbers(store)).toEqual([1]);
    for (const source of copy.sources) expect([source.openCuts, source.isHeld]).toEqual([0, false]);
  },
);

test.each([false, true])(
  'taken over while a commit is in doubt (made: %s): it stands or it does not, and no more comes',
  async (made) => {
    const store = await newStore();
    const contents = await newMachine(store);
    const failing = new FailingStore(store);
    const owned = await resumeGeneration(catalogDeps(failing.store), MACHINE, 1);
    const copy = await Copy.start(failing.store, owned, contents);
    copy.scribble(randomOf(51), 5);
    failing.late = made;
    // The manifest is the last but one request of a cycle: find it by counting one that succeeds.
    const before = failing.requests;
    await copy.replicator.pointNow();
    let requests = failing.requests - before - 1;
    for (const source of copy.sources) source.changed.clear();
    copy.source(0).changed.add(0);
    copy.scribble(randomOf(51), 5);
    failing.failAt = failing.requests + requests;
    await copy.replicator.pointNow().catch(() => undefined);
    while (failing.failed !== 'createIfAbsent') {
      failing.failAt = failing.requests + --requests;
      await copy.replicator.pointNow('search', true).catch(() => undefined);
    }
    const listed = await pointNumbers(store);
    await resumeGeneration(catalogDeps(store), MACHINE, 1);
    await expect(copy.replicator.pointNow('again', true)).rejects.toMatchObject({ kind: 'fenced' });
    expect(await pointNumbers(store)).toEqual(listed);
    expect(await unsound(store, copy)).toEqual([]);
    expect(listed.at(-1)).toBe((await MachineReader.open(store, MACHINE)).manifest.lastPoint);
  },
);
