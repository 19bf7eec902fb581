/** Several ways to one disk: found, shown, never protected twice. No machine of this project has a device mapper: multipath stands in a /sys of the test. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { inspectDevice } from '../../agent/disks/inspect.js';
import { leadToSameBytes } from '../../agent/disks/identity.js';
import { wholeDisks } from '../../agent/disks/locate.js';
import { looseText, pathsOf, waysTo } from '../../agent/disks/multipath.js';
import { PathsWatch } from '../../agent/disks/paths-watch.js';
import { Sysfs, type BlockDevice } from '../../agent/disks/sysfs.js';
import { statusText } from '../../agent/status-view.js';
import type { AgentSnapshot } from '../../agent/status.js';
import type { Clock } from '../../shared/clock.js';
import { MIB } from '../../shared/units.js';
import { isRoot, LoopDisks } from '../quiesce/loop-disks.js';
import { FakeSysfs } from './fake-sysfs.js';

const SECTORS = 2 ** 21;
const WWID = { 'device/wwid': 'naa.600508b400105e21' };

describe('multipath, simulated', () => {
  let fake: FakeSysfs;
  beforeEach(() => (fake = new FakeSysfs()));
  afterEach(() => fake.remove());

  const device = (name: string): BlockDevice => {
    const found = fake.sysfs.device(name);
    if (found === null) throw new Error(`no ${name}`);
    return found;
  };
  const paths = (name: string): ReturnType<typeof pathsOf> => pathsOf(device(name), wholeDisks(fake.sysfs));
  const ways = (name: string): string[] => waysTo(device(name), wholeDisks(fake.sysfs)).map((way) => way.name);

  it('tells paths that are joined from paths that are not', () => {
    fake.disk('sda', SECTORS, 'pci0/1', WWID);
    fake.disk('sdx', SECTORS, 'pci0/9', { 'device/wwid': 'naa.600508b400105e99' });
    expect(paths('sda')).toEqual({ joined: [], loose: [] });
    expect(ways('sda')).toEqual(['sda']);
    fake.disk('sdb', SECTORS, 'pci0/2', WWID);
    expect(paths('sda')).toEqual({ joined: [], loose: ['sdb'] });
    expect(ways('sda')).toEqual(['sda', 'sdb']);
    fake.disk('dm-0', SECTORS, 'virtual/block', { 'dm/uuid': 'mpath-3600508b400105e21', 'dm/name': 'mpatha' });
    fake.stack('sda', 'dm-0');
    fake.stack('sdb', 'dm-0');
    expect(paths('dm-0')).toEqual({ joined: ['sda', 'sdb'], loose: [] });
    for (const name of ['sda', 'sdb', 'dm-0']) expect(ways(name)).toEqual(['dm-0', 'sda', 'sdb']);
    // A third that multipath has not taken (yet).
    fake.disk('sdc', SECTORS, 'pci0/3', WWID);
    expect(paths('dm-0')).toEqual({ joined: ['sda', 'sdb'], loose: ['sdc'] });
    expect(ways('sda')).toEqual(['dm-0', 'sda', 'sdb', 'sdc']);
    expect(ways('sdx')).toEqual(['sdx']);
  });

  it('takes no hidden path of an NVMe disk for a second one: the kernel joins them by itself', () => {
    const wwid = 'eui.0025385b71b0b1a2';
    fake.disk('nvme0n1', SECTORS, 'pci0/1', { wwid, hidden: '0' });
    fake.disk('nvme0c0n1', SECTORS, 'pci0/1', { wwid, hidden: '1' });
    fake.disk('nvme0c1n1', SECTORS, 'pci0/2', { wwid, hidden: '1' });
    expect(paths('nvme0n1')).toEqual({ joined: [], loose: [] });
    expect(wholeDisks(fake.sysfs).map(({ name }) => name)).toEqual(['nvme0n1']);
  });

  it('looks well at devices only when one came, went or changed its size, or after a while', () => {
    let nowMs = 0;
    const clock = { monotonicMs: () => nowMs } as Clock;
    const watch = new PathsWatch(fake.sysfs, clock);
    fake.disk('sda', SECTORS, 'pci0/1', WWID);
    const lookAt = (ms: number): string[] | null => {
      nowMs = ms;
      return watch.look()?.map(({ name }) => name) ?? null;
    };
    expect(lookAt(0)).toEqual(['sda']);
    fake.disk('sdb', SECTORS, 'pci0/2', WWID);
    expect(lookAt(1_000)).toBeNull();
    expect(lookAt(2_000)).toEqual(['sda', 'sdb']);
    expect(lookAt(4_000)).toBeNull();
    fake.disk('loop0', 0);
    expect(lookAt(6_000)).toEqual(['sda', 'sdb']);
    expect(lookAt(8_000)).toBeNull();
    expect(lookAt(36_000)).toEqual(['sda', 'sdb']);
  });
});

it('says it in words', () => {
  expect(looseText('/dev/sda', ['sdb'])).toMatch(/^sdb leads to the same bytes as \/dev\/sda and nothing joins them/);
  expect(looseText('/dev/sda', ['sdb', 'sdc'])).toMatch(/^sdb, sdc lead to/);
  const disk = {
    device: '/dev/dm-0',
    sizeBytes: MIB,
    state: 'Protected',
    reason: '',
    tracker: 'ebpf',
    trackerReason: '',
  };
  const rest = { paths: ['sda', 'sdb'], dataAtRisk: { seconds: 0, bytes: 0 }, progress: null, lastSweep: null };
  const points = { schedule: null, lastPoint: null, lastFailure: '', alerts: [] };
  const text = statusText({
    ...{
      machine: { name: 'm' },
      state: 'Protected',
      receiver: { connected: true, refused: null },
      lastPoint: null,
      restore: null,
    },
    ...{ finalCut: null, lastFallback: null, applicationPoints: points },
    load: { limits: [], ioPriority: 'normal', late: null },
    disks: [{ ...disk, ...rest }],
  } as unknown as AgentSnapshot);
  expect(text).toMatch(/paths: +sda, sdb, joined by multipath/);
});

describe.skipIf(!isRoot)('two loop devices on one file: two paths that nothing joins', () => {
  let disks: LoopDisks;
  beforeEach(() => (disks = new LoopDisks()));
  afterEach(() => disks.cleanUp());

  const inspect = (path: string): string =>
    inspectDevice(path, {
      sysfs: new Sysfs(),
      protectedDisks: [],
      kept: [],
      newUuid: () => crypto.randomUUID(),
    }).id;
  const deviceOf = (path: string): BlockDevice => {
    const found = new Sysfs().device(path.replace('/dev/', ''));
    if (found === null) throw new Error(`no ${path}`);
    return found;
  };

  it('are refused, unless only one can be written to, or they lie beside each other', () => {
    const file = disks.image(4 * MIB);
    const first = disks.attach(file, '--sizelimit', String(2 * MIB));
    const reader = disks.attach(file, '--read-only');
    const beside = disks.attach(file, '--offset', String(2 * MIB));
    expect(leadToSameBytes(deviceOf(first), deviceOf(reader))).toBe(false);
    inspect(first);
    inspect(beside);
    const second = disks.attach(file, '--offset', String(MIB), '--sizelimit', String(MIB));
    expect(leadToSameBytes(deviceOf(first), deviceOf(second))).toBe(true);
    expect(() => inspect(first)).toThrow(/are the same bytes of .*: what is written to one is not seen at the other/);
    expect(() => inspect(second)).toThrow(/are the same bytes of/);
    inspect(beside);
  });
});
