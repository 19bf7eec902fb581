/** A point that was made without one of the machine's disks is taken, and whoever takes it is told. */
import { expect, it } from 'vitest';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { MIB } from '../../shared/units.js';
import { MACHINE } from '../helpers/layers.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { World } from '../upkeep/world.js';

it('the latest point says which disk it lacks, and up to where that disk goes', async () => {
  const world = new World(new MemoryStore());
  await world.takeOver();
  const [system, data] = [world.addDisk('system', MIB, 4096), world.addDisk('data', MIB, 4096)];
  const write = [{ first: 1, values: [7] }];
  await world.point(
    new Map([
      [system, write],
      [data, write],
    ]),
  );
  const open = (): Promise<MachineReader> => MachineReader.open(world.store, MACHINE);
  const latest = { by: 'latest', levels: ['crash'] } as const;
  const whole = await open();
  expect(await whole.findPoint(latest)).toMatchObject({ number: 1 });
  expect(whole.concerns).toEqual([]);

  await world.point(new Map([[system, write]]));
  const lacking = await open();
  expect(await lacking.findPoint(latest)).toMatchObject({ number: 2 });
  expect(lacking.concerns).toEqual([
    expect.stringContaining('point 2 lacks disk /dev/data (data), which points up to 1'),
  ]);
  // An older one that has it says nothing; neither does one of before the disk was there.
  const older = await open();
  await older.findPoint({ by: 'number', number: 1 });
  expect(older.concerns).toEqual([]);
});
