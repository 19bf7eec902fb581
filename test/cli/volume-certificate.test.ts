/**
 * Certificates of volume clients: made by the command, taken by `afterimage serve` over TLS from libnbd and QEMU, and good for nothing else; agents'
 * certificates open no volume.
 */
import { spawnSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openAuthority } from '../../receiver/session/ca.js';
import { writeVolumeCertificate } from '../../receiver/session/volume-certificate.js';
import { systemClock } from '../../shared/clock.js';
import { MIB } from '../../shared/units.js';
import { CLOSE } from '../../shared/wire/close-codes.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { Chain } from '../helpers/layers.js';
import { refusalOf, startWorld, type World } from '../session/fixture.js';
import { runWith, type Ran } from './fixture.js';
import { missingTools, must, program } from './images.js';

removeTempFolders();
const HOUR_MS = 3_600_000;
const withClients = test.skipIf(missingTools('volume-certificate', ['nbdinfo', 'qemu-img']).length > 0);

let world: World;
let config: string;
let port: number;
let stop: AbortController;
let serving: Promise<Ran>;

const freePort = (): Promise<number> =>
  new Promise((resolve) => {
    const server = createServer();
    server.listen(0, '0.0.0.0', () => {
      const found = (server.address() as AddressInfo).port;
      server.close(() => resolve(found));
    });
  });

const receiver = (...args: string[]): { status: number | null; stderr: string } =>
  spawnSync(
    process.execPath,
    ['--import', './test/helpers/ts-loader.mjs', 'receiver/main.ts', '--config', config, ...args],
    { encoding: 'utf8' },
  );

beforeAll(async () => {
  world = await startWorld();
  const chain = new Chain(world.store, { sizeBytes: 2 * MIB, blockBytes: 4096 });
  const changes = [{ first: 3, blocks: [chain.block(3, 'secret')] }];
  chain.apply(changes);
  await chain.delta(1, 1, changes);
  chain.point(1);
  await chain.publish();
  config = join(world.folder, 'receiver.yaml');
  await writeFile(config, `stateDir: ${join(world.folder, 'receiver')}\nstore: file:${join(world.folder, 'store')}\n`);
  port = await freePort();
  stop = new AbortController();
  let ready = (): void => undefined;
  const isReady = new Promise<void>((resolve) => (ready = resolve));
  const args = ['--config', config, 'serve', 'web1', '--point', '1', '--listen', `tcp:0.0.0.0:${port}`];
  serving = runWith(args, { signal: stop.signal, onErr: (text) => text.includes('Ctrl-C ends it.') && ready() });
  await Promise.race([isReady, serving]);
});
afterAll(async () => {
  stop.abort();
  const { code, err } = await serving;
  expect([code, err]).toEqual([0, expect.stringMatching(/volume-certificate NAME --out .*\n {2}nbdinfo 'nbds:/)]);
  await world.stop();
});

const uri = (certificates: string, scheme = 'nbds'): string =>
  `${scheme}://127.0.0.1:${port}/disk0?tls-certificates=${certificates}`;

async function certificateOf(name: string, stateDir = join(world.folder, 'receiver')): Promise<string> {
  const folder = join(await tempFolder('certificate'), 'made');
  await writeVolumeCertificate(await openAuthority(stateDir, systemClock), name, HOUR_MS, folder);
  return folder;
}

/** A folder as clients want it, of an agent's or anybody's certificate. */
async function folderOf(certificatePem: string | null, keyPem: string): Promise<string> {
  const folder = await tempFolder('certificate');
  await writeFile(join(folder, 'ca-cert.pem'), world.ca.certificatePem);
  if (certificatePem === null) return folder;
  await writeFile(join(folder, 'client-cert.pem'), certificatePem);
  await writeFile(join(folder, 'client-key.pem'), keyPem);
  return folder;
}

withClients('the command: files as libnbd and QEMU want them, never written over', { timeout: 60_000 }, async () => {
  const out = join(await tempFolder('out'), 'backup1');
  const { status, stderr } = receiver('volume-certificate', 'backup1', '--out', out);
  expect([status, stderr]).toEqual([0, expect.stringContaining('backup1')]);
  expect((await readdir(out)).sort()).toEqual(['ca-cert.pem', 'client-cert.pem', 'client-key.pem']);
  expect((await stat(join(out, 'client-key.pem'))).mode & 0o777).toBe(0o600);
  expect((await stat(out)).mode & 0o777).toBe(0o700);
  const info = await must('nbdinfo', '--json', uri(out));
  expect(JSON.parse(info)).toMatchObject({ TLS: true, exports: [{ 'export-name': 'disk0', 'export-size': 2 * MIB }] });
  const certificate = new X509Certificate(await readFile(join(out, 'client-cert.pem')));
  expect(certificate.subject).toBe('CN=volume-client:backup1');
  expect(Math.round((Date.parse(certificate.validTo) - Date.now()) / (24 * HOUR_MS))).toBe(30);
  const again = receiver('volume-certificate', 'backup1', '--out', out);
  expect([again.status, again.stderr]).toEqual([2, expect.stringMatching(/client-key\.pem in .* already/)]);
});

test.each(['', 'a/b', 'CN=x', 'a,O=b', '-x', 'x'.repeat(51)])('"%s" is no name of a client', async (name) => {
  await expect(certificateOf(name)).rejects.toMatchObject({ kind: 'usage' });
});

withClients('QEMU reads what the point holds', async () => {
  const raw = join(await tempFolder('raw'), 'disk.raw');
  const to = ['--point', '1', '--to', raw, '--sparse'];
  expect((await runWith(['--config', config, 'restore', 'web1', ...to])).code).toBe(0);
  const tls = `tls-creds-x509,id=tls0,dir=${await certificateOf('qemu')},endpoint=client`;
  const node = `driver=nbd,server.type=inet,server.host=127.0.0.1,server.port=${port},export=disk0,tls-creds=tls0`;
  const file = `driver=raw,file.filename=${raw}`;
  await must('qemu-img', 'compare', '--object', tls, '--image-opts', node, file);
});

withClients.each(['plain NBD', 'no certificate', 'an agent', 'another CA', 'one that has ended'])(
  'nothing is served to %s',
  async (who) => {
    const agent = await world.enrollAgent(`agent-${who.replaceAll(' ', '-')}`);
    const past = { ...systemClock, nowMs: () => Date.now() - 48 * HOUR_MS };
    const ended = await (await openAuthority(join(world.folder, 'receiver'), past)).issueVolumeClient('old', HOUR_MS);
    const other = await (await openAuthority(await tempFolder('other'), systemClock)).issueVolumeClient('x', HOUR_MS);
    const good = await certificateOf('good');
    const target = {
      'plain NBD': uri(good, 'nbd'),
      'no certificate': uri(await folderOf(null, '')),
      'an agent': uri(await folderOf(agent.certificatePem, agent.keyPem)),
      'another CA': uri(await folderOf(other.certificatePem, other.keyPem)),
      'one that has ended': uri(await folderOf(ended.certificatePem, ended.keyPem)),
    }[who];
    const { code, out } = await program('nbdinfo', target ?? '');
    expect(code).not.toBe(0);
    expect(out).not.toContain('disk0');
    // The server has taken no harm, and the fault is not the network's.
    await must('nbdinfo', uri(good));
  },
);

test("a volume client's certificate opens no session, whatever its name", async () => {
  const agent = await world.enrollAgent('web-2');
  for (const name of ['backup1', agent.machine]) {
    const { keyPem, certificatePem } = await world.ca.issueVolumeClient(name, HOUR_MS);
    const { closed } = await refusalOf({ ...agent, keyPem, certificatePem });
    expect([closed.code, closed.reason]).toEqual([
      CLOSE.badCertificate.code,
      expect.stringMatching(/names no machine/),
    ]);
  }
  expect(world.sessions).toEqual([]);
});
