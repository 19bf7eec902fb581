/**
 * Both halves of a reboot on a real disk: when tracking goes on, that no mark is lost; and that it doesn't go on whenever somebody may have written.
 */
import { readFileSync, openSync, writeSync, closeSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { bootId } from '../../agent/open-disk.js';
import { notePath } from '../../agent/reboot/notes-folder.js';
import { closedListPath } from '../../agent/reboot/close.js';
import { rebootReasons } from '../../agent/reboot/outcome.js';
import { MIB } from '../../shared/units.js';
import { canTrack } from '../tracker/support/loop.js';
import { DISK, RebootingMachine } from './machine.js';

const BLOCK_BYTES = 4096;
const HOOK = new URL('../../systemd/afterimage-agent.shutdown', import.meta.url).pathname;
const LIMIT_MS = 120_000;
if (!canTrack) console.warn('reboots of a disk are skipped: needs root and loop devices');

let machine: RebootingMachine;
/** Blocks of the disk's file that differ from an earlier state of it. */
function changed(before: Buffer): number[] {
  const now = readFileSync(machine.loop.file);
  const blocks: number[] = [];
  for (let at = 0; at < now.length; at += BLOCK_BYTES)
    if (now.compare(before, at, at + BLOCK_BYTES, at, at + BLOCK_BYTES) !== 0) blocks.push(at / BLOCK_BYTES);
  return blocks;
}

const writeFiles = (name: string): void =>
  machine.run('dd', 'if=/dev/urandom', `of=${machine.mountPoint}/${name}`, 'bs=64k', 'count=20', 'conv=fsync');

/** A protected disk with a filesystem, all of it in a point, then files that no point holds, unmounted. */
async function ready(fsType: 'ext4' | 'xfs'): Promise<{ series: string; committed: Buffer }> {
  const make = { ext4: ['mkfs.ext4', '-q', '-F'], xfs: ['mkfs.xfs', '-q', '-f'] }[fsType];
  machine.run(make[0] ?? '', ...make.slice(1), machine.loop.device);
  await machine.protect();
  const series = machine.whileArmed((armed) => armed.series);
  machine.inside(() => writeFiles('first'));
  machine.commitAll();
  const committed = readFileSync(machine.loop.file);
  machine.inside(() => writeFiles('second'));
  return { series, committed };
}

describe.skipIf(!canTrack)('a disk over a reboot', () => {
  beforeEach(() => {
    machine = new RebootingMachine(320 * MIB);
  });
  afterEach(() => machine.cleanUp());

  test.each(['ext4', 'xfs'] as const)(
    '%s: clean and untouched, its series goes on with every mark',
    { timeout: LIMIT_MS },
    async (fsType) => {
      const { series, committed } = await ready(fsType);
      expect(await machine.close()).toMatchObject({ state: 'closed', series });
      machine.reboot();
      expect(await machine.arm()).toEqual({ disk: DISK, goesOn: true, reason: '' });
      machine.whileArmed((armed) => {
        expect(armed).toMatchObject({ series, resumed: true });
        // What was written before the reboot and in no point: all of it is known, and not just everything is.
        const missing = changed(committed).filter((block) => !armed.uncommitted.has(block));
        expect(missing).toEqual([]);
        expect(armed.uncommitted.size).toBeLessThan((320 * MIB) / BLOCK_BYTES / 2);
      });
      // And what is written now is marked as ever.
      const after = readFileSync(machine.loop.file);
      machine.inside(() => writeFiles('third'));
      machine.whileArmed((armed, tracker) => {
        const marked = tracker.take().disks.get(DISK)?.marked;
        expect(changed(after).filter((b) => marked?.has(b) !== true && !armed.uncommitted.has(b))).toEqual([]);
      });
      expect((await rebootReasons(machine.runDir, bootId())).size).toBe(0);
    },
  );

  test('a note counts once: a power cut after that boot ends the series', { timeout: LIMIT_MS }, async () => {
    await ready('ext4');
    await machine.close();
    machine.reboot();
    expect((await machine.arm()).goesOn).toBe(true);
    machine.reboot();
    const outcome = await machine.arm();
    expect(outcome).toMatchObject({ goesOn: false, reason: expect.stringMatching(/not shut down cleanly/) as string });
    expect(await rebootReasons(machine.runDir, bootId())).toEqual(new Map([[DISK, outcome.reason]]));
    expect((await rebootReasons(machine.runDir, 'another boot')).size).toBe(0);
    machine.whileArmed((armed) => expect(armed.resumed).toBe(false));
  });

  const poke = (offset: number): void => {
    const fd = openSync(machine.loop.file, 'r+');
    writeSync(fd, Buffer.from('x'), 0, 1, offset);
    closeSync(fd);
  };
  const mountElsewhere = (): void => {
    const device = execFileSync('losetup', ['-f', '--show', machine.loop.file], { encoding: 'utf8' }).trim();
    try {
      machine.run('mount', device, machine.mountPoint);
      machine.run('umount', machine.mountPoint);
    } finally {
      machine.run('losetup', '-d', device);
    }
  };

  test.each<[string, 'ext4' | 'xfs', () => void, RegExp]>([
    ['mounted elsewhere without a change: ext4', 'ext4', mountElsewhere, /another system/],
    ['mounted elsewhere without a change: xfs', 'xfs', mountElsewhere, /another system/],
    ['another table of partitions', 'ext4', () => poke(446), /another system/],
    ['its end was written', 'ext4', () => poke(320 * MIB - 1), /another system/],
  ])('%s', { timeout: LIMIT_MS }, async (_what, fsType, meanwhile, reason) => {
    await ready(fsType);
    expect((await machine.close()).state).toBe('closed');
    machine.reboot(meanwhile);
    expect(await machine.arm()).toMatchObject({ goesOn: false, reason: expect.stringMatching(reason) as string });
    machine.whileArmed((armed) => expect(armed.resumed).toBe(false));
  });

  test('written in the new boot before tracking began', { timeout: LIMIT_MS }, async () => {
    await ready('ext4');
    await machine.close();
    machine.reboot();
    machine.run('dd', 'if=/dev/zero', `of=${machine.loop.device}`, 'bs=4096', 'count=1', 'seek=30000', 'oflag=direct');
    expect(await machine.arm()).toMatchObject({
      goesOn: false,
      reason: expect.stringMatching(/in this boot/) as string,
    });
  });

  test('away for too long; compared by configuration; written after its closing', { timeout: LIMIT_MS }, async () => {
    await ready('ext4');
    await machine.close();
    machine.reboot(undefined, 3_600);
    expect(await machine.arm()).toMatchObject({ goesOn: false, reason: expect.stringMatching(/away for/) as string });

    machine.whileArmed(() => undefined);
    machine.commitAll();
    expect((await machine.close()).state).toBe('closed');
    machine.reboot();
    expect(await machine.arm({ goesOn: false })).toMatchObject({ goesOn: false });

    machine.whileArmed(() => undefined);
    machine.commitAll();
    expect((await machine.close()).state).toBe('closed');
    const list = closedListPath(machine.runDir);
    // Nothing came: the last step of shutdown leaves the note.
    execFileSync('sh', [HOOK, list]);
    expect(readFileSync(notePath(machine.stateDir, DISK), 'utf8')).toContain('"closed"');
    machine.run('dd', 'if=/dev/zero', `of=${machine.loop.device}`, 'bs=4096', 'count=1', 'seek=30000', 'oflag=direct');
    execFileSync('sh', [HOOK, list]);
    machine.reboot();
    expect(await machine.arm()).toMatchObject({
      goesOn: false,
      reason: expect.stringMatching(/not shut down/) as string,
    });
  });

  test('not closed: mounted, of an unknown content, without unbroken tracking', { timeout: LIMIT_MS }, async () => {
    await ready('ext4');
    machine.run('mount', machine.loop.device, machine.mountPoint);
    const mounted = await machine.close();
    machine.run('umount', machine.mountPoint);
    expect(mounted).toMatchObject({ state: 'open', reason: expect.stringMatching(/mounted on/) as string });
    machine.reboot();
    expect(await machine.arm()).toMatchObject({ goesOn: false, reason: expect.stringMatching(/mounted on/) as string });

    // Nothing armed it in this boot.
    const untracked = await machine.close();
    expect(untracked).toMatchObject({ state: 'open', reason: expect.stringMatching(/not tracked/) as string });

    machine.run('wipefs', '-a', machine.loop.device);
    machine.run('dd', 'if=/dev/zero', `of=${machine.loop.device}`, 'bs=1M', 'count=1', 'oflag=direct');
    machine.commitAll();
    expect(await machine.close()).toMatchObject({ state: 'open', reason: expect.stringMatching(/it holds/) as string });
  });
});
