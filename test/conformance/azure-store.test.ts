/**
 * The adapter for Azure Blob against its emulator: the conformance suite, and what is its own: blocks, credentials, faults.
 */
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openPlace, type OpenStoreOptions } from '../../receiver/store/open.js';
import { parseAzureUrl } from '../../receiver/store/azure/location.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { RequestCounts } from '../../receiver/store/watch.js';
import { STORE_PART_BYTES } from '../../shared/limits-store.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { ACCOUNT, ACCOUNT_KEY, Azurite, missingAzurite } from '../servers/azurite.js';
import { large, namesIn, networkConformance, write } from './network.js';
import { probeByCommand } from './probe-by-command.js';
import { storeConformance } from './store.js';

removeTempFolders();
const missing = missingAzurite();
if (missing !== false) process.stderr.write(`tests of Azure Blob are skipped: ${missing}\n`);

describe('azblob: URLs', () => {
  it('say where a container is and how it is asked', () => {
    expect(parseAzureUrl('azblob://box/a?account=acme1')).toMatchObject({
      container: 'box',
      prefix: 'a/',
      account: 'acme1',
    });
    for (const bad of ['azblob://box?account=A!', 'azblob://box?ca=/x', 'azblob://box?accountKey=x', 'azblob:box']) {
      expect(() => parseAzureUrl(bad)).toThrow();
    }
  });
});

describe.skipIf(missing !== false)('Azure Blob', () => {
  let server: Azurite;
  let places = 0;
  const opened: ObjectStore[] = [];

  beforeAll(async () => {
    process.env['AZURE_STORAGE_KEY'] = ACCOUNT_KEY;
    server = await Azurite.start();
    await server.makeContainer('box');
  }, 60_000);
  afterAll(async () => {
    await Promise.all(opened.map((store) => store.close()));
    await server.stop();
  });

  const urlOf = (prefix: string, more = `&account=${ACCOUNT}`, endpoint = server.endpoint): string =>
    `azblob://box/${prefix}?endpoint=${endpoint}${more}`;
  const open = async (url: string, options: OpenStoreOptions = {}): Promise<ObjectStore> => {
    const store = await openPlace(url, options);
    opened.push(store);
    return store;
  };

  storeConformance('azblob', {
    many: 230,
    fresh: async () => {
      const url = urlOf(`place-${places++}`);
      const options = { pageNames: 100 };
      return { store: await open(url, options), reopen: () => open(url, options) };
    },
  });

  networkConformance({
    endpoint: () => server.endpoint,
    open: (endpoint, prefix, options) => open(urlOf(prefix, `&account=${ACCOUNT}`, `${endpoint}/${ACCOUNT}`), options),
    isPart: (seen) => /comp=block(&|$)/.test(seen.path),
    isCompletion: (seen) => seen.path.includes('comp=blocklist'),
    trusting: (endpoint, ca) =>
      urlOf('tls', `&account=${ACCOUNT}${ca === null ? '' : `&ca=${ca}`}`, `${endpoint}/${ACCOUNT}`),
    nowhere: (endpoint) => `azblob://no-such-box/x?endpoint=${endpoint}/${ACCOUNT}&account=${ACCOUNT}`,
  });

  it('writes what fits into one part by one request, more in blocks that replace nothing', async () => {
    const watch = new RequestCounts();
    const store = await open(urlOf('parts'), { watch });
    expect(await (await write(store, 'small', large.subarray(0, STORE_PART_BYTES))).finish()).toBe('created');
    expect(watch.counts).toEqual({ other: 1, create: 1 });
    const [one, other] = [await write(store, 'layer', large), await write(store, 'layer', large.subarray(4096))];
    expect(await namesIn(store)).toEqual(['small']);
    expect(await one.finish()).toBe('created');
    expect(await other.finish()).toBe('exists');
    expect((await store.get('layer', large.length))?.equals(large)).toBe(true);
    await (await write(store, 'gone', large)).abort();
    expect(await namesIn(store)).toEqual(['layer', 'small']);
  });

  it('takes credentials from a file for its owner alone, and shows none of them', async () => {
    const file = join(await tempFolder('credentials'), 'keys.yaml');
    await writeFile(file, `accountKey: ${Buffer.from('wrong key').toString('base64')}\n`, { mode: 0o644 });
    const url = urlOf('keys', `&account=${ACCOUNT}&credentials=${file}`);
    await expect(openPlace(url)).rejects.toMatchObject({ kind: 'usage' });
    await chmod(file, 0o600);
    const denied = await openPlace(url).catch((error: unknown) => error);
    expect(denied).toMatchObject({ code: 'store-denied', kind: 'io' });
    await writeFile(
      file,
      `sasToken: "sv=2024-11-04&sr=c&sp=rl&se=2000-01-01T00:00:00Z&sig=c2VjcmV0LXNpZ25hdHVyZQ%3D%3D"\n`,
    );
    const expired = await openPlace(url).catch((error: unknown) => error);
    expect(expired).toMatchObject({ code: 'store-denied' });
    expect(inspect(expired, { depth: 10 })).not.toContain('c2VjcmV0');
    await writeFile(file, `connectionString: ${server.connectionString}\n`);
    const store = await open(urlOf('keys', `&credentials=${file}`));
    expect(await store.createIfAbsent('x', Buffer.from('x'))).toBe('created');
    expect(store.url).not.toContain(ACCOUNT_KEY);
  });

  it('is found fit by a probe, which leaves nothing', async () => {
    const { findings, code } = await probeByCommand(urlOf('probed'));
    expect(findings.filter((f) => f.verdict !== 'ok')).toEqual([]);
    expect(findings.map((f) => f.check)).toContain('clock');
    expect(code).toBe(0);
    expect(await namesIn(await open(urlOf('probed')))).toEqual([]);
  });

  it('says so when a lock is wanted and the service gives none', async () => {
    const store = await open(urlOf('lock', `&account=${ACCOUNT}&lock=compliance:2d`));
    await expect(store.createIfAbsent('x', Buffer.from('x'))).rejects.toMatchObject({ code: 'lock-missing' });
  });

  it('loses nothing when the service is killed in the middle of an upload, and shows nothing half', async () => {
    const url = urlOf('killed');
    const store = await open(url);
    const writer = await write(store, 'layer', large.subarray(0, STORE_PART_BYTES + 4096));
    await server.kill();
    const [result] = await Promise.allSettled([
      writer.write([large.subarray(STORE_PART_BYTES + 4096)]).then(() => writer.finish()),
      server.restart(),
    ]);
    // The emulator may have forgotten blocks that it had confirmed; a writer whose blocks are gone must not say that it is done.
    const names = await namesIn(store);
    if (result.status === 'fulfilled') {
      expect(names).toEqual(['layer']);
      expect((await store.get('layer', large.length))?.equals(large)).toBe(true);
    } else {
      expect(names).toEqual([]);
      expect(await (await write(store, 'layer', large)).finish()).toBe('created');
    }
  });
});
