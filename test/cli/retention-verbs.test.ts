/** policy, retention preview, hold, release and what points shows of them: on a store alone, no receiver running. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, describe, expect, test } from 'vitest';
import { readHolds } from '../../receiver/catalog/holds.js';
import { loadPolicy, savePolicy } from '../../receiver/catalog/policy-io.js';
import { DEFAULT_POLICY } from '../../receiver/catalog/policy.js';
import { PinHolder } from '../../receiver/catalog/pin-holder.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { Chain, MACHINE } from '../helpers/layers.js';
import { ManualClock } from '../helpers/manual-clock.js';
import { T0 } from './fake-service.js';
import { runWith, type Ran, type RunOptions } from './fixture.js';

removeTempFolders();
const MIN = 60_000;
let folder: string;
let store: ObjectStore;
let chain: Chain;
beforeEach(async () => {
  folder = await tempFolder('retention');
  store = await openStore(`file:${folder}/store`, { create: true });
  chain = new Chain(store, { sizeBytes: 2 * MIB, blockBytes: 4096 });
  // Every 10 minutes for 5 hours: two of them are all kept, of the other hours one each.
  for (let p = 1; p <= 30; p++) {
    const changes = [{ first: p % 7, blocks: [chain.block(p % 7, `p${p}`, false)] }];
    chain.apply(changes);
    await chain.delta(p, p, changes);
    const atMs = Math.floor(T0 / 3_600_000) * 3_600_000 - 300 * MIN + p * 10 * MIN;
    chain.point(p, { cutAtMs: atMs, committedAtMs: atMs + 500, consistency: p === 8 ? 'application' : 'crash' });
  }
  await chain.base(0, 1, chain.models.get(1));
  await chain.publish(20);
});

const run = (args: readonly string[], options: RunOptions = {}): Promise<Ran> =>
  runWith(['--store', `file:${folder}/store`, ...args], { hurried: true, ...options });

describe('policy', () => {
  test('the default, one set from a file, shown and set again', async () => {
    const none = await run(['policy', 'web1']);
    expect([none.code, none.err]).toEqual([0, expect.stringContaining('no policy of its own')]);
    const set = await run(['policy', 'web1', '--set', '-'], { stdin: `interval: 30s\n${none.out}` });
    expect([set.code, set.out, set.err]).toEqual([0, '', expect.stringContaining('Policy 1 of web1')]);
    const shown = await run(['policy', 'web1']);
    expect(shown.out).toBe(`interval: 30s\n${none.out}`);
    expect(JSON.parse((await run(['policy', 'web1', '--json'])).out)).toMatchObject({
      number: 1,
      policy: { interval: '30s' },
    });
  });

  test("the receiver's own default is what its configuration says", async () => {
    const config = join(folder, 'receiver.yaml');
    await writeFile(config, `store: file:${folder}/store\npolicy:\n  retention: [{ every: 1d, upTo: 364d }]\n`);
    const { out } = await runWith(['--config', config, 'policy', 'web1', '--json']);
    expect(JSON.parse(out)).toEqual({ number: null, policy: { retention: [{ every: '1d', upTo: '364d' }] } });
    await writeFile(config, `store: file:${folder}/store\npolicy:\n  retention: [{ every: 1d, upTo: 1h }]\n`);
    expect(await runWith(['--config', config, 'policy', 'web1'])).toMatchObject({
      code: 2,
      err: expect.stringMatching(/:3: policy\.retention\[0\]\.every.*\(value "1d"\)/) as unknown,
    });
  });

  test('bad input: exit code 2 with line and value, nothing changed', async () => {
    await savePolicy({ store, clock: new ManualClock() }, MACHINE, DEFAULT_POLICY);
    const file = join(folder, 'bad.yaml');
    await writeFile(file, 'interval: 5s\nretention:\n  - { every: 1h, upTo: 1d }\n  - { every: 90min, upTo: 2d }\n');
    const bad = await run(['policy', 'web1', '--set', file]);
    expect(bad).toMatchObject({ code: 2, out: '' });
    expect(bad.err).toMatch(/bad\.yaml:4: retention\[1\]\.every: expected a multiple of 1h.*\(value "90min"\)/);
    expect(await loadPolicy(store, MACHINE)).toMatchObject({ number: 1 });
    expect(await run(['policy', 'nobody'])).toMatchObject({ code: 2 });
  });
});

describe('retention preview', () => {
  interface PreviewJson {
    now: {
      keep: { point: number; code: string }[];
      drop: { point: number; code: string; reason: string }[];
      storedBytes: number;
      afterBytes: number;
    };
    steady: { points: number; totalBytes: number; imageBytes: number; perDay: { points: number; puts: number } };
  }
  const preview = async (...args: string[]): Promise<PreviewJson> =>
    JSON.parse((await run(['retention', 'preview', 'web1', '--json', ...args])).out) as PreviewJson;

  test('names what goes and why, for the policy that counts and for another, and changes nothing', async () => {
    const { now, steady } = await preview();
    expect(now.drop.map((d) => d.point)).toEqual([2, 3, 4, 5, 6, 7, 9, 10, 11, 13, 14, 15, 16, 17]);
    expect(now.keep.map((k) => k.point)).toEqual([1, 8, 12, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30]);
    expect(now.afterBytes).toBeLessThan(now.storedBytes);
    expect(steady.perDay.points).toBe(144);
    const file = join(folder, 'all.yaml');
    await writeFile(file, 'retention: [{ every: all, upTo: 30d }]\n');
    const all = await preview('--policy', file);
    expect(all.now.drop).toEqual([]);
    expect(all.steady.points).toBe(30 * 144 + 1);
    expect(await loadPolicy(store, MACHINE)).toBeNull();
  });

  test('for people: tiers, points that go, the long run and how it was estimated', async () => {
    const { code, out } = await run(['retention', 'preview', 'web1']);
    expect(code).toBe(0);
    expect(out).toMatch(/Now: 16 of 30 points stay/);
    expect(out).toMatch(/all up to 2h +12\n/);
    expect(out).toMatch(
      /^ +7 .* point 8 of the 1h from .*Z stays, which is application-consistent and this one crash$/m,
    );
    expect(out).toMatch(/In the long run: 155 points, the oldest of 15d ago/);
    expect(out).toMatch(/Estimated:\n {2}- points every 600\.0 s: as they were made so far/);
  });

  test('bad input: exit code 2, nothing changed', async () => {
    expect(await run(['retention', 'preview', 'web1', '--policy', '-'], { stdin: 'retention: 5\n' })).toMatchObject({
      code: 2,
    });
    expect(await run(['retention', 'preview'])).toMatchObject({ code: 2 });
  });
});

describe('hold and release', () => {
  test('held, shown with its reason, released', async () => {
    const held = await run(['hold', 'web1', '5', '--name', 'LEGAL-17', '--note', 'case 17']);
    expect([held.code, held.err]).toEqual([
      0,
      expect.stringMatching(/Point 5 of web1 .* is held as LEGAL-17\.\nNot confirmed yet/),
    ]);
    expect(await readHolds(store, MACHINE)).toMatchObject([{ name: 'LEGAL-17', point: 5, note: 'case 17' }]);
    const points = await run(['points', 'web1']);
    expect(points.out).toMatch(/^ +5 .* held as LEGAL-17 /m);
    expect(points.out).toMatch(/^ +4 .* goes: slot-taken /m);
    expect(points.out).toMatch(/^ +8 .* every 1h up to 1d /m);
    expect(points.out).toMatch(/^ +30 .* the newest point /m);
    const released = await run(['release', 'web1', 'LEGAL-17']);
    expect([released.code, released.err]).toEqual([0, expect.stringContaining('point 5 of web1')]);
    expect(await readHolds(store, MACHINE)).toEqual([]);
  });

  test('points --json has holds, pins and the reason of every point', async () => {
    await run(['hold', 'web1', '5', '--name', 'LEGAL-17']);
    const clock = new ManualClock(T0);
    const pin = await PinHolder.acquire({ store, clock, randomId: () => MACHINE }, MACHINE, {
      point: 7,
      manifest: 1,
      holder: 'restore on host1',
    });
    const { points, holds } = JSON.parse((await run(['points', 'web1', '--json'])).out) as {
      points: { number: number; retention: { kept: boolean; code: string; reason: string } }[];
      holds: { name: string }[];
    };
    const of = (n: number) => points.find((p) => p.number === n)?.retention;
    expect(of(5)).toEqual({ kept: true, code: 'held', reason: 'held as LEGAL-17' });
    expect(of(7)).toEqual({ kept: true, code: 'held', reason: 'pinned: restore on host1' });
    expect(of(8)).toMatchObject({ kept: true, code: 'tier' });
    expect(of(9)).toMatchObject({ kept: false, code: 'slot-taken' });
    expect(holds).toMatchObject([{ name: 'LEGAL-17' }]);
    await pin.release();
  });

  test.each([
    ['a point that is not there', ['hold', 'web1', '99', '--name', 'x'], /no point 99/],
    ['a name with a slash', ['hold', 'web1', '5', '--name', 'a/b'], /a\/b is not a name of a hold/],
    ['no name', ['hold', 'web1', '5'], /--name/],
    ['a long note', ['hold', 'web1', '5', '--name', 'x', '--note', 'n'.repeat(501)], /501 characters/],
    ['a hold that is not there', ['release', 'web1', 'x'], /no hold x/],
  ])('%s: exit code 2, nothing changed', async (_, args, message) => {
    const { code, err } = await run(args);
    expect(code).toBe(2);
    expect(err).toMatch(message);
    expect(await readHolds(store, MACHINE)).toEqual([]);
  });

  test('a name in use: exit code 1, the hold that was there stays', async () => {
    await run(['hold', 'web1', '5', '--name', 'x']);
    expect(await run(['hold', 'web1', '6', '--name', 'x'])).toMatchObject({ code: 1 });
    expect(await readHolds(store, MACHINE)).toMatchObject([{ point: 5 }]);
  });
});
