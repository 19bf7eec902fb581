/**
 * A cut that was reached and does not count (the freeze did not hold, another machine of the group failed, something wrote past the filesystems while all
 * were frozen): what was written beside it is in the weaker point that follows, and never lost; and that point is none of the group.
 */
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import type { Quiesce } from '../../agent/cycle/cut.js';
import type { AskedPoint, GroupPart } from '../../agent/cycle/machine-cycle.js';
import { alignedBuffer } from '../../shared/native/libc.js';
import { asMachineId, MIB } from '../../shared/units.js';
import type { GroupRecord } from '../../shared/wire/group-record.js';
import { canRunLab, WHY_NO_LAB } from '../e2e/lab.js';
import { BLOCK_BYTES } from '../e2e/loop-disk.js';
import { MiniMachine, wrapTracker } from '../e2e/mini-machine.js';

const RECORD: GroupRecord = {
  point: '11111111-1111-4111-8111-111111111111',
  group: '22222222-2222-4222-8222-222222222222',
  name: 'shop',
  members: ['aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb'].map(asMachineId),
  ...{ cutFromMs: 1, cutToMs: 2, skewMs: 1, frozenMs: 1 },
};

describe.skipIf(!canRunLab)(`a cut that does not count (${WHY_NO_LAB})`, () => {
  let machine: MiniMachine | null = null;
  afterEach(async () => {
    await machine?.cleanUp();
    machine = null;
  });

  /** Writes one block past the page cache. */
  const write = (block: number, byte: number): void => {
    const buffer = alignedBuffer(BLOCK_BYTES);
    buffer.fill(byte);
    const fd = openSync(machine?.disks[0]?.device ?? '', constants.O_WRONLY | constants.O_DIRECT);
    writeSync(fd, buffer, 0, BLOCK_BYTES, block * BLOCK_BYTES);
    closeSync(fd);
  };

  interface Case {
    readonly held: boolean;
    /** Where block 9, unless another is named, is written by something that no freeze stops. */
    readonly writes: 'at the flip that proves the cut' | 'mayCut' | 'mayThaw' | null;
    /** What another machine has to do with it; undefined: there is none. */
    readonly others?: 'cut' | 'fail';
    readonly block?: number;
    readonly weaker: string;
  }

  const cases: Record<string, Case> = {
    'the freeze did not hold': {
      ...{ held: false, writes: 'at the flip that proves the cut', weaker: 'thawed-by-other' },
    },
    'another machine failed after the cut': { held: true, writes: 'mayThaw', others: 'fail', weaker: 'db is gone' },
    'something wrote while the others were being frozen': {
      ...{ held: true, writes: 'mayCut', others: 'cut', weaker: 'was written while its filesystems were frozen' },
    },
    'something wrote while it was cut': {
      ...{ held: true, writes: 'at the flip that proves the cut', others: 'cut' },
      weaker: 'was written while its filesystems were frozen',
    },
    'something wrote while the others cut': {
      ...{ held: true, writes: 'mayThaw', others: 'cut', weaker: 'was written while its filesystems were frozen' },
    },
    'what was to be cut was written again': {
      ...{ held: true, writes: 'mayCut', others: 'cut', block: 5 },
      weaker: 'was written while its filesystems were frozen',
    },
    'nothing went wrong': { held: true, writes: null, others: 'cut', weaker: '' },
  };

  it.each(Object.entries(cases))('%s: what was written is in the point that follows', async (_, of) => {
    let takes: number | null = null;
    const opened = (machine = await MiniMachine.open({
      disks: [16 * MIB],
      wrap: (tracker) =>
        wrapTracker(tracker, {
          take: () => {
            // The second take of the work proves the cut: a block that is not part of it is written before.
            if (takes !== null && ++takes === 2 && of.writes === 'at the flip that proves the cut') write(9, 0x99);
            return tracker.take();
          },
        }),
    }));
    const use: Quiesce = {
      presync: async () => undefined,
      withFrozen: async (beforeFreeze, work) => {
        await beforeFreeze();
        write(5, 0x55);
        takes = 0;
        await work(new AbortController().signal);
        takes = null;
        const reason = of.held ? '' : 'thawed-by-other: another program thawed a filesystem';
        return { held: of.held, freezeMs: 1, reason, level: 'filesystem', mayFreeze: false };
      },
    };
    const failures: string[] = [];
    const step = (name: 'mayCut' | 'mayThaw') => async (): Promise<string | null> => {
      if (of.writes === name) write(of.block ?? 9, 0x99);
      return name === 'mayThaw' && of.others === 'fail' ? 'db is gone' : null;
    };
    const gate: GroupPart['gate'] = {
      mayPrepare: async () => null,
      mayFreeze: async () => null,
      mayCut: step('mayCut'),
      mayThaw: step('mayThaw'),
      failed: (reason) => void failures.push(reason),
      record: RECORD,
      whyOver: null,
    };
    const asked: AskedPoint = {
      label: 'x',
      levels: [{ level: 'filesystem', use }],
      record: async () => null,
      ...(of.others === undefined ? {} : { group: { gate } }),
    };
    write(5, 0x11);
    const result = await opened.cycle(asked);
    expect(result?.cut.consistency).toBe(of.weaker === '' ? 'filesystem' : 'crash');
    expect(result?.cut.weaker).toContain(of.weaker);
    expect(result?.group).toEqual(of.weaker === '' ? RECORD : null);
    if (of.others !== undefined) expect(failures).toHaveLength(of.weaker === '' ? 0 : 1);
    expect(opened.differences()).toEqual([]);
    expect(opened.counts.doubts).toEqual([]);
  });
});
