/** A receiver that mends, and one that is new and must find everything. */
import { randomUUID } from 'node:crypto';
import { expect } from 'vitest';
import type { OwnedMachine } from '../../receiver/catalog/owned-machine.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { ensureFormat } from '../../receiver/store/format.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { unpaced } from '../../receiver/upkeep/pace.js';
import { repairMachine } from '../../receiver/upkeep/scrub-repair.js';
import { takeOverForUpkeep } from '../../receiver/upkeep/take-over.js';
import { LayerReader } from '../../receiver/volume/layer-reader.js';
import { planPoint } from '../../receiver/volume/plan-point.js';
import { systemClock, type Clock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import type { MachineId } from '../../shared/units.js';
import { restoreToMemory, wrongBlocks } from '../helpers/memory-target.js';
import type { MemoryStore } from '../helpers/memory-store.js';
import type { FinishedMachine } from './finished-store.js';

/** A fresh receiver with nothing but the bucket. */
export async function mustHaveEverything(
  store: MemoryStore,
  { machine, disk, models }: FinishedMachine,
): Promise<void> {
  await ensureFormat(store, false);
  const view = await MachineReader.open(store, machine);
  const listed: number[] = [];
  for await (const { number } of view.points()) listed.push(number);
  expect(listed).toEqual([...models.keys()]);
  const latest = await view.findPoint({ by: 'latest', levels: ['crash'] });
  expect(latest.number).toBe(Math.max(...models.keys()));
  expect(view.concerns).toEqual([]);
  for (const [number, model] of models) {
    const point = await view.findPoint({ by: 'number', number });
    const at = view.diskOf(point, disk);
    const reader = new LayerReader(store, { machine, disk, blockBytes: at.blockBytes });
    const plan = await planPoint(reader, at, await view.layersFor(disk, number));
    expect(wrongBlocks(await restoreToMemory({ reader, plan, point: number, disk: at }), model)).toEqual([]);
  }
}

/** As the receiver does it after a pass of the scrub. */
export async function mend(store: ObjectStore, machine: MachineId, clock: Clock = systemClock): Promise<void> {
  await mendBy(store, await takeOver(store, machine, clock), clock);
}

export async function takeOver(store: ObjectStore, machine: MachineId, clock = systemClock): Promise<OwnedMachine> {
  return (await takeOverForUpkeep({ store, clock, randomId: randomUUID }, machine, () => Promise.resolve())).owned;
}

export async function mendBy(store: ObjectStore, owned: OwnedMachine, clock = systemClock): Promise<void> {
  const ask = (): Promise<never> => Promise.reject(new Error('nothing is to be asked of an agent'));
  const { signal } = new AbortController();
  await repairMachine({ store, beneath: store, clock, log: silentLogger(), owned, pace: unpaced(clock), signal, ask });
}
