/**
 * What the programs load: a restore is measured with the start of its process, and a receiver that starts again keeps agents waiting. A package
 * that comes in again through an import at the top of a file is found here.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openStore } from '../../receiver/store/open.js';
import { systemClock } from '../../shared/clock.js';
import { MIB } from '../../shared/units.js';
import { freePort } from '../e2e/lab.js';
import { Daemon, runToEnd } from '../e2e/program.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { Chain } from '../helpers/layers.js';

removeTempFolders();

interface Loaded {
  readonly packages: ReadonlySet<string>;
  /** Ours, as `receiver/session`. */
  readonly folders: ReadonlySet<string>;
}

/** Node itself says what it ran, when it ends. */
function loadedOf(coverage: string): Loaded {
  const urls = readdirSync(coverage).flatMap((name) =>
    (JSON.parse(readFileSync(join(coverage, name), 'utf8')) as { result: { url: string }[] }).result.map((r) => r.url),
  );
  const files = urls.filter((url) => url.startsWith('file:'));
  expect(files.length).toBeGreaterThan(10);
  const group = (pattern: RegExp): Set<string> =>
    new Set(files.flatMap((url) => [pattern.exec(url)?.[1] ?? []].flat()).sort());
  return {
    packages: group(/.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//),
    folders: group(/\/((?:receiver|shared|agent)\/[a-z-]+)\/[^/]+\.js$/),
  };
}

test('the help of `afterimage` loads the command line alone', async () => {
  const coverage = await tempFolder('loaded');
  expect((await runToEnd('cli', ['--help'], { NODE_V8_COVERAGE: coverage })).code).toBe(0);
  const { packages } = loadedOf(coverage);
  expect([...packages]).toEqual(['commander']);
});

test('a restore loads what reads a store and writes a disk, and nothing of the receiver', async () => {
  const folder = await tempFolder('loaded');
  const coverage = join(folder, 'coverage');
  const url = `file:${join(folder, 'store')}`;
  const store = await openStore(url, { clock: systemClock, create: true });
  const chain = new Chain(store, { sizeBytes: 2 * MIB, blockBytes: 4096 });
  const changes = [{ first: 3, blocks: [chain.block(3, 'content')] }];
  chain.apply(changes);
  await chain.delta(1, 1, changes);
  chain.point(1);
  await chain.publish();
  await store.close();
  const to = join(folder, 'disk.raw');
  const args = ['--store', url, 'restore', 'web1', '--point', 'latest', '--to', to];
  const { code, stderr } = await runToEnd('cli', args, { NODE_V8_COVERAGE: coverage });
  expect([code, stderr]).toEqual([0, expect.stringContaining('proven by digest')]);
  expect(readFileSync(to).subarray(3 * 4096, 4 * 4096)).toEqual(chain.block(3, 'content'));
  const { packages, folders } = loadedOf(coverage);
  const needed = ['@koromix/koffi-linux-x64', 'cli-progress', 'commander', 'koffi', 'lz4-napi', 'xxhash-wasm', 'zod'];
  expect([...packages].filter((name) => !needed.includes(name))).toEqual([]);
  const ours = ['receiver/catalog', 'receiver/cli', 'receiver/keys', 'receiver/store', 'receiver/volume'];
  expect([...folders].filter((name) => !name.startsWith('shared/') && !ours.includes(name))).toEqual([]);
});

test('a receiver that starts again loads no web server and signs no certificate before it is asked', async () => {
  const folder = await tempFolder('loaded');
  const config = join(folder, 'receiver.yaml');
  const lines = [
    `store: file:${join(folder, 'store')}`,
    `stateDir: ${join(folder, 'state')}`,
    `controlSocket: ${join(folder, 'c.sock')}`,
    `listen: { host: 127.0.0.1, port: ${await freePort()} }`,
    `status: { port: ${await freePort()} }`,
  ];
  await writeFile(config, lines.join('\n'));
  const startAndStop = async (env: Record<string, string>): Promise<void> => {
    const log = join(folder, `log-${Object.keys(env).length}`);
    const daemon = new Daemon('receiver', ['--config', config, 'run'], log, env);
    const isReady = (): boolean => existsSync(log) && readFileSync(log, 'utf8').includes('receiver is ready');
    await expect.poll(isReady, { timeout: 50_000 }).toBe(true);
    expect((await daemon.stop()).code).toBe(0);
  };
  await startAndStop({});
  const coverage = join(folder, 'coverage');
  await startAndStop({ NODE_V8_COVERAGE: coverage });
  const { packages } = loadedOf(coverage);
  const late = ['fastify', 'ajv', 'fast-json-stringify', '@peculiar/x509', 'reflect-metadata', '@aws-sdk/client-s3'];
  expect(late.filter((name) => packages.has(name))).toEqual([]);
  expect(packages.has('ws')).toBe(true);
}, 120_000);
