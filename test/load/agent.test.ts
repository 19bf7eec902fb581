/**
 * Limits of load as a running agent keeps them, seen from outside: the kernel's counts of what was read and of processor time, the priority of its
 * threads, and the points of other disks meanwhile.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { CLASS_IDLE, classOf, priorityOf } from '../../agent/load/io-priority.js';
import type { AgentSnapshot } from '../../agent/status.js';
import { MIB, SECTOR_BYTES } from '../../shared/units.js';
import { canRunLab, Lab, sleep, WHY_NO_LAB } from '../e2e/lab.js';
import type { LoopDisk } from '../e2e/loop-disk.js';
import { fillRandomly } from '../e2e/scribbler.js';

const MB = 1_000_000;

/** Bytes that were read from a device since it is there, as the kernel counts them. */
const bytesRead = ({ sysName }: LoopDisk): number =>
  Number(readFileSync(`/sys/block/${sysName}/stat`, 'utf8').trim().split(/\s+/)[2]) * SECTOR_BYTES;

const TICKS_PER_SECOND = 100;
/** Processor time of a process and all its threads, in seconds. */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

const classesOf = (pid: number): number[] =>
  readdirSync(`/proc/${pid}/task`).map((thread) => classOf(priorityOf(Number(thread))));

const isHolding = (s: AgentSnapshot, name: string): boolean =>
  s.load.limits.some((l) => l.name === name && l.isHolding);

describe.skipIf(!canRunLab)(`load of the agent (${WHY_NO_LAB})`, () => {
  let lab: Lab | undefined;
  afterEach(async () => {
    await lab?.cleanUp();
    lab = undefined;
  }, 60_000);

  async function withLimits(disks: readonly number[], keys: Readonly<Record<string, unknown>>): Promise<Lab> {
    const made = await Lab.open({ disks, agent: keys });
    lab = made;
    for (const disk of made.disks) fillRandomly(disk, 0, disk.sizeBytes);
    await made.startReceiver();
    await made.enrol();
    return made;
  }

  it(
    'a first copy reads no faster than the limit, at idle priority, and says what holds it up',
    { timeout: 120_000 },
    async () => {
      const l = await withLimits([40 * MIB], { io: { rate: { limit: '4MB/s' } } });
      const [disk] = l.disks;
      if (disk === undefined) return;
      await l.protect();
      const before = bytesRead(disk);
      const startMs = performance.now();
      const { pid } = await l.startAgent();
      await l.until('held up by its limit', (s) => isHolding(s, 'io-rate'));
      expect(new Set(classesOf(pid))).toEqual(new Set([CLASS_IDLE]));
      expect((await l.status()).load.ioPriority).toBe('idle');
      expect(await l.command('agent', 'status')).toMatch(/limit: +io-rate 3\.8\d? MiB\/s: holds/);
      await l.untilProtected();
      const seconds = (performance.now() - startMs) / 1000;
      const read = bytesRead(disk) - before;
      expect(read).toBeGreaterThanOrEqual(disk.sizeBytes);
      // A burst, the reads of the cut and of its sample come on top.
      expect(read).toBeLessThan(seconds * 4 * MB + 8 * MIB);
      const after = await l.status();
      expect(after.load.ioPriority).toBe('normal');
      expect(classesOf(pid)).not.toContain(CLASS_IDLE);
      expect(after.load.limits.find(({ name }) => name === 'io-rate')?.heldSeconds).toBeGreaterThan(3);
    },
  );

  it('points of other disks come meanwhile', { timeout: 180_000 }, async () => {
    // One segment takes a minute at this rate.
    const l = await withLimits([8 * MIB, 192 * MIB], { io: { rate: { limit: '1MB/s' } } });
    const [first, second] = l.disks;
    if (first === undefined || second === undefined) return;
    await l.protect([first]);
    await l.startAgent();
    await l.untilProtected();
    await l.protect([second]);
    await l.until('the second is copied, held up', (s) => isHolding(s, 'io-rate') && s.disks.length === 2, 60_000);
    const { pointsCommitted } = await l.status();
    for (let i = 1; i <= 3; i++) {
      fillRandomly(first, i * MIB, 4096);
      await l.until('a point of the first disk', (s) => s.pointsCommitted >= pointsCommitted + i, 20_000);
    }
    const { disks } = await l.status();
    expect(disks.map((d) => d.state)).toEqual(['Protected', 'InitialReplicationInProgress']);
  });

  it('processor time stays within its share', { timeout: 120_000 }, async () => {
    const l = await withLimits([512 * MIB], { cpu: { limit: '10%' } });
    const [disk] = l.disks;
    if (disk === undefined) return;
    await l.protect();
    const { pid } = await l.startAgent();
    await l.until('held up by its limit', (s) => isHolding(s, 'cpu'));
    const readBefore = bytesRead(disk);
    const [cpuBefore, startMs] = [cpuSeconds(pid), performance.now()];
    // Long enough for a rate, and until what it owes from its start is paid off; the process is asked for nothing meanwhile.
    const isLongEnough = (): boolean => performance.now() - startMs > 6_000 && bytesRead(disk) > readBefore;
    for (let i = 0; i < 90 && !isLongEnough(); i++) await sleep(1_000);
    const share = (cpuSeconds(pid) - cpuBefore) / ((performance.now() - startMs) / 1000);
    const { disks } = await l.status();
    expect(disks[0]?.state).toBe('InitialReplicationInProgress');
    expect(bytesRead(disk) - readBefore).toBeGreaterThan(0);
    expect(share).toBeLessThan(0.2);
  });

  it('a cycle that its limit makes late says so', { timeout: 120_000 }, async () => {
    const l = await withLimits([96 * MIB], { io: { rate: { limit: '8MB/s' } } });
    const [disk] = l.disks;
    if (disk === undefined) return;
    await l.protect();
    await l.startAgent();
    await l.untilProtected(90_000);
    expect((await l.status()).load.late).toBeNull();
    fillRandomly(disk, 0, 48 * MIB);
    const { load } = await l.until('late by its limit', (s) => s.load.late !== null, 60_000);
    expect(load.late).toMatch(/limits held it up: io\.rate/);
    expect(l.loudReasons().join('\n')).toMatch(/limits of load make points late: .*io\.rate/);
    await l.until(
      'in time again',
      (s) => {
        fillRandomly(disk, 0, 4096);
        return s.load.late === null;
      },
      60_000,
    );
    const { point } = await l.syncNow();
    await l.restore(point);
    expect(l.differences(0)).toEqual([]);
  });
});
