/**
 * What the command reads and writes of recovery in the store itself, with no receiver running: launch settings, boot checks of points.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, expect, test } from 'vitest';
import { loadLaunchSettings } from '../../receiver/catalog/recovery-io.js';
import { writeCheck, type BootRecord } from '../../receiver/catalog/recovery-records.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { Chain, MACHINE } from '../helpers/layers.js';
import { T0 } from './fake-service.js';
import { runWith, type Ran, type RunOptions } from './fixture.js';

removeTempFolders();
let folder: string;
let store: ObjectStore;
beforeEach(async () => {
  folder = await tempFolder('launch');
  store = await openStore(`file:${folder}/store`, { create: true });
  const chain = new Chain(store, { sizeBytes: 2 * MIB, blockBytes: 4096 });
  chain.point(1);
  chain.point(2, { generation: 2 });
  await chain.publish();
});

const run = (args: readonly string[], options: RunOptions = {}): Promise<Ran> =>
  runWith(['--store', `file:${folder}/store`, ...args], options);

test('launch settings: none, set from a file and from standard input, shown', async () => {
  expect(await run(['launch-settings', 'web1'])).toMatchObject({ code: 0, out: '' });
  const file = join(folder, 'web1.yaml');
  await writeFile(file, 'provider: qemu\ncpus: 2\ndisks: [disk0]\nbootCheck: { type: none }\n');
  const set = await run(['launch-settings', 'web1', '--set', file]);
  expect([set.code, set.out, set.err]).toEqual([0, '', expect.stringContaining('replaced')]);
  const settings = { provider: 'qemu', cpus: 2, disks: ['disk0'], bootCheck: { type: 'none' } };
  expect(await loadLaunchSettings(store, MACHINE)).toEqual(settings);
  const shown = await run(['launch-settings', 'web1']);
  expect(shown.out).toMatch(/^provider: qemu\ncpus: 2\n/);
  expect(JSON.parse((await run(['launch-settings', 'web1', '--json'])).out)).toEqual(settings);
  // What is shown can be set again; what isn't in it is gone.
  const again = await run(['launch-settings', 'web1', '--set', '-'], { stdin: shown.out.replace('cpus: 2\n', '') });
  expect(again.code).toBe(0);
  const { cpus: _, ...rest } = settings;
  expect(await loadLaunchSettings(store, MACHINE)).toEqual(rest);
});

const bad: [yaml: string, message: RegExp][] = [
  ['provider: qemu\n\ncpu: 2\n', /:3: cpu: unknown key/],
  ['cpus: two\n', /:1: cpus: .*\(value "two"\)/],
  ['provider: qemu\nnics:\n  - { network: bridge }\n', /:3: nics\[0\]\.network/],
  ['bootCheck:\n  type: tcp\n  host: x\n  timeoutMs: 5\n', /bootCheck\.port/],
  ['a: [\n', /not valid YAML/],
  ['disks: [disk0, disk1]\n', /the machine has no disk disk1/],
];
test.each(bad)('launch settings %j: exit code 2 with its line, nothing changed', async (yaml, message) => {
  const file = join(folder, 'bad.yaml');
  await writeFile(file, yaml);
  for (const [how, options] of [
    [file, {}],
    ['-', { stdin: yaml }],
  ] as const) {
    const { code, out, err } = await run(['launch-settings', 'web1', '--set', how], options);
    expect([code, out, err]).toEqual([2, '', expect.stringMatching(message)]);
  }
  expect(await loadLaunchSettings(store, MACHINE)).toEqual({});
});

test('launch settings: no such file, too long an input', async () => {
  expect(await run(['launch-settings', 'web1', '--set', join(folder, 'none.yaml')])).toMatchObject({ code: 2 });
  const long = await run(['launch-settings', 'web1', '--set', '-'], { stdin: `# ${'x'.repeat(3 * MIB)}` });
  expect([long.code, long.err]).toEqual([2, expect.stringMatching(/standard input has more than/)]);
});

test('points: generation, and the newest boot check where there is one', async () => {
  expect((await run(['points', 'web1'])).out.split('\n')[0]).not.toContain('BOOT CHECK');
  const check = (instance: string, passed: boolean, atMs: number): BootRecord => ({
    point: 1,
    instance: `${instance}-2222-4333-8444-555555555555`,
    kind: 'test',
    receiverName: 'dr1',
    result: { type: 'tcp', passed, detail: '', tookMs: 1, atMs },
    rtoMs: 5000,
  });
  await writeCheck(store, MACHINE, check('aaaaaaaa', true, T0 - 10_000));
  await writeCheck(store, MACHINE, check('bbbbbbbb', false, T0 - 60_000));
  const lines = (await run(['points', 'web1'])).out.split('\n');
  expect(lines[0]).toMatch(/GENERATION +CONSISTENCY +CHANGED +BOOT CHECK +KEPT +REASON/);
  expect(lines[1]).toMatch(/^ +2 .* 2 +crash +4\.00 KiB +- +the newest point +interval$/);
  expect(lines[2]).toMatch(
    /^ +1 .* 1 +crash +4\.00 KiB +passed \(tcp, 12\.0 s ago, 2 checks\) +all up to 2h +interval$/,
  );
  const json = JSON.parse((await run(['points', 'web1', '--json'])).out) as { points: { bootChecks: unknown[] }[] };
  expect(json.points.map((p) => p.bootChecks.length)).toEqual([0, 2]);
});
