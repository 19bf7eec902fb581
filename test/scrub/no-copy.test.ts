/**
 * Small objects that have no second copy: pins, the boundary, notes of the scrub, manifests before the newest. What becomes of each when it is damaged or gone.
 */
import { beforeEach, expect, it } from 'vitest';
import { isOpen } from '../../receiver/catalog/damage.js';
import { loadDamage, loadScrubNote } from '../../receiver/catalog/damage-io.js';
import {
  boundaryName,
  boundaryPrefix,
  manifestName,
  manifestPrefix,
  pinsPrefix,
  scrubPrefix,
} from '../../receiver/catalog/names.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { sealJson } from '../../receiver/catalog/sealed-json.js';
import { PIN_DAMAGED_MS } from '../../shared/limits-scrub.js';
import { ManualClock } from '../helpers/manual-clock.js';
import { MACHINE } from '../session/ingest-fixture.js';
import { finishedStore, scrub, type FinishedStore } from './finished-store.js';
import { mend, mendBy, mustHaveEverything, takeOver } from './mending.js';

let finished: FinishedStore;

beforeEach(async () => {
  finished = await finishedStore();
});

const namesUnder = (prefix: string): string[] =>
  [...finished.store.objects.keys()].filter((name) => name.startsWith(prefix)).sort();

const open = async () => ((await loadDamage(finished.store, MACHINE))?.items ?? []).filter(isOpen);

async function mustBeWhole(): Promise<void> {
  for (const machine of finished.machines) await mustHaveEverything(finished.store, machine);
}

it('a damaged pin is removed once nobody has renewed it for a day, and stays until then', async () => {
  const { store } = finished;
  const [pin = ''] = namesUnder(pinsPrefix(MACHINE));
  store.objects.set(pin, Buffer.from('rubbish'));
  await scrub(store, MACHINE);
  await mend(store, MACHINE);
  expect(store.objects.has(pin)).toBe(true);
  expect((await open()).map(({ object }) => object)).toEqual([pin]);
  await mend(store, MACHINE, new ManualClock(Date.now() + PIN_DAMAGED_MS + 1));
  expect(store.objects.has(pin)).toBe(false);
  expect(await open()).toEqual([]);
});

it('the boundary is written again where a scrub has seen it', async () => {
  const { store } = finished;
  const { manifest } = await MachineReader.open(store, MACHINE);
  const number = manifest.number - 1;
  const name = boundaryName(MACHINE, number);
  store.objects.set(name, sealJson({ version: 1, number, machine: MACHINE, epoch: 1, writtenAtMs: 1 }));
  for (const manifestObject of namesUnder(manifestPrefix(MACHINE)).slice(0, -1)) store.objects.delete(manifestObject);
  expect((await scrub(store, MACHINE)).findings).toEqual([]);
  store.objects.delete(name);
  expect((await scrub(store, MACHINE)).findings.map(({ object }) => object)).toContain(name);
  await mend(store, MACHINE);
  expect(namesUnder(boundaryPrefix(MACHINE)).at(-1)).toBe(name);
  expect((await scrub(store, MACHINE)).findings).toEqual([]);
  await mustBeWhole();
});

it('a damaged note of the scrub is followed by another, and an older one stays the witness until then', async () => {
  const { store } = finished;
  await scrub(store, MACHINE);
  const [first = '', newest = ''] = namesUnder(scrubPrefix(MACHINE));
  store.objects.set(newest, Buffer.from('rubbish'));
  // Gone with its copy: nothing but the older note tells.
  const [launch = ''] = namesUnder(`machines/${MACHINE}/launch/`).slice(-1);
  for (const name of [launch, launch.replace('/launch/', '/copies/launch/')])
    expect(store.objects.delete(name)).toBe(true);
  const named = (await scrub(store, MACHINE)).findings.map(({ object }) => object);
  expect(named).toContain(newest);
  expect(named).toContain(launch);
  expect(named).not.toContain(first);
  expect((await loadScrubNote(store, MACHINE))?.number).toBe(3);
  await mend(store, MACHINE);
  expect((await open()).map(({ object }) => object)).toEqual([launch]);
  await mustBeWhole();
});

it.each(['damaged', 'removed'])('a newest manifest that is %s is said once more by its owner', async (how) => {
  const { store } = finished;
  const owned = await takeOver(store, MACHINE);
  const before = owned.manifest;
  const name = manifestName(MACHINE, before.number);
  await scrub(store, MACHINE);
  if (how === 'removed') store.objects.delete(name);
  else store.objects.set(name, Buffer.from('rubbish'));
  expect((await scrub(store, MACHINE)).findings).toMatchObject([{ object: name }]);
  await mendBy(store, owned);
  expect(await open()).toEqual([]);
  const { manifest } = await MachineReader.open(store, MACHINE);
  expect(manifest).toMatchObject({ number: before.number + 1, epoch: before.epoch, lastPoint: before.lastPoint });
  await mustBeWhole();
});

it('a manifest before the newest costs nothing, and is no open damage once that was seen', async () => {
  const { store } = finished;
  const [oldest = ''] = namesUnder(manifestPrefix(MACHINE));
  store.objects.set(oldest, Buffer.from('rubbish'));
  expect((await scrub(store, MACHINE)).findings.map(({ object }) => object)).toEqual([oldest]);
  await mend(store, MACHINE);
  expect(await open()).toEqual([]);
  await mustBeWhole();
});
