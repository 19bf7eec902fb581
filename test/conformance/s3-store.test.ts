/**
 * The adapter for S3 against a real server, Ceph's gateway: the conformance suite, and what is its own: parts, locks, lost answers, faults.
 */
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { ListMultipartUploadsCommand, ListObjectVersionsCommand } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DeleteError } from '../../receiver/store/delete-error.js';
import { openPlace, openStore, type OpenStoreOptions } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { RequestCounts } from '../../receiver/store/watch.js';
import { systemClock } from '../../shared/clock.js';
import { STORE_PART_BYTES } from '../../shared/limits-store.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { missingRgw, OWNER, Rgw, WRITER } from '../servers/rgw.js';
import { large, namesIn, networkConformance, SHORT_LIMITS, write } from './network.js';
import { probeByCommand } from './probe-by-command.js';
import { storeConformance } from './store.js';

removeTempFolders();

const missing = missingRgw();
if (missing !== false) process.stderr.write(`tests of S3 are skipped: ${missing}\n`);

describe.skipIf(missing !== false)('S3', () => {
  let server: Rgw;
  let places = 0;
  const opened: ObjectStore[] = [];

  beforeAll(async () => {
    process.env['AWS_ACCESS_KEY_ID'] = OWNER.accessKeyId;
    process.env['AWS_SECRET_ACCESS_KEY'] = OWNER.secretAccessKey;
    server = await Rgw.start();
    await server.makeBucket('plain');
  }, 120_000);
  afterAll(async () => {
    await Promise.all(opened.map((store) => store.close()));
    await server.stop();
  });

  const urlOf = (prefix: string, bucket = 'plain', more = ''): string =>
    `s3://${bucket}/${prefix}?endpoint=${server.endpoint}${more}`;
  const open = async (url: string, options: OpenStoreOptions = {}): Promise<ObjectStore> => {
    const store = await openPlace(url, options);
    opened.push(store);
    return store;
  };

  const uploads = async (bucket: string): Promise<number> =>
    (await server.client.send(new ListMultipartUploadsCommand({ Bucket: bucket }))).Uploads?.length ?? 0;
  storeConformance('s3', {
    many: 230,
    fresh: async () => {
      const url = urlOf(`place-${places++}`);
      const options = { pageNames: 100 };
      return { store: await open(url, options), reopen: () => open(url, options) };
    },
  });

  describe('large objects', () => {
    it('go in parts, one per full part, and leave none behind', async () => {
      const watch = new RequestCounts();
      const store = await open(urlOf('large'), { watch });
      watch.total = 0;
      const writer = await write(store, 'layer', large);
      expect(await store.head('layer')).toBeNull();
      expect(await namesIn(store)).toEqual([]);
      expect(await writer.finish()).toBe('created');
      expect(await store.head('layer')).toEqual({ name: 'layer', sizeBytes: large.length });
      const middle = await store.read('layer', STORE_PART_BYTES - 100, 200);
      expect(middle.equals(large.subarray(STORE_PART_BYTES - 100, STORE_PART_BYTES + 100))).toBe(true);
      expect((await store.get('layer', large.length))?.equals(large)).toBe(true);
      // Beginning, three parts, completion.
      expect(watch.counts.part).toBe(5);
      expect(await uploads('plain')).toBe(0);
    });

    it('of exactly one part, and all smaller ones, are one request', async () => {
      const watch = new RequestCounts();
      const store = await open(urlOf('small'), { watch });
      const before = watch.total;
      const writer = await write(store, 'layer', large.subarray(0, STORE_PART_BYTES));
      expect(await writer.finish()).toBe('created');
      expect(watch.total - before).toBe(1);
      expect(await store.createIfAbsent('manifest', Buffer.from('x'))).toBe('created');
      expect(watch.total - before).toBe(2);
      expect(watch.counts).toEqual({ other: 1, create: 2 });
    });

    it('do not replace what came first, and leave no parts', async () => {
      const store = await open(urlOf('late'));
      const writer = await write(store, 'layer', large);
      await store.createIfAbsent('layer', Buffer.from('early'));
      expect(await writer.finish()).toBe('exists');
      expect((await store.get('layer', 100))?.toString()).toBe('early');
      expect(await uploads('plain')).toBe(0);
    });

    it('leave no parts when they are aborted', async () => {
      const store = await open(urlOf('aborted'));
      const writer = await write(store, 'layer', large);
      await writer.abort();
      expect(await uploads('plain')).toBe(0);
      expect(await namesIn(store)).toEqual([]);
    });

    it('of writers that died are removed at an opening a day later, not before, and not by readers', async () => {
      const store = await open(urlOf('dead'));
      await write(store, 'layer', large);
      // What was written leaves behind the writer's back.
      await expect.poll(() => uploads('plain'), { timeout: 20_000 }).toBe(1);
      const inHours = (hours: number): OpenStoreOptions => ({
        clock: { ...systemClock, nowMs: () => Date.now() + hours * 3_600_000 },
      });
      await open(urlOf('dead'), { ...inHours(23), create: true });
      await open(urlOf('dead'), inHours(25));
      await open(urlOf('other'), { ...inHours(25), create: true });
      expect(await uploads('plain')).toBe(1);
      await open(urlOf('dead'), { ...inHours(25), create: true });
      expect(await uploads('plain')).toBe(0);
    });
  });

  networkConformance({
    endpoint: () => server.endpoint,
    open: (endpoint, prefix, options) => open(`s3://plain/${prefix}?endpoint=${endpoint}`, options),
    isPart: (seen) => seen.path.includes('partNumber=2'),
    isCompletion: (seen) => seen.method === 'POST',
    trusting: (endpoint, ca) => `s3://plain/tls?endpoint=${endpoint}${ca === null ? '' : `&ca=${ca}`}`,
    nowhere: (endpoint) => `s3://no-such-bucket/x?endpoint=${endpoint}`,
  });

  describe('credentials', () => {
    it('come from a file for its owner alone, and never into a message', async () => {
      const file = join(await tempFolder('credentials'), 'keys.yaml');
      await writeFile(file, `accessKeyId: OWNERKEY\nsecretAccessKey: wrong-secret\n`, { mode: 0o644 });
      const url = urlOf('keys', 'plain', `&credentials=${file}`);
      await expect(openPlace(url)).rejects.toMatchObject({
        kind: 'usage',
        message: expect.stringContaining('read by others') as string,
      });
      await chmod(file, 0o600);
      const denied = await openPlace(url)
        .then(
          (store) => store.createIfAbsent('x', Buffer.from('x')),
          (error: unknown) => error,
        )
        .catch((error: unknown) => error);
      expect(denied).toMatchObject({ code: 'store-denied', kind: 'io' });
      expect(inspect(denied, { depth: 10 })).not.toContain('wrong-secret');
      await writeFile(file, `accessKeyId: ${OWNER.accessKeyId}\nsecretAccessKey: ${OWNER.secretAccessKey}\n`);
      expect(await (await open(url)).createIfAbsent('y', Buffer.from('x'))).toBe('created');
    });

    it('that can not delete are enough for a receiver without upkeep', async () => {
      await server.makeBucket('append-only');
      await server.allow('append-only', ['s3:GetObject', 's3:PutObject', 's3:ListBucket', 's3:AbortMultipartUpload']);
      const file = join(await tempFolder('credentials'), 'keys.json');
      await writeFile(file, JSON.stringify(WRITER), { mode: 0o600 });
      const url = urlOf('', 'append-only', `&credentials=${file}`);
      const store = await openStore(url, { create: true });
      opened.push(store);
      expect(await store.createIfAbsent('a/b', Buffer.from('x'))).toBe('created');
      expect(await (await write(store, 'a/layer', large)).finish()).toBe('created');
      expect(await namesIn(store)).toEqual(['a/b', 'a/layer', 'copies/format', 'format']);
      const error = await store.deleteMany(['a/b', 'a/none']).then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
      expect(error).toMatchObject({ code: 'delete-failed' });
      expect((error as DeleteError).kept.map((k) => k.name)).toContain('a/b');
      expect((await store.get('a/b', 10))?.toString()).toBe('x');
    });
  });

  describe('probe', () => {
    it('finds the server fit, and says what credentials are not enough for', async () => {
      const verdicts = async (url: string): Promise<Record<string, string>> => {
        const { findings, code } = await probeByCommand(url);
        expect(code).toBe(0);
        return Object.fromEntries(findings.map((f) => [f.check, f.verdict]));
      };
      const fit = { open: 'ok', create: 'ok', read: 'ok', list: 'ok', race: 'ok', large: 'ok', clock: 'ok' };
      const speeds = { 'write-speed': 'ok', 'read-speed': 'ok' };
      expect(await verdicts(urlOf('probed'))).toEqual({ ...fit, ...speeds, delete: 'ok' });
      expect(await namesIn(await open(urlOf('probed')))).toEqual([]);
      const file = join(await tempFolder('credentials'), 'keys.json');
      await writeFile(file, JSON.stringify(WRITER), { mode: 0o600 });
      const limited = urlOf('probed', 'append-only', `&credentials=${file}`);
      expect(await verdicts(limited)).toEqual({ ...fit, ...speeds, delete: 'warn' });
    });

    it('fails without a server or with wrong credentials', async () => {
      const file = join(await tempFolder('credentials'), 'keys.json');
      await writeFile(file, JSON.stringify({ ...WRITER, secretAccessKey: 'wrong' }), { mode: 0o600 });
      const { findings, code } = await probeByCommand(urlOf('', 'append-only', `&credentials=${file}`));
      expect(code).toBe(1);
      expect(findings).toMatchObject([
        { check: 'open', verdict: 'ok' },
        { check: 'create', verdict: 'fail' },
      ]);
      expect((await probeByCommand(urlOf('', 'not-there'))).code).toBe(2);
    });
  });

  describe('object lock', () => {
    it('keeps what is written from deletion, which is told apart from an error, and lets the rest go', async () => {
      await server.makeBucket('locked', { lock: true });
      const unlocked = await open(urlOf('l', 'locked'));
      await unlocked.createIfAbsent('free', Buffer.from('x'));
      await unlocked.createIfAbsent('free-too', Buffer.from('x'));
      const store = await open(urlOf('l', 'locked', '&lock=compliance:2d'));
      expect(await store.createIfAbsent('kept', Buffer.from('kept'))).toBe('created');
      expect(await (await write(store, 'layer', large)).finish()).toBe('created');
      const error = (await store.deleteMany(['free', 'kept', 'layer', 'none']).then(
        () => undefined,
        (thrown: unknown) => thrown,
      )) as DeleteError;
      expect(error).toBeInstanceOf(DeleteError);
      expect(error).toMatchObject({ code: 'object-locked', kind: 'refused' });
      expect(error.kept.map((k) => [k.name, k.reason])).toEqual([
        ['kept', 'locked'],
        ['layer', 'locked'],
      ]);
      const twoDays = 2 * 24 * 3_600_000;
      for (const { lockedUntilMs } of error.kept)
        expect(Math.abs((lockedUntilMs ?? 0) - Date.now() - twoDays)).toBeLessThan(600_000);
      expect(await namesIn(store)).toEqual(['free-too', 'kept', 'layer']);
      expect((await store.get('kept', 10))?.toString()).toBe('kept');
      // All versions are gone, not hidden.
      const { Versions = [], DeleteMarkers = [] } = await server.client.send(
        new ListObjectVersionsCommand({ Bucket: 'locked' }),
      );
      expect([...Versions, ...DeleteMarkers].map((v) => v.Key)).toEqual(['l/free-too', 'l/kept', 'l/layer']);
    });

    it('is refused where the bucket has none', async () => {
      await expect(openPlace(urlOf('l', 'plain', '&lock=compliance:2d'))).rejects.toMatchObject({ kind: 'usage' });
    });
  });

  describe('faults of the server', () => {
    it('a stalled server is given up after a bounded time, and the store works again with it', async () => {
      const store = await open(urlOf('stalled'), { timing: SHORT_LIMITS });
      await store.createIfAbsent('before', Buffer.from('x'));
      await server.stall();
      const create = store.createIfAbsent('during', Buffer.from('x'));
      await expect(create).rejects.toMatchObject({ code: 'store-unavailable', kind: 'io' });
      await server.resume();
      const patient = await open(urlOf('stalled'));
      // What was given up may have been carried out since.
      expect(['created', 'exists']).toContain(await patient.createIfAbsent('during', Buffer.from('x')));
      expect(await patient.createIfAbsent('during', Buffer.from('y'))).toBe('exists');
      expect((await patient.get('during', 10))?.toString()).toBe('x');
    });

    it(
      'a server killed in the middle of an upload and started again loses nothing, and shows nothing half',
      { timeout: 120_000 },
      async () => {
        const store = await open(urlOf('killed'));
        const writer = await write(store, 'layer', large.subarray(0, STORE_PART_BYTES + 4096));
        await server.kill();
        const [result] = await Promise.all([
          writer.write([large.subarray(STORE_PART_BYTES + 4096)]).then(() => writer.finish()),
          server.restart(),
        ]);
        expect(result).toBe('created');
        expect((await store.get('layer', large.length))?.equals(large)).toBe(true);
        const second = await write(store, 'given-up', large);
        await server.kill();
        const abort = second.abort();
        await server.restart();
        await abort;
        expect(await namesIn(store)).toEqual(['layer']);
      },
    );
  });
});
