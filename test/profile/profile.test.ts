/**
 * `afterimage-agent profile` on real disks: known writes are found, a running agent is not disturbed, nothing is left behind.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readdirSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it, test } from 'vitest';
import { ReadPool } from '../../agent/cycle/read-pool.js';
import { inspectDevice } from '../../agent/disks/inspect.js';
import { Sysfs } from '../../agent/disks/sysfs.js';
import { measure, type MeasureOptions } from '../../agent/profile/measure.js';
import type { Recommendation } from '../../agent/profile/recommend.js';
import type { Profile } from '../../agent/profile/report.js';
import { systemClock } from '../../shared/clock.js';
import { MIB } from '../../shared/units.js';
import { canRunLab, Lab, sleep, WHY_NO_LAB } from '../e2e/lab.js';
import { BUILD, ENTRIES } from '../e2e/program.js';
import { fillRandomly } from '../e2e/scribbler.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';

interface Answer {
  readonly profile: Profile;
  readonly recommendation: Recommendation;
}

removeTempFolders();

/** Calls `write` twice a second until what is awaited is there. */
async function whileWriting<T>(write: () => void, awaited: Promise<T>): Promise<T> {
  let over = false;
  const writing = (async () => {
    while (!over) {
      write();
      await sleep(500);
    }
  })();
  return awaited.finally(async () => {
    over = true;
    await writing;
  });
}

describe.skipIf(!canRunLab)(`profile of disks (${WHY_NO_LAB})`, () => {
  let lab: Lab | undefined;
  afterEach(async () => {
    await lab?.cleanUp();
    lab = undefined;
  }, 60_000);

  const pinsBeside = ({ pinDirectory }: Lab): string[] =>
    readdirSync('/sys/fs/bpf').filter((name) => `/sys/fs/bpf/${name}`.startsWith(`${pinDirectory}-profile-`));

  const profileOf = async (l: Lab, ...args: string[]): Promise<Answer> =>
    JSON.parse(await l.command('agent', 'profile', ...args, '--json')) as Answer;

  it('finds known writes; overwritten ones count once per window', { timeout: 120_000 }, async () => {
    const l = await Lab.open({ disks: [64 * MIB, 8 * MIB] });
    lab = l;
    const [disk, quiet] = l.disks;
    if (disk === undefined || quiet === undefined) return;
    const writes = (): void => fillRandomly(disk, 8 * MIB, MIB);
    const args = [disk.device, quiet.device, '--for', '12s', '--every', '1s'];
    const { profile, recommendation } = await whileWriting(writes, profileOf(l, ...args));
    expect(profile.disks.map((d) => d.method)).toEqual(['ebpf', 'ebpf']);
    const [written, still] = profile.disks;
    expect(written?.hot).toMatchObject({ distinctBytes: MIB, hotBytes: MIB });
    expect(written?.hot.overwrittenShare).toBeGreaterThan(0.5);
    expect(written?.writtenBytes).toBeGreaterThanOrEqual(3 * MIB);
    expect((written?.writtenBytes ?? 0) % MIB).toBe(0);
    // Random bytes.
    expect(written?.compressedShare).toBeGreaterThan(0.95);
    expect(written?.doubts).toEqual([]);
    expect(still).toMatchObject({ writtenBytes: 0, hot: { distinctBytes: 0 }, compressedShare: null });
    const five = profile.windows.find((w) => w.lengthMs === 5_000);
    expect(five).toMatchObject({ windows: 2, bytes: { p50: MIB, peak: MIB } });
    expect(profile.notMeasuredMs).toEqual([60_000, 900_000, 3_600_000]);
    expect(recommendation.interval?.ms).toBe(5_000);
    expect(recommendation.bandwidth?.atPeak).toBeGreaterThan(0.9 * (MIB / 5));
    expect(recommendation.bandwidth?.atPeak).toBeLessThanOrEqual(Math.ceil(MIB / 5));
    expect(pinsBeside(l)).toEqual([]);
    // It has no state of its own.
    expect(existsSync(join(l.folder, 'agent'))).toBe(false);
  });

  it('runs beside an agent whose tracking and points go on', { timeout: 120_000 }, async () => {
    const l = await Lab.open({ disks: [32 * MIB] });
    lab = l;
    await l.setUp();
    const [disk] = l.disks;
    if (disk === undefined) return;
    const before = await l.status();
    const { profile } = await whileWriting(
      () => fillRandomly(disk, 4 * MIB, 64 * 1024),
      profileOf(l, '--for', '6s', '--every', '1s'),
    );
    expect(profile.disks[0]).toMatchObject({ id: l.diskIds[0], method: 'ebpf', hot: { distinctBytes: 64 * 1024 } });
    const after = await l.status();
    expect(after.disks[0]?.series).toBe(before.disks[0]?.series);
    expect(after.pointsCommitted).toBeGreaterThan(before.pointsCommitted);
    const { point } = await l.syncNow();
    await l.restore(point);
    expect(l.differences(0)).toEqual([]);
    expect(l.unexpectedLines()).toEqual([]);
  });

  it(
    'a signal ends it with what it has; pins of one that was killed are removed by the next',
    { timeout: 120_000 },
    async () => {
      const l = await Lab.open({ disks: [16 * MIB] });
      lab = l;
      const [disk] = l.disks;
      if (disk === undefined) return;
      const start = () => {
        const args = ['--config', l.configs.agent, 'profile', disk.device, '--for', '1h', '--every', '1s', '--json'];
        const child = spawn(process.execPath, [join(BUILD, ENTRIES.agent), ...args], {
          stdio: ['ignore', 'pipe', 'inherit'],
        });
        let stdout = '';
        child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
        return { child, closed: once(child, 'close'), text: () => stdout };
      };
      const untilArmed = async (): Promise<void> => {
        for (let i = 0; i < 1200 && pinsBeside(l).length === 0; i++) await sleep(50);
        expect(pinsBeside(l)).toHaveLength(1);
      };
      const killed = start();
      await untilArmed();
      killed.child.kill('SIGKILL');
      await killed.closed;
      expect(pinsBeside(l)).toHaveLength(1);

      const next = start();
      for (let i = 0; i < 1200 && pinsBeside(l).every((name) => !name.endsWith(`-${next.child.pid}`)); i++)
        await sleep(50);
      expect(pinsBeside(l)).toEqual([`${l.pinDirectory.replace('/sys/fs/bpf/', '')}-profile-${next.child.pid}`]);
      // Some samples: it has no other sign of life.
      await sleep(10_000);
      next.child.kill('SIGINT');
      const [code] = (await next.closed) as [number];
      expect(code).toBe(0);
      const { profile } = JSON.parse(next.text()) as Answer;
      expect(profile.isInterrupted).toBe(true);
      expect(profile.samples.length).toBeGreaterThan(0);
      expect(pinsBeside(l)).toEqual([]);
    },
  );

  it('bad input is refused', { timeout: 60_000 }, async () => {
    const l = await Lab.open({ disks: [8 * MIB] });
    lab = l;
    const device = l.disks[0]?.device ?? '';
    for (const [args, message] of [
      [[], /no device is named, and none is protected/],
      [[device, '--for', '10'], /--for 10: expected a duration/],
      [[device, '--every', '10ms'], /--every 10ms: expected a duration of 1\.0 s to/],
      [[device, '--for', '1s', '--every', '5s'], /--for 1s: expected a duration of 5\.0 s to/],
      [[device, '--bandwidth', 'fast'], /--bandwidth fast: expected a rate/],
      [[device, device], /is named twice/],
      [['/dev/nonexistent'], /does not exist/],
    ] as const) {
      const { code, stdout, stderr } = await l.run('agent', 'profile', ...args);
      expect(code, stderr).toBe(2);
      expect(stderr).toMatch(message);
      expect(stdout).toBe('');
    }
  });
});

const optionsFor = (path: string, changes: Partial<MeasureOptions> = {}): MeasureOptions => {
  const sysfs = new Sysfs();
  const context = { sysfs, protectedDisks: [], kept: [], newUuid: () => '00000000-0000-4000-8000-000000000001' };
  return {
    devices: [inspectDevice(path, context)],
    forMs: 3_000,
    everyMs: 1_000,
    sysfs,
    pool: new ReadPool(),
    tracker: null,
    trackerReason: 'not asked for',
    clock: systemClock,
    random: () => 0.5,
    ...changes,
  };
};

test('an image file is read and compared; zeroes are compressible', { timeout: 60_000 }, async () => {
  const path = join(await tempFolder('profile'), 'disk.img');
  writeFileSync(path, Buffer.alloc(4 * MIB, 1));
  const stop = new AbortController();
  let written = 0;
  const onSample = (): void => {
    const fd = openSync(path, 'r+');
    writeSync(fd, Buffer.alloc(8192, 2 + written++), 0, 8192, MIB);
    closeSync(fd);
    if (written === 3) stop.abort();
  };
  const before = readFileSync(path);
  const profile = await measure(optionsFor(path, { forMs: 60_000, onSample }), stop.signal);
  expect(profile.isInterrupted).toBe(true);
  expect(profile.samples.map((s) => s.changedBytes)).toEqual([0, 8192, 8192]);
  expect(profile.disks[0]).toMatchObject({
    method: 'scan',
    methodReason: 'an image file: writes to it pass no block device of their own',
    writtenBytes: 16_384,
    hot: { distinctBytes: 8192, overwrittenShare: 0.5 },
  });
  expect(profile.compressedShare).toBeLessThan(0.1);
  expect(readFileSync(path).subarray(0, MIB)).toEqual(before.subarray(0, MIB));
});

test('ended before the first sample: nothing is made up', async () => {
  const path = join(await tempFolder('profile'), 'disk.img');
  writeFileSync(path, Buffer.alloc(MIB));
  await expect(measure(optionsFor(path), AbortSignal.abort())).rejects.toMatchObject({ code: 'nothing-measured' });
});
