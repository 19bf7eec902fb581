import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Gauge, Registry } from 'prom-client';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { AfterimageError, usageError } from '../../shared/errors.js';
import {
  startStatusServer,
  type Health,
  type StatusServer,
  type StatusServerOptions,
} from '../../shared/http/status-server.js';
import { silentLogger } from '../../shared/log.js';

let folder: string;
let server: StatusServer | undefined;
let health: Health = { healthy: true, reasons: [] };
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'afterimage-status-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));
afterEach(async () => {
  await server?.stop();
  server = undefined;
});

const registry = new Registry();
new Gauge({ name: 'afterimage_test', help: 'A test.', registers: [registry] }).set(3);

const options = (
  listen: StatusServerOptions['listen'],
  post: StatusServerOptions['post'] = {},
): StatusServerOptions => ({
  listen,
  health: () => health,
  status: () => ({ disks: ['a'] }),
  metrics: () => registry,
  post,
  log: silentLogger(),
});

interface Answer {
  readonly status: number;
  readonly text: string;
}

function ask(socketPath: string, method: string, path: string, body?: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { 'content-type': 'application/json' };
    const sent = request({ socketPath, method, path, headers }, (response) => {
      let text = '';
      response.on('data', (bytes) => (text += String(bytes)));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
    });
    sent.on('error', reject);
    sent.end(body);
  });
}

test('health, status and metrics on loopback', async () => {
  server = await startStatusServer(options({ host: '127.0.0.1', port: 0 }));
  const url = `http://127.0.0.1:${server.port}`;
  expect((await fetch(`${url}/healthz`)).status).toBe(200);
  health = { healthy: false, reasons: ['disk sda: comparison needed'] };
  const sick = await fetch(`${url}/healthz`);
  expect([sick.status, await sick.json()]).toEqual([503, health]);
  health = { healthy: true, reasons: [] };
  expect(await (await fetch(`${url}/status`)).json()).toEqual({ disks: ['a'] });
  const metrics = await fetch(`${url}/metrics`);
  expect(metrics.headers.get('content-type')).toContain('text/plain');
  expect(await metrics.text()).toContain('afterimage_test 3');
  expect((await fetch(`${url}/other`)).status).toBe(404);
  await expect(startStatusServer(options({ host: '127.0.0.1', port: server.port }))).rejects.toMatchObject({
    code: 'already-running',
  });
});

test('never on the network, and nothing to post without a socket', async () => {
  await expect(startStatusServer(options({ host: '0.0.0.0', port: 0 }))).rejects.toMatchObject({ kind: 'usage' });
  const post = { '/x': () => Promise.resolve({}) };
  await expect(startStatusServer(options({ host: '127.0.0.1', port: 0 }, post))).rejects.toMatchObject({
    kind: 'usage',
  });
});

test('control socket: mode, posts, errors, replacement of a dead one', async () => {
  const path = join(folder, 'control.sock');
  await writeFile(path, 'left by a dead process');
  const post = {
    '/protect': (body: unknown) => Promise.resolve({ got: body }),
    '/bad': () => Promise.reject(usageError('no such disk', 'See `lsblk`.')),
    '/refused': () => Promise.reject(new AfterimageError('busy', { code: 'busy', kind: 'refused' })),
    '/broken': () => Promise.reject(new Error('secret detail')),
    '/nothing': () => Promise.resolve(undefined),
  };
  server = await startStatusServer(options({ socketPath: path }, post));
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect(await ask(path, 'GET', '/status')).toEqual({ status: 200, text: '{"disks":["a"]}' });
  expect(await ask(path, 'POST', '/protect', '{"disk":"sda"}')).toEqual({
    status: 200,
    text: '{"got":{"disk":"sda"}}',
  });
  expect(await ask(path, 'POST', '/nothing')).toEqual({ status: 200, text: '{}' });
  const bad = await ask(path, 'POST', '/bad', '{}');
  expect([bad.status, JSON.parse(bad.text)]).toEqual([
    400,
    { code: 'usage', message: 'no such disk', hint: 'See `lsblk`.', kind: 'usage' },
  ]);
  expect((await ask(path, 'POST', '/refused', '{}')).status).toBe(409);
  expect((await ask(path, 'POST', '/protect', '{nope')).status).toBe(400);
  expect((await ask(path, 'POST', '/protect', JSON.stringify('x'.repeat(70_000)))).status).toBe(413);
  const broken = await ask(path, 'POST', '/broken', '{}');
  expect([broken.status, JSON.parse(broken.text)]).toMatchObject([500, { code: 'internal' }]);
  await expect(startStatusServer(options({ socketPath: path }))).rejects.toMatchObject({ code: 'already-running' });
  await server.stop();
  server = undefined;
  await expect(stat(path)).rejects.toMatchObject({ code: 'ENOENT' });
});
