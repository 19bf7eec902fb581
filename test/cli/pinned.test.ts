/** Commands that read points pin them while they do, and work on a store that takes no pin, with a warning. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, expect, test } from 'vitest';
import { pinsPrefix } from '../../receiver/catalog/names.js';
import { readPins } from '../../receiver/catalog/pins.js';
import { openReadable, pinForCommand } from '../../receiver/cli/pinned.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { Chain, MACHINE } from '../helpers/layers.js';
import { runWith, type Ran, type RunOptions } from './fixture.js';

removeTempFolders();
let folder: string;
let store: ObjectStore;
let chain: Chain;
beforeEach(async () => {
  folder = await tempFolder('pinned');
  store = await openStore(`file:${folder}/store`, { create: true });
  chain = new Chain(store, { sizeBytes: 2 * MIB, blockBytes: 4096 });
  for (let p = 1; p <= 3; p++) {
    const changes = [{ first: p, blocks: [chain.block(p, `p${p}`)] }];
    chain.apply(changes);
    await chain.delta(p, p, changes);
    chain.point(p);
  }
  await chain.publish();
});

const run = (args: readonly string[], options: RunOptions = {}): Promise<Ran> =>
  runWith(['--store', `file:${folder}/store`, ...args], options);
const pinNames = async (): Promise<string[]> => {
  const names: string[] = [];
  for await (const { name } of store.list(pinsPrefix(MACHINE))) names.push(name);
  return names;
};

test('serve holds a pin while it serves, and none afterwards', async () => {
  const stop = new AbortController();
  let seen: Promise<unknown> = Promise.resolve();
  const { code } = await run(['serve', 'web1', '--point', '2', '--state', join(folder, 'state')], {
    signal: stop.signal,
    onErr: (text) => {
      if (!text.includes('nbd') || stop.signal.aborted) return;
      seen = readPins(store, MACHINE).finally(() => stop.abort());
    },
  });
  expect(code).toBe(0);
  expect(await seen).toMatchObject({
    pins: [{ point: 2, manifest: 1, holder: expect.stringMatching(/^serve on /) as unknown }],
  });
  expect(await pinNames()).toEqual([]);
});

test('restore and verify leave no pin behind, also when they fail', async () => {
  const target = join(folder, 'disk.raw');
  expect(await run(['restore', 'web1', '--point', '2', '--to', target])).toMatchObject({ code: 0 });
  expect((await readFile(target)).subarray(4096, 8192).equals(chain.models.get(2)?.get(1) ?? Buffer.alloc(0))).toBe(
    true,
  );
  expect(await run(['verify', 'web1', '--all'])).toMatchObject({ code: 0 });
  expect(await run(['restore', 'web1', '--point', '2', '--to', target])).toMatchObject({ code: 1 });
  expect(await run(['restore', 'web1', '--point', '9', '--to', target])).toMatchObject({ code: 2 });
  expect(await pinNames()).toEqual([]);
});

test('a store that takes no pin: read all the same, with a warning that says what it risks', async () => {
  const readOnly = new Proxy(store, {
    get(under, key) {
      if (key === 'createIfAbsent') return () => Promise.reject(new Error('permission denied'));
      const value: unknown = Reflect.get(under, key, under);
      return typeof value === 'function' ? (value.bind(under) as unknown) : value;
    },
  });
  const said: string[] = [];
  const io = {
    out: process.stdout,
    err: { write: (text: string) => void said.push(text) } as unknown as NodeJS.WritableStream,
    env: {},
    clock: { nowMs: () => 0, monotonicMs: () => 0, sleep: () => Promise.resolve() },
    signal: new AbortController().signal,
  };
  const selector = { by: 'latest', levels: ['crash'] } as const;
  const pin = (json: boolean) =>
    pinForCommand(readOnly, MACHINE, selector, 'restore', { config: '', json }, io, openReadable);
  expect((await pin(false)).point.number).toBe(3);
  expect(said.join('')).toMatch(
    /^Warning: point 3 is read without a pin \(permission denied\): retention may drop it meanwhile/,
  );
  said.length = 0;
  await pin(true);
  expect(said).toEqual([]);
});
