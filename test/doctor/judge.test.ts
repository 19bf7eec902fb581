/** What doctor says of what it has seen: tables over the pure verdicts. */
import { describe, expect, test } from 'vitest';
import { isFine, type Check, type Verdict } from '../../agent/doctor/check.js';
import { clockOf } from '../../agent/doctor/collect/receiver.js';
import { lockdownOf } from '../../agent/doctor/collect/kernel.js';
import { unitOf } from '../../agent/doctor/collect/service.js';
import type {
  DiskFacts,
  EnrolmentFacts,
  Facts,
  KernelFacts,
  RebootFacts,
  ReceiverFacts,
  ServiceFacts,
  UnitFacts,
} from '../../agent/doctor/facts.js';
import { judge } from '../../agent/doctor/judge.js';
import { doctorText } from '../../agent/doctor/text.js';
import { GIB, MIB } from '../../shared/units.js';

const DAY_MS = 24 * 60 * 60 * 1000;
const NOW_MS = Date.UTC(2026, 0, 15);
const ALL_CAPABILITIES = (1n << 41n) - 1n;

const kernel: KernelFacts = {
  release: '6.1.0-18-amd64',
  arch: 'x64',
  hasBtf: true,
  lockdown: 'integrity',
  bpffs: 'mounted',
  pinDirectory: '/sys/fs/bpf/afterimage',
  prefer: 'auto',
  tracking: { mode: 'btf', problem: null },
};
const enrolment: EnrolmentFacts = {
  machine: '0b0b0b0b-0000-4000-8000-000000000001',
  name: 'web1',
  generation: 1,
  receiver: 'dr:7443',
  caFingerprint: 'ab'.repeat(32),
  certificate: { validFromMs: NOW_MS - DAY_MS, validToMs: NOW_MS + 365 * DAY_MS, isOfCa: true, hasKey: true },
};
const receiver: ReceiverFacts = {
  address: 'dr:7443',
  isPrimary: true,
  problem: null,
  certificate: { validFromMs: NOW_MS - DAY_MS, validToMs: NOW_MS + 365 * DAY_MS },
  clock: { offsetMs: 200, uncertaintyMs: 510 },
};
const disk: DiskFacts = {
  id: 'abc',
  path: '/dev/sda',
  sizeBytes: 10 * GIB,
  problem: null,
  untrackedReason: null,
  paths: [],
  isKnownBySlot: false,
  warnings: [],
};
const service: ServiceFacts = {
  unit: { name: 'afterimage-agent.service', fileState: 'enabled', activeState: 'active' },
  running: { state: 'Protected', connected: true, reason: '', refused: null, problem: null },
};
const unit = (name: string, fileState = 'enabled'): UnitFacts => ({ name, fileState, activeState: 'inactive' });
const reboot: RebootFacts = {
  wanted: true,
  units: [unit('afterimage-close.service'), unit('afterimage-arm.service')],
  isStateOnRoot: true,
  stateDir: '/var/lib/afterimage-agent',
};
const well: Facts = {
  nowMs: NOW_MS,
  kernel,
  privileges: { uid: 0, capabilities: ALL_CAPABILITIES, lastCapability: 40 },
  enrolment,
  receivers: [receiver],
  space: { path: '/var/lib/afterimage-agent', freeBytes: 10 * GIB, neededBytes: 20 * MIB },
  disks: [disk],
  service,
  reboot,
};

const gone = { message: 'gone', hint: 'bring it back' };
const withKernel = (change: Partial<KernelFacts>): Facts => ({ ...well, kernel: { ...kernel, ...change } });
const withReceiver = (change: Partial<ReceiverFacts>): Facts => ({ ...well, receivers: [{ ...receiver, ...change }] });
const withDisk = (change: Partial<DiskFacts>): Facts => ({ ...well, disks: [{ ...disk, ...change }] });
const withCertificate = (change: Partial<EnrolmentFacts['certificate']>): Facts => ({
  ...well,
  enrolment: { ...enrolment, certificate: { ...enrolment.certificate, ...change } },
});
const withService = (change: Partial<ServiceFacts>): Facts => ({ ...well, service: { ...service, ...change } });
const running = (change: Partial<NonNullable<ServiceFacts['running']>>): Facts =>
  withService({
    running: { state: 'Protected', connected: true, reason: '', refused: null, problem: null, ...change },
  });
const withUnit = (fileState: string, activeState: string): Facts =>
  withService({ unit: { name: 'afterimage-agent.service', fileState, activeState } });
const withClock = (offsetMs: number): Facts => withReceiver({ clock: { offsetMs, uncertaintyMs: 510 } });

test('paths that multipath joins are shown', () => {
  const named = judge(withDisk({ paths: ['sda', 'sdb'] })).find(({ name }) => name === 'disk /dev/sda');
  expect(named).toMatchObject({ verdict: 'ok', message: 'abc, 10.0 GiB, paths sda, sdb' });
});

test('all is well: no line asks for anything', () => {
  const checks = judge(well);
  expect(checks.filter(({ verdict }) => verdict !== 'ok')).toEqual([]);
  expect(checks.filter(({ todo }) => todo !== null)).toEqual([]);
  expect(isFine(checks)).toBe(true);
});

describe('each flaw shows in its own line, and says what to do', () => {
  test.each<[what: string, facts: Facts, name: string, verdict: Verdict, message: RegExp]>([
    ['old kernel', withKernel({ release: '5.10.0' }), 'kernel', 'fail', /older than 5\.12/],
    ['old kernel of an ARM', withKernel({ release: '5.15.3', arch: 'arm64' }), 'kernel', 'fail', /older than 5\.18/],
    ['new enough', withKernel({ release: '5.12.0' }), 'kernel', 'ok', /5\.12/],
    ['no BTF', withKernel({ hasBtf: false }), 'btf', 'warn', /classic tracepoints/],
    ['no BTF, 5.14', withKernel({ hasBtf: false, release: '5.14.0' }), 'kernel', 'fail', /without BTF/],
    [
      'no BTF, locked down',
      withKernel({ hasBtf: false, lockdown: 'confidentiality' }),
      'btf',
      'fail',
      /confidentiality/,
    ],
    ['other processor', withKernel({ arch: 'riscv64' }), 'kernel', 'fail', /riscv64/],
    ['odd version', withKernel({ release: 'custom' }), 'kernel', 'warn', /not understood/],
    ['scan is wanted', withKernel({ prefer: 'scan', release: '4.4' }), 'kernel', 'ok', /scan/],
    ['no bpffs', withKernel({ bpffs: 'missing' }), 'bpf filesystem', 'fail', /no BPF filesystem/],
    ['programs refused', withKernel({ tracking: { mode: 'btf', problem: gone } }), 'tracking', 'fail', /gone/],
    [
      'not root',
      { ...well, privileges: { uid: 1000, capabilities: 0n, lastCapability: 40 } },
      'privileges',
      'fail',
      /1000.*CAP_BPF/,
    ],
    [
      'a power is missing',
      { ...well, privileges: { uid: 0, capabilities: ALL_CAPABILITIES & ~(1n << 21n), lastCapability: 40 } },
      'privileges',
      'fail',
      /without CAP_SYS_ADMIN$/,
    ],
    [
      'a kernel that does not know the newer powers',
      { ...well, privileges: { uid: 0, capabilities: (1n << 38n) - 1n, lastCapability: 37 } },
      'privileges',
      'ok',
      /root/,
    ],
    ['not enrolled', { ...well, enrolment: null }, 'enrolment', 'fail', /not enrolled/],
    ['damaged enrolment', { ...well, enrolment: gone }, 'enrolment', 'fail', /gone/],
    ['key of another certificate', withCertificate({ hasKey: false }), 'own certificate', 'fail', /private key/],
    ['certificate of another CA', withCertificate({ isOfCa: false }), 'own certificate', 'fail', /CA/],
    ['certificate ended', withCertificate({ validToMs: NOW_MS - 1 }), 'own certificate', 'fail', /ended on 2026-01-14/],
    [
      'certificate not begun',
      withCertificate({ validFromMs: NOW_MS + DAY_MS }),
      'own certificate',
      'fail',
      /2026-01-16/,
    ],
    [
      'certificate ends soon',
      withCertificate({ validToMs: NOW_MS + 7 * DAY_MS }),
      'own certificate',
      'warn',
      /2026-01-22/,
    ],
    ['receiver away', withReceiver({ problem: gone, clock: null }), 'receiver dr:7443', 'fail', /gone/],
    ['nobody tells the time', withReceiver({ problem: gone, clock: null }), 'clock', 'warn', /no receiver/],
    [
      'second receiver away',
      { ...well, receivers: [receiver, { ...receiver, address: 'b:1', isPrimary: false, problem: gone, clock: null }] },
      'receiver b:1',
      'warn',
      /gone/,
    ],
    [
      "receiver's certificate ends soon",
      withReceiver({ certificate: { validFromMs: 0, validToMs: NOW_MS + DAY_MS } }),
      'certificate of dr:7443',
      'warn',
      /2026-01-16/,
    ],
    ['clock a little off', withClock(6_000), 'clock', 'warn', /behind/],
    ['clock far ahead', withClock(-400_000), 'clock', 'fail', /ahead of/],
    ['within what can be told', withClock(5_400), 'clock', 'ok', /same time/],
    ['nothing protected', { ...well, disks: [] }, 'disks', 'fail', /no disk/],
    ['list damaged', { ...well, disks: gone }, 'disks', 'fail', /gone/],
    ['disk away', withDisk({ problem: { ...gone, hint: null } }), 'disk /dev/sda', 'fail', /gone/],
    ['not trackable', withDisk({ untrackedReason: 'it is DAX' }), 'disk /dev/sda', 'warn', /DAX/],
    ['no number', withDisk({ isKnownBySlot: true }), 'disk /dev/sda', 'warn', /slot/],
    ['half of a volume', withDisk({ warnings: ['vg also lies on sdb'] }), 'disk /dev/sda', 'warn', /sdb/],
    [
      'no room',
      { ...well, space: { path: '/x', freeBytes: MIB, neededBytes: 2 * MIB } },
      'space',
      'fail',
      /1\.00 MiB free/,
    ],
    [
      'little room',
      { ...well, space: { path: '/x', freeBytes: 100 * MIB, neededBytes: 2 * MIB } },
      'space',
      'warn',
      /100/,
    ],
    ['no state folder', { ...well, space: gone }, 'space', 'fail', /gone/],
    ['not installed', withUnit('', 'inactive'), 'service', 'warn', /not installed/],
    ['not enabled', withUnit('disabled', 'active'), 'service', 'warn', /does not start at boot/],
    ['stopped', withUnit('enabled', 'inactive'), 'service', 'warn', /does not run/],
    ['failed', withUnit('enabled', 'failed'), 'service', 'fail', /has failed/],
    [
      'a unit is not enabled',
      { ...well, reboot: { ...reboot, units: [unit('a'), unit('b', 'disabled')] } },
      'reboot',
      'warn',
      /not enabled: b$/,
    ],
    ['state elsewhere', { ...well, reboot: { ...reboot, isStateOnRoot: false } }, 'reboot', 'warn', /root filesystem/],
    ['not wanted', { ...well, reboot: { ...reboot, wanted: false } }, 'reboot', 'ok', /as configured/],
    ['no agent', withService({ running: null }), 'agent', 'warn', /no agent/],
    ['not connected', running({ connected: false, reason: 'no route' }), 'agent', 'fail', /no route/],
    ['refused', running({ refused: { name: 'clone', reason: 'two', hint: 'one' } }), 'agent', 'fail', /clone.*two/],
    ['disks not open', running({ problem: 'locked' }), 'agent', 'fail', /locked/],
    ['a disk failed', running({ state: 'Failed' }), 'agent', 'fail', /failed/],
  ])('%s', (_what, facts, name, verdict, message) => {
    const check = judge(facts).find((c) => c.name === name);
    expect(check).toMatchObject({ verdict, message: expect.stringMatching(message) as string });
    expect(check?.todo === null).toBe(verdict === 'ok');
  });

  test('and no other line changes', () => {
    const before = judge(well);
    const after = judge(withKernel({ bpffs: 'missing' }));
    expect(after.filter((check, i) => check.verdict !== before[i]?.verdict).map(({ name }) => name)).toEqual([
      'bpf filesystem',
    ]);
    expect(isFine(after)).toBe(false);
  });
});

test('without systemd nothing is said of a service; without an enrolment nothing of receivers', () => {
  const names = (checks: readonly Check[]): string[] => checks.map(({ name }) => name);
  expect(names(judge(withService({ unit: null })))).not.toContain('service');
  expect(names(judge({ ...well, enrolment: null, receivers: [] }))).not.toContain('clock');
});

test('the text has a line for each check, and what to do below those that need it', () => {
  const text = doctorText(
    judge({ ...well, enrolment: null, receivers: [], disks: [{ ...disk, isKnownBySlot: true }] }),
  );
  expect(text).toMatch(/^ok {4}privileges /m);
  expect(text).toMatch(/^fail {2}enrolment .*not enrolled\n +→ .*afterimage-receiver token/m);
  expect(text).toMatch(/1 of \d+ checks fail; 1 deserves attention\.$/);
});

test.each([
  ['[none] integrity confidentiality', 'none'],
  ['none [integrity] confidentiality', 'integrity'],
  ['none integrity [confidentiality]', 'confidentiality'],
  [null, null],
])('lockdown %s', (text, expected) => expect(lockdownOf(text)).toBe(expected));

test("the receiver's time is known to half a second and half the way there and back", () => {
  expect(clockOf(10_000, 10_400, 10_600)).toEqual({ offsetMs: 0, uncertaintyMs: 600 });
  expect(clockOf(10_000, 70_400, 70_600)).toEqual({ offsetMs: -60_000, uncertaintyMs: 600 });
  expect(clockOf(Number.NaN, 0, 1)).toBeNull();
});

test('what systemctl prints', () => {
  expect(unitOf('x', 'ActiveState=active\nUnitFileState=enabled\n')).toEqual({
    name: 'x',
    fileState: 'enabled',
    activeState: 'active',
  });
  expect(unitOf('x', 'ActiveState=inactive\nUnitFileState=\n').fileState).toBe('');
});
