/**
 * What the store is asked shows in the metrics, by kind and outcome.
 */
import { Registry } from 'prom-client';
import { afterAll, expect, it } from 'vitest';
import { StoreMetrics } from '../../receiver/store-metrics.js';
import { openPlace } from '../../receiver/store/open.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';

removeTempFolders();
const metrics = new StoreMetrics();
const registry = new Registry();
metrics.register(registry);
afterAll(() => registry.clear());

it('counts requests, bytes and errors of a store', async () => {
  const store = await openPlace(`file:${await tempFolder('metrics')}`, { watch: metrics });
  await store.createIfAbsent('a', Buffer.alloc(10));
  await store.createIfAbsent('a', Buffer.alloc(10));
  const writer = await store.openWriter('b');
  await writer.write([Buffer.alloc(5)]);
  await writer.finish();
  await store.get('a', 10);
  await store.read('b', 0, 5);
  await expect(store.read('c', 0, 5)).rejects.toThrow();
  await store.deleteMany(['a']);
  const names: string[] = [];
  for await (const { name } of store.list('')) names.push(name);
  expect(names).toEqual(['b']);
  await store.close();
  const text = await registry.metrics();
  const requests = 'afterimage_receiver_store_requests_total';
  for (const line of [
    `${requests}{kind="create",outcome="ok"} 3`,
    `${requests}{kind="get",outcome="ok"} 1`,
    `${requests}{kind="read",outcome="ok"} 1`,
    `${requests}{kind="read",outcome="failed"} 1`,
    `${requests}{kind="delete",outcome="ok"} 1`,
    `${requests}{kind="list",outcome="ok"} 1`,
    'afterimage_receiver_store_bytes_total{direction="written"} 25',
    'afterimage_receiver_store_bytes_total{direction="read"} 15',
    'afterimage_receiver_store_request_seconds_count{kind="create"} 3',
  ]) {
    expect(text.split('\n')).toContain(line);
  }
});
