/**
 * What every adapter of a bucket must do behind a network that loses requests and answers, as tests that can be run against any of them.
 */
import { execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openPlace, type OpenStoreOptions } from '../../receiver/store/open.js';
import type { ObjectStore, ObjectWriter } from '../../receiver/store/store.js';
import { STORE_PART_BYTES } from '../../shared/limits-store.js';
import { MIB } from '../../shared/units.js';
import { tempFolder } from '../helpers/folders.js';
import { randomOf } from '../helpers/random.js';
import { HttpProxy, type Fate, type Seen } from '../servers/http-proxy.js';

export interface Network {
  readonly endpoint: () => string;
  readonly open: (endpoint: string, prefix: string, options: OpenStoreOptions) => Promise<ObjectStore>;
  /** The request for the second part of a large object, and for its completion. */
  readonly isPart: (seen: Seen) => boolean;
  readonly isCompletion: (seen: Seen) => boolean;
  /** URL of the place of the tests at an endpoint, with an authority to trust. */
  readonly trusting: (endpoint: string, ca: string | null) => string;
  /** URL of a bucket that isn't there. */
  readonly nowhere: (endpoint: string) => string;
}

export const SHORT_LIMITS = { timeoutMs: 1_500, retryMs: 1_000, busyRetryMs: 20_000 };

export async function namesIn(store: ObjectStore, prefix = ''): Promise<string[]> {
  const found: string[] = [];
  for await (const { name } of store.list(prefix)) found.push(name);
  return found;
}

function randomBytes(length: number): Buffer {
  const random = randomOf(length);
  const result = Buffer.alloc(length);
  for (let i = 0; i < length; i += 64) result.writeUInt32LE(Math.floor(random() * 2 ** 32), i);
  return result;
}

/** Two full parts and a rest. */
export const large = randomBytes(2 * STORE_PART_BYTES + 12_288);

export async function write(store: ObjectStore, name: string, content: Buffer): Promise<ObjectWriter> {
  const writer = await store.openWriter(name);
  for (let i = 0; i < content.length; i += MIB) await writer.write([content.subarray(i, i + MIB)]);
  return writer;
}

export function networkConformance(network: Network): void {
  describe('behind an unreliable network', () => {
    let proxy: HttpProxy;
    let store: ObjectStore;
    let places = 0;
    beforeAll(async () => {
      proxy = await HttpProxy.open(network.endpoint());
    });
    afterAll(() => proxy.close());
    beforeEach(async () => {
      proxy.reset();
      const options = { timing: { ...SHORT_LIMITS, timeoutMs: 20_000 }, random: () => 0.1 };
      store = await network.open(proxy.endpoint, `net-${places++}`, options);
      proxy.reset();
    });
    /** The first of these meets this; all others pass. */
    const first = (which: (seen: Seen) => boolean, fate: Fate): void => {
      proxy.fate = (seen) => (which(seen) && seen.nth === 0 ? fate : 'pass');
    };
    const creation = (name: string) => (seen: Seen) => seen.method === 'PUT' && seen.path.includes(`/${name}`);

    it('a creation whose answer was lost is recognised as its own', async () => {
      first(creation('own'), 'answer-lost');
      expect(await store.createIfAbsent('own', Buffer.from('mine'))).toBe('created');
      expect(proxy.seen.map((s) => s.method)).toEqual(['PUT', 'PUT', 'HEAD']);
      first(creation('lost'), 'lost');
      expect(await store.createIfAbsent('lost', Buffer.from('mine'))).toBe('created');
    });

    it('... and one that lost against another is not', async () => {
      await store.createIfAbsent('theirs', Buffer.from('theirs'));
      proxy.reset();
      first(creation('theirs'), 'answer-lost');
      expect(await store.createIfAbsent('theirs', Buffer.from('mine'))).toBe('exists');
      expect((await store.get('theirs', 10))?.toString()).toBe('theirs');
      proxy.fate = () => 'twice';
      expect(await store.createIfAbsent('doubled', Buffer.from('mine'))).toBe('created');
    });

    it('a completion whose answer was lost is recognised, too', async () => {
      const writer = await write(store, 'layer', large);
      first(network.isCompletion, 'answer-lost');
      expect(await writer.finish()).toBe('created');
      expect((await store.get('layer', large.length))?.equals(large)).toBe(true);
    });

    it('parts are sent again, and a read goes on where it was cut', async () => {
      let parts = 0;
      proxy.fate = (seen) => (network.isPart(seen) && parts++ === 0 ? 'lost' : 'pass');
      expect(await (await write(store, 'layer', large)).finish()).toBe('created');
      expect(parts).toBeGreaterThan(1);
      for (const read of [
        async () => ((await store.get('layer', large.length)) ?? Buffer.alloc(0)).equals(large),
        async () => (await store.read('layer', 1000, 500_000)).equals(large.subarray(1000, 501_000)),
      ]) {
        proxy.reset();
        first(() => true, 'cut');
        expect(await read()).toBe(true);
        expect(proxy.seen).toHaveLength(2);
      }
    });

    it('a busy server is asked again until it is not', async () => {
      proxy.fate = (seen) => (seen.nth < 6 ? 'busy' : 'pass');
      expect(await store.createIfAbsent('busy', Buffer.from('x'))).toBe('created');
      expect(proxy.seen).toHaveLength(7);
    });

    it('an error without end is told after a bounded time, and what does not help is not tried again', async () => {
      proxy.fate = () => 'lost';
      await expect(store.createIfAbsent('never', Buffer.from('x'))).rejects.toMatchObject({
        code: 'store-unavailable',
        kind: 'io',
      });
      expect(proxy.seen.length).toBeGreaterThan(1);
      proxy.reset();
      await expect(openPlace(network.nowhere(proxy.endpoint))).rejects.toMatchObject({
        code: 'store-missing',
        kind: 'usage',
      });
      expect(proxy.seen).toHaveLength(1);
    });

    it('a server of one’s own authority is trusted when the URL names that, and only then', async () => {
      const folder = await tempFolder('tls');
      const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
      const names = ['-subj', '/CN=test', '-addext', 'subjectAltName=IP:127.0.0.1'];
      const kind = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
      execFileSync('openssl', [...kind, ...names, '-keyout', key, '-out', cert], { stdio: 'ignore' });
      const secure = await HttpProxy.open(network.endpoint(), { key: await readFile(key), cert: await readFile(cert) });
      try {
        const stranger = openPlace(network.trusting(secure.endpoint, null));
        await expect(stranger).rejects.toMatchObject({ code: 'store-certificate' });
        const trusted = await openPlace(network.trusting(secure.endpoint, cert));
        expect(await trusted.createIfAbsent(`tls-${places}`, Buffer.from('x'))).toBe('created');
        await trusted.close();
      } finally {
        await secure.close();
      }
    });
  });
}
