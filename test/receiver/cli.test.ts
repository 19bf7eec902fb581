/**
 * The command as an operator and a program use it: output, errors, exit codes.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { beforeAll, describe, expect, it } from 'vitest';
import { runCli } from '../../receiver/cli/program.js';
import { openStore } from '../../receiver/store/open.js';
import { systemClock } from '../../shared/clock.js';
import { asDiskId, asMachineId, MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { Chain } from '../helpers/layers.js';
import { differences } from '../helpers/restored.js';

removeTempFolders();

let url: string;
let chain: Chain;
const OTHER = asMachineId('99999999-2222-4333-8444-555555555555');

beforeAll(async () => {
  url = `file:${await tempFolder('cli')}/store`;
  const store = await openStore(url, { create: true });
  chain = new Chain(store, { sizeBytes: 70 * MIB, blockBytes: 4096, disk: asDiskId('root') });
  for (let p = 1; p <= 5; p++) {
    const changes = [{ first: p * 10, blocks: [chain.block(p, `at ${p}`)] }];
    chain.apply(changes);
    await chain.delta(p, p, changes);
    chain.point(p, { consistency: p === 3 ? 'application' : 'crash' });
  }
  await chain.publish(3, 2);
  const other = new Chain(store, { sizeBytes: 2 * MIB, blockBytes: 4096, machine: OTHER, name: 'db1' });
  other.point(1);
  await other.publish();
});

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

async function run(...args: string[]): Promise<Ran> {
  const out = new PassThrough();
  const err = new PassThrough();
  const signal = new AbortController().signal;
  const clock = { ...systemClock, nowMs: () => 1_700_000_000_000 + 10 * 60_000 };
  const code = await runCli(args, { out, err, env: { AFTERIMAGE_STORE: url }, clock, signal });
  const text = (stream: PassThrough): string => (stream.read() as Buffer | null)?.toString() ?? '';
  return { code, out: text(out), err: text(err) };
}

describe('afterimage machines and points', () => {
  it('lists machines by name', async () => {
    const { code, out } = await run('machines');
    expect(code).toBe(0);
    expect(out.split('\n')[0]).toMatch(/^MACHINE +ID +DISKS +SIZE +POINT +CUT +AGE +RECEIVER +CONSISTENCY$/);
    expect(out.split('\n')[1]).toMatch(/^db1 +99999999-.* 1 +2\.00 MiB +1 .* 9 min 00 s +- +crash$/);
    const json = JSON.parse((await run('machines', '--json')).out) as { machines: { name: string }[] };
    expect(json.machines.map((m) => m.name)).toEqual(['db1', 'web1']);
  });

  it('lists points, newest first, across history pages', async () => {
    const { out } = await run('points', 'web1');
    expect(
      out
        .split('\n')
        .slice(1, 6)
        .map((l) => l.trim().split(' ')[0]),
    ).toEqual(['5', '4', '3', '2', '1']);
    const json = JSON.parse((await run('points', '1111', '--json', '--limit', '2')).out) as {
      points: { number: number }[];
    };
    expect(json.points.map((p) => p.number)).toEqual([5, 4]);
  });

  it('shows a machine that can not be read, and the others', async () => {
    const folder = await tempFolder('broken');
    const store = await openStore(`file:${folder}`, { create: true });
    await store.createIfAbsent(`machines/${OTHER}/manifest/000000000001`, Buffer.from('{}'));
    const { code, out } = await run('--store', `file:${folder}`, 'machines');
    expect(code).toBe(0);
    expect(out).toMatch(/truncated or not sealed JSON/);
  });
});

describe('afterimage restore', () => {
  for (const [selector, number] of [
    ['latest', 5],
    ['2', 2],
    ['latest-app-consistent', 3],
    [new Date(1_700_000_000_000 + 4.5 * 60_000).toISOString(), 4],
  ] as const) {
    it(`restores point ${selector}`, async () => {
      const path = join(await tempFolder('out'), 'disk.raw');
      const { code, out } = await run('restore', 'web1', '--point', selector, '--to', path, '--sparse', '--json');
      expect(code).toBe(0);
      expect(JSON.parse(out)).toMatchObject({
        point: number,
        disks: [{ disk: 'root', target: path, readBack: false }],
      });
      expect(await differences(path, chain.geometry, chain.models.get(number) ?? new Map())).toEqual([]);
    });
  }

  it('says for people what it did', async () => {
    const path = join(await tempFolder('out'), 'a=b.raw');
    const { code, out, err } = await run(
      'restore',
      'web1',
      '--point',
      'latest',
      '--to',
      `root=${path}`,
      '--sparse',
      '--read-back',
    );
    expect([code, out]).toEqual([0, '']);
    expect(err).toMatch(/disk root → .*a=b\.raw: 70\.0 MiB in .*, read back and proven by digest [0-9a-f]{16}/);
  });

  it('says with exit code 2 what is wrong with its input, and changes nothing', async () => {
    const folder = await tempFolder('out');
    const path = join(folder, 'x.raw');
    const bad: [RegExp, ...string[]][] = [
      [/no machine "nope"/, 'restore', 'nope', '--point', 'latest', '--to', path],
      [/does not name a point/, 'restore', 'web1', '--point', 'soon', '--to', path],
      [/has no point 99/, 'restore', 'web1', '--point', '99', '--to', path],
      [/no point at or before/, 'restore', 'web1', '--point', '2001-01-01', '--to', path],
      [/no disk nope/, 'restore', 'web1', '--point', 'latest', '--disk', 'nope', '--to', path],
      [/two targets/, 'restore', 'web1', '--point', 'latest', '--to', path, '--to', `${path}2`],
      [/required option '--to/, 'restore', 'web1', '--point', 'latest'],
      [/unknown option/, 'restore', 'web1', '--point', 'latest', '--to', path, '--frob'],
      [/no store at/, '--store', `file:${folder}/none`, 'machines'],
      [/not supported/, '--store', 'ftp://bucket', 'machines'],
      [/no store is given/, '--store', '', 'machines'],
      [/exclude/, 'verify', 'web1', '--all', '--point', '1'],
      [/whole number/, 'points', 'web1', '--limit', '0'],
    ];
    for (const [message, ...args] of bad) {
      const { code, out, err } = await run(...args);
      expect(err).toMatch(message);
      expect([code, out]).toEqual([2, '']);
      const asJson = await run(...args, '--json');
      expect(asJson.code).toBe(2);
      expect(JSON.parse(asJson.err)).toMatchObject({
        error: { kind: 'usage', message: expect.stringMatching(message) as unknown },
      });
    }
    expect(existsSync(path)).toBe(false);
  });

  it('refuses a target that is not empty with exit code 1 and a hint', async () => {
    const path = join(await tempFolder('out'), 'full.raw');
    await writeFile(path, 'x');
    const { code, err } = await run('restore', 'web1', '--point', 'latest', '--to', path);
    expect(code).toBe(1);
    expect(err).toMatch(/not empty\n {2}.*--force/);
  });
});

describe('afterimage verify', () => {
  it('proves all points and reads shared data once', async () => {
    const { code, out } = await run('verify', 'web1', '--all', '--json');
    expect(code).toBe(0);
    const { points } = JSON.parse(out) as { points: { restorable: boolean; readBytes: number }[] };
    expect(points.map((p) => p.restorable)).toEqual([true, true, true, true, true]);
    expect(points.slice(1).map((p) => p.readBytes)).toEqual([0, 0, 0, 0]);
  });

  it('names what can not be restored, with exit code 1', async () => {
    const folder = await tempFolder('bad');
    const store = await openStore(`file:${folder}`, { create: true });
    const bad = new Chain(store, { sizeBytes: 2 * MIB, blockBytes: 4096, name: 'bad' });
    bad.apply([{ first: 1, blocks: [bad.block(1, 'x')] }]);
    bad.point(1);
    await bad.publish();
    const { code, out, err } = await run('--store', `file:${folder}`, 'verify', 'bad');
    expect(code).toBe(1);
    expect(out).toMatch(/point 1 of .*: NOT restorable: .*digest/);
    expect(err).toMatch(/1 of 1 points/);
  });
});

describe('the program itself', () => {
  const node = ['--import', './test/helpers/ts-loader.mjs', 'receiver/cli/main.ts'];

  it('shows help with examples and exits 0', { timeout: 30_000 }, () => {
    const { status, stdout } = spawnSync(process.execPath, [...node, 'restore', '--help'], { encoding: 'utf8' });
    expect(status).toBe(0);
    expect(stdout).toMatch(/Examples:\n {2}afterimage restore/);
  });

  it('is cancelled by Ctrl-C and says how to go on', { timeout: 60_000 }, async () => {
    const folder = await tempFolder('cancel');
    const store = await openStore(`file:${folder}/store`, { create: true });
    const big = new Chain(store, { sizeBytes: 600 * MIB, blockBytes: 4096, name: 'big' });
    const noise = big.block(0, 'noise', false);
    for (let s = 0; s < 9; s++) {
      const blocks = Array.from({ length: 4000 }, () => noise);
      big.apply([{ first: s * 16384, blocks }]);
      await big.base(s, 1);
    }
    big.point(1);
    await big.publish();
    const target = join(folder, 'big.raw');
    const args = [
      ...node,
      '--store',
      `file:${folder}/store`,
      'restore',
      'big',
      '--point',
      '1',
      '--to',
      target,
      '--sparse',
    ];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let err = '';
    child.stderr.on('data', (d: Buffer) => (err += d.toString()));
    const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
    while (!existsSync(`${target}.afterimage-restore`)) await new Promise((resolve) => setTimeout(resolve, 2));
    child.kill('SIGINT');
    expect(await ended).toBe(1);
    expect(err).toMatch(/restore was cancelled\n {2}Run the same command again/);
    const again = spawnSync(process.execPath, args, { encoding: 'utf8' });
    expect(again.status).toBe(0);
    expect(await differences(target, big.geometry, big.models.get(1) ?? new Map())).toEqual([]);
  });
});
