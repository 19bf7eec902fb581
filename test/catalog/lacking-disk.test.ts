/** A point that was made without one of the machine's disks: nobody gets it for the whole machine without having said so. */
import { beforeEach, describe, expect, it } from 'vitest';
import { parsePointSelector } from '../../receiver/catalog/point-selector.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { assignTargets } from '../../receiver/cli/restore.js';
import { lackingDisks } from '../../receiver/catalog/whole-machine.js';
import { AfterimageError } from '../../shared/errors.js';
import { asDiskId, MIB } from '../../shared/units.js';
import { MACHINE } from '../helpers/layers.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { World, type TestDisk } from '../upkeep/world.js';

const write = [{ first: 1, values: [7] }];

describe('a machine of two disks, of which one is away', () => {
  let world: World;
  let system: TestDisk;
  let data: TestDisk;

  beforeEach(async () => {
    world = new World(new MemoryStore());
    await world.takeOver();
    [system, data] = [world.addDisk('system', MIB, 4096), world.addDisk('data', MIB, 4096)];
    await both();
  });

  const both = (): Promise<number> =>
    world.point(
      new Map([
        [system, write],
        [data, write],
      ]),
    );
  const withoutData = (): Promise<number> => world.point(new Map([[system, write]]), { without: [data.id] });
  const open = (): Promise<MachineReader> => MachineReader.open(world.store, MACHINE);
  const whole = async (word: string, without: readonly string[] = []): Promise<number> =>
    (await (await open()).findWhole(parsePointSelector(word), without)).number;
  const refusal = async (word: string, without: readonly string[] = []): Promise<AfterimageError> => {
    const error = await whole(word, without).catch((e: unknown) => e);
    if (error instanceof AfterimageError) return error;
    throw new Error(`not refused: ${String(error)}`);
  };

  it('whoever asks for the latest, or for one of a time, is told what is missing and what has it all', async () => {
    expect(await whole('latest')).toBe(1);
    await both();
    await withoutData();
    await withoutData();
    for (const word of ['latest', 'latest-processed', 'latest-crash-consistent', '2100-01-01']) {
      const { message, hint, kind, exitCode, code } = await refusal(word);
      expect(message).toMatch(/^point 4 lacks disk \/dev\/data \(data\); the newest point with all disks is 2/);
      expect(hint).toMatch(/by its number \(2 for that one, 4 for this one\).*--without-disk data\.$/);
      expect({ kind, exitCode, code }).toEqual({ kind: 'usage', exitCode: 2, code: 'point-lacks-disk' });
    }
  });

  it('by its number, or without that disk, it is taken', async () => {
    await withoutData();
    expect(await whole('2')).toBe(2);
    expect(await whole('latest', ['data'])).toBe(2);
    expect(await whole('latest', ['/dev/data'])).toBe(2);
    // Another disk than the one that is missing, and one that nobody knows.
    expect((await refusal('latest', ['system'])).message).toMatch(/lacks disk \/dev\/data/);
    expect((await refusal('latest', ['dota'])).message).toBe('the machine has no disk dota');
    // What may be missing and is there is no fault.
    await both();
    expect(await whole('latest', ['data'])).toBe(3);
  });

  it('no older point has it all: said', async () => {
    const late = world.addDisk('late', MIB, 4096);
    await world.point(
      new Map([
        [system, write],
        [late, write],
      ]),
      { without: [data.id] },
    );
    await world.point(new Map([[system, write]]), { without: [data.id, late.id] });
    const { message, hint } = await refusal('latest');
    expect(message).toMatch(/point 3 lacks disks .*\(data\), .*\(late\); no older point has all disks/);
    expect(hint).toMatch(/3 for this one.*--without-disk data --without-disk late/);
  });

  it('a disk that was given up is not missing, nor is one that no point had yet', async () => {
    await withoutData();
    await world.point(new Map([[system, write]]));
    const view = await open();
    expect((await view.findWhole(parsePointSelector('latest'), [])).number).toBe(3);
    expect(view.concerns).toEqual([]);
    expect(lackingDisks({ disks: [] }, { without: [data.id] })).toEqual([]);
  });

  it('a disk that no point has yet: who takes the machine is told', async () => {
    await world.owned.commit(({ disks, ...content }) =>
      Promise.resolve({
        ...content,
        disks: [
          ...disks,
          ...disks.slice(0, 1).map((entry) => ({
            ...entry,
            id: asDiskId('late'),
            device: '/dev/late',
            lastPoint: 0,
            bases: null,
            staged: null,
          })),
        ],
      }),
    );
    const view = await open();
    expect((await view.findWhole(parsePointSelector('latest'), [])).number).toBe(1);
    expect(view.concerns).toEqual([
      expect.stringMatching(/^no point has disk \/dev\/late \(late\) yet: the first copy/),
    ]);
  });

  it('whoever looks into it, or restores a disk of it, is told and served', async () => {
    await withoutData();
    const view = await open();
    const point = await view.findPoint(parsePointSelector('latest'));
    expect(point.number).toBe(2);
    expect(view.concerns).toEqual([expect.stringContaining('point 2 lacks disk /dev/data (data), which point 1 has')]);
    const lacking = lackingDisks(view.manifest, point);
    const targets = (...to: string[]): string[] =>
      [...assignTargets(point.disks, { to }, lacking)].map(([disk, path]) => `${disk.disk} ${path}`);
    expect(targets('system=/dev/sdb')).toEqual(['system /dev/sdb']);
    expect([...assignTargets(point.disks, { to: ['/dev/sdb'], disk: 'system' }, lacking).values()]).toEqual([
      '/dev/sdb',
    ]);
    // The only disk that it holds is not the machine.
    expect(() => targets('/dev/sdb')).toThrow(/does not say which disk, and the point lacks disk \/dev\/data \(data\)/);
    expect(() => targets('data=/dev/sdb')).toThrow(/the point lacks disk data/);
  });
});
