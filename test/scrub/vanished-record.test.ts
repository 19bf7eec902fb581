/** Records that are removed while a scrub reads them: pins and boundaries may go at any time, all others never. */
import { expect, it } from 'vitest';
import { machinePrefix } from '../../receiver/catalog/names.js';
import { sealJson } from '../../receiver/catalog/sealed-json.js';
import { checkRecords } from '../../receiver/upkeep/scrub-records.js';
import { asMachineId } from '../../shared/units.js';
import { MemoryStore } from '../helpers/memory-store.js';

const MACHINE = asMachineId('11111111-2222-4333-8444-555555555555');

/** What is said of an object that is gone when it is read, though it was listed. */
async function findingsFor(short: string): Promise<readonly string[]> {
  const store = new MemoryStore();
  const name = `${machinePrefix(MACHINE)}${short}`;
  await store.createIfAbsent(name, sealJson({ version: 1, number: 1 }));
  const get = store.get.bind(store);
  store.get = async (asked, maxBytes) => (asked === name ? null : get(asked, maxBytes));
  const { findings } = await checkRecords(store, MACHINE, [], () => Promise.resolve());
  return findings.map(({ object }) => object.slice(machinePrefix(MACHINE).length));
}

it('a pin that is removed meanwhile is no damage', async () => {
  expect(await findingsFor('pins/40d0bae5-c808-4e8d-98a6-3c6e3ad17719-000000000001')).toEqual([]);
  expect(await findingsFor('boundary/000000000001')).toEqual([]);
});

it('a record that is kept for ever is, when it is gone', async () => {
  expect(await findingsFor('recovery/000000000001')).toEqual(['recovery/000000000001']);
});
