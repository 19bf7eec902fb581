/**
 * The control socket and its client: routes, errors both ways, and what a careless or hostile program may send.
 */
import { stat, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startControlServer } from '../../receiver/api/control.js';
import { controlClient } from '../../receiver/cli/control-client.js';
import { AfterimageError, type ErrorKind } from '../../shared/errors.js';
import { silentLogger } from '../../shared/log.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { DB, JOB_ID, jobOf, task, viewOf, WEB } from './fake-service.js';
import { startControl, type Control } from './fixture.js';

removeTempFolders();
let control: Control;
beforeEach(async () => {
  control = await startControl();
  control.service.steps = [jobOf('commit', 'Succeeded', [task('Commit', 'Succeeded')])];
});
afterEach(() => control.stop());

const client = (signal = new AbortController().signal) => controlClient(control.socket, signal);

interface Answer {
  readonly status: number;
  readonly body: { code?: string; message?: string; kind?: string; hint?: string | null };
}

function raw(method: string, path: string, body?: string, type = 'application/json'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { 'content-type': type };
    const sent = request({ socketPath: control.socket, method, path, headers }, (response) => {
      let text = '';
      response.on('data', (bytes) => (text += String(bytes)));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) as Answer['body'] }));
    });
    sent.on('error', reject);
    sent.end(body);
  });
}

const operations = `/v1/machines/${WEB}/operations`;

test('all routes, through the client', async () => {
  expect((await stat(control.socket)).mode & 0o777).toBe(0o600);
  expect((await client().list()).map((v) => v.machine.name)).toEqual(['web1', 'db1']);
  expect(await client().view(DB)).toEqual(viewOf(DB, 'db1'));
  const job = await client().begin(WEB, { operation: 'cleanup', notes: 'fine' });
  expect(job).toEqual(control.service.steps[0]);
  expect(control.service.begun).toEqual([{ machine: WEB, request: { operation: 'cleanup', notes: 'fine' } }]);
  expect(await client().job(WEB, JOB_ID)).toEqual(job);
});

test('a begun operation is answered with 202, its defaults filled in', async () => {
  expect((await raw('POST', operations, '{"operation":"test-failover"}')).status).toBe(202);
  expect(control.service.begun[0]?.request).toEqual({ operation: 'test-failover', point: 'latest' });
});

test.each<[ErrorKind, number]>([
  ['usage', 400],
  ['not-found', 404],
  ['refused', 409],
  ['fenced', 409],
  ['unsupported', 422],
  ['io', 500],
  ['corrupt', 500],
  ['internal', 500],
])('an error of kind %s is %d, and the same error at the other end', async (kind, status) => {
  control.service.refusal = new AfterimageError('no, since', { code: 'why-not', kind, hint: 'Do this.' });
  const answer = await raw('POST', operations, '{"operation":"commit"}');
  expect(answer).toEqual({ status, body: { code: 'why-not', message: 'no, since', hint: 'Do this.', kind } });
  const error = await client()
    .begin(WEB, { operation: 'commit' })
    .catch((e: unknown) => e);
  expect(error).toBeInstanceOf(AfterimageError);
  expect(error).toMatchObject({ code: 'why-not', message: 'no, since', hint: 'Do this.', kind });
  expect((error as AfterimageError).exitCode).toBe(kind === 'usage' ? 2 : 1);
});

test('a bug of the receiver is an internal error, not ours', async () => {
  control.service.refusal = new TypeError('x is undefined');
  expect(await raw('POST', operations, '{"operation":"commit"}')).toMatchObject({
    status: 500,
    body: { code: 'internal', kind: 'internal' },
  });
});

const hostile: [name: string, status: number, message: RegExp, method: string, path: string, body?: string][] = [
  ['an unknown operation', 400, /operation/, 'POST', operations, '{"operation":"explode"}'],
  ['an unknown field', 400, /frob: unknown field/, 'POST', operations, '{"operation":"commit","frob":1}'],
  ['a wrong type', 400, /shutdown: /, 'POST', operations, '{"operation":"failover","shutdown":"yes"}'],
  [
    'a wrong type further in',
    400,
    /bootCheck\.timeoutMs: /,
    'POST',
    operations,
    '{"operation":"failover","bootCheck":{"type":"serial","text":"x","timeoutMs":-1}}',
  ],
  ['a missing field', 400, /point: /, 'POST', operations, '{"operation":"change-point"}'],
  ['no object', 400, /body: /, 'POST', operations, '[1,2]'],
  ['no JSON', 400, /JSON/, 'POST', operations, '{nope'],
  ['a poisoned prototype', 400, /not valid JSON/, 'POST', operations, '{"operation":"commit","__proto__":{"a":1}}'],
  [
    'a huge body',
    413,
    /large/,
    'POST',
    operations,
    JSON.stringify({ operation: 'cleanup', notes: 'x'.repeat(70_000) }),
  ],
  [
    'too long a note',
    400,
    /notes: /,
    'POST',
    operations,
    JSON.stringify({ operation: 'cleanup', notes: 'x'.repeat(3000) }),
  ],
  ['no body', 400, /body: /, 'POST', operations],
  ['a name instead of an id', 400, /"web1" is not the id of a machine/, 'GET', '/v1/machines/web1'],
  ['a path in an id', 400, /not the id of a machine/, 'GET', '/v1/machines/..%2f..%2fetc'],
  ['a wrong job id', 400, /"1" is not the id of a job/, 'GET', `/v1/machines/${WEB}/jobs/1`],
  ['an unknown machine', 404, /no machine/, 'GET', `/v1/machines/${JOB_ID}`],
  ['an unknown job', 404, /no job/, 'GET', `/v1/machines/${WEB}/jobs/${DB}`],
  ['an unknown route', 404, /not found/i, 'GET', '/v2/everything'],
  ['a wrong method', 404, /not found/i, 'DELETE', `/v1/machines/${WEB}`],
];
test.each(hostile)('%s: %d', async (_name, status, message, method, path, body) => {
  const answer = await raw(method, path, body);
  expect(answer.status).toBe(status);
  expect(answer.body.message).toMatch(message);
  expect(control.service.begun).toEqual([]);
});

test('a form is not taken for JSON', async () => {
  expect((await raw('POST', operations, 'operation=commit', 'application/x-www-form-urlencoded')).status).toBe(415);
});

test('a living socket is respected, a dead one replaced', async () => {
  const again = { socketPath: control.socket, service: control.service, log: silentLogger() };
  await expect(startControlServer(again)).rejects.toMatchObject({ code: 'already-running' });
  expect((await client().list()).length).toBe(2);
  const dead = join(await tempFolder('dead'), 'c.sock');
  await writeFile(dead, '');
  const server = await startControlServer({ ...again, socketPath: dead });
  expect((await controlClient(dead, new AbortController().signal).list()).length).toBe(2);
  await server.stop();
  await expect(stat(dead)).rejects.toMatchObject({ code: 'ENOENT' });
});

test('no receiver: which socket, and how to start it', async () => {
  await control.stop();
  await expect(client().list()).rejects.toMatchObject({
    code: 'receiver-not-running',
    message: expect.stringContaining(control.socket) as unknown,
    hint: expect.stringMatching(/systemctl start afterimage-receiver.*--socket/) as unknown,
  });
  control = await startControl();
});

test('something else on the socket', async () => {
  const path = join(await tempFolder('other'), 'o.sock');
  const server = createServer((socket) => socket.end('HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\noops'));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  await expect(controlClient(path, new AbortController().signal).list()).rejects.toMatchObject({
    code: 'control-answer',
    message: expect.stringContaining(path) as unknown,
  });
  server.close();
});

test('Ctrl-C while the receiver thinks', async () => {
  const stop = new AbortController();
  control.service.begin = () => new Promise(() => undefined);
  const begun = client(stop.signal).begin(WEB, { operation: 'commit' });
  setTimeout(() => stop.abort(), 50);
  await expect(begun).rejects.toMatchObject({ kind: 'cancelled', code: 'cancelled' });
});
