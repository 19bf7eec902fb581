import { describe, expect, it } from 'vitest';
import type { MountEntry } from '../../agent/quiesce/mountinfo.js';
import type { DeviceGraph } from '../../agent/quiesce/mounts.js';
import { quiescePlan, type QuiesceFacts, type QuiescePlan } from '../../agent/quiesce/plan/plan.js';
import { planText } from '../../agent/quiesce/plan/view.js';

let nextId = 1;
const mount = (path: string, device: string, fsType = 'ext4', more: Partial<MountEntry> = {}): MountEntry => ({
  mountId: nextId++,
  device,
  root: '/',
  path,
  fsType,
  source: device,
  readOnly: false,
  ...more,
});

/** Here a filesystem's number is the name of its device; `below` is what `above` says, turned round. */
function graph(above: Record<string, string[]> = {}, loops: Record<string, string> = {}): DeviceGraph {
  const below = (name: string): string[] => Object.keys(above).filter((lower) => above[lower]?.includes(name));
  return {
    above: (name) => above[name] ?? [],
    below,
    title: (name) => (name.startsWith('dm-') ? `${name} (vg-${name})` : name),
    devicesOf: ({ device, source }) => (device.startsWith('0:') ? source.split(',') : [device]),
    loops: Object.entries(loops).map(([name, backingFile]) => ({ name, backingFile })),
  };
}

const plan = (facts: Partial<QuiesceFacts>, ...disks: string[]): QuiescePlan =>
  quiescePlan({
    mounts: [],
    graph: graph(),
    sources: disks.map((name) => ({ title: `/dev/${name}`, devices: [name] })),
    own: [],
    found: [],
    configured: [],
    hooks: [],
    freezeEnabled: true,
    ...facts,
  });

const codes = ({ warnings }: QuiescePlan): string[] => warnings.map(({ code }) => code);

/** A disk with a boot partition and a volume group that reaches over a second disk. */
const stack = graph({ sda: ['sda1', 'sda2'], sda2: ['dm-0', 'dm-1'], sdb: ['dm-1'] }, { loop0: '/var/images/a.img' });
const mounts = [
  mount('/', 'dm-0'),
  mount('/boot', 'sda1'),
  mount('/boot/efi', 'sdc1', 'vfat'),
  mount('/var', 'dm-1', 'xfs'),
  mount('/mnt', 'loop0'),
  mount('/srv/web', 'dm-1', 'xfs', { root: '/web' }),
];

describe('quiesce plan', () => {
  it('freezes innermost first, thaws in the reverse order, and tells how each lies on the disk', () => {
    const { freeze, thaw } = plan({ mounts, graph: stack }, 'sda');
    expect(freeze.map((f) => [f.mounts[0]?.path, f.chain.join(' → ')])).toEqual([
      ['/mnt', '/dev/sda → sda2 → dm-1 (vg-dm-1) → /var/images/a.img → loop0'],
      ['/var', '/dev/sda → sda2 → dm-1 (vg-dm-1)'],
      ['/boot', '/dev/sda → sda1'],
      ['/', '/dev/sda → sda2 → dm-0 (vg-dm-0)'],
    ]);
    expect(thaw).toEqual(['/', '/boot', '/var', '/mnt']);
    expect(freeze[1]?.mounts.map(({ path }) => path)).toEqual(['/var', '/srv/web']);
  });

  it.each([
    ['a volume over two disks of which one is protected', ['sda'], ['sdb']],
    ['both protected', ['sda', 'sdb'], []],
  ])('says what is missing of a filesystem: %s', (_, disks, missing) => {
    const made = plan({ mounts, graph: stack }, ...disks);
    expect(made.freeze.find((f) => f.device === 'dm-1')?.uncovered).toEqual(missing);
    // What lies in a file of that filesystem is as incomplete as the file.
    expect(made.freeze.find((f) => f.device === 'loop0')?.uncovered).toEqual(missing);
    expect(codes(made)).toEqual(missing.flatMap(() => ['partly-protected', 'partly-protected']));
  });

  it('misses a disk of a filesystem of several devices', () => {
    const pool = mount('/pool', '0:44', 'btrfs', { source: 'sda,sdb' });
    expect(plan({ mounts: [pool] }, 'sda').freeze[0]?.uncovered).toEqual(['sdb']);
    expect(codes(plan({ mounts: [pool] }, 'sda', 'sdb'))).toEqual([]);
  });

  it('gives the reason for what is not frozen', () => {
    const read = mount('/cd', 'sda1', 'ext4', { readOnly: true });
    const { skipped, warnings } = plan({ mounts: [read, mount('/efi', 'sda2', 'vfat')], graph: stack }, 'sda');
    expect(skipped.map(({ path, reason }) => [path, reason])).toEqual([
      ['/cd', 'mounted read-only: nothing is written'],
      ['/efi', 'Linux can not freeze this kind: it is only crash-consistent in any point'],
    ]);
    expect(warnings.map(({ code }) => code)).toEqual(['nothing-to-freeze', 'cannot-freeze']);
  });

  it('shows what of the agent lies on a frozen filesystem, the root filesystem included, and a log that would block it', () => {
    const own = [
      { what: 'state directory', path: '/var/lib/afterimage-agent', use: 'between', device: 'dm-1' },
      { what: 'program', path: '/opt/afterimage', use: 'read', device: null },
      { what: 'control socket', path: '/run/afterimage-agent', use: 'between', device: 'tmpfs' },
      { what: 'log', path: '/var/log/agent.log', use: 'log', device: 'dm-1' },
    ] as const;
    const made = plan({ mounts: [...mounts, mount('/run', 'tmpfs', 'tmpfs')], graph: stack, own }, 'sda', 'sdb');
    expect(made.own.map(({ what, on }) => [what, on])).toEqual([
      ['state directory', '/var'],
      ['program', '/'],
      ['log', '/var'],
    ]);
    expect(made.own[0]?.reason).toBe('written before the freeze and after the thaw only');
    expect(codes(made)).toEqual(['log-on-frozen']);
  });

  const postgres = {
    kind: 'postgresql',
    title: 'PostgreSQL (process 7) in /var/lib/pg',
    pid: 7,
    data: [{ path: '/var/lib/pg', device: 'dm-1' }],
  } as const;

  it.each([
    ['crash', 'freezing is switched off in the configuration', { freezeEnabled: false, configured: [] }],
    ['filesystem', 'no application is configured and there is no hook', {}],
    ['application', 'quiesced by pg', { configured: [{ name: 'pg', kind: 'postgresql' as const }] }],
    ['application', 'quiesced by 10-app', { hooks: [{ name: '10-app', refused: null }] }],
    ['filesystem', 'no application is configured and there is no hook', { hooks: [{ name: 'x', refused: 'mode' }] }],
  ])('the strongest point is %s: %s', (strongest, reason, more) => {
    expect(plan({ mounts, graph: stack, found: [postgres], ...more }, 'sda', 'sdb')).toMatchObject({
      strongest,
      reason,
    });
  });

  it('knows an application by its files, and says when some of them lie elsewhere', () => {
    const data = [...postgres.data, { path: '/mnt2/wal', device: 'sdz1' }];
    const elsewhere = { ...postgres, title: 'another', data: [{ path: '/mnt2/pg', device: 'sdz1' }] };
    const more = [...mounts, mount('/mnt2', 'sdz1')];
    const made = plan({ mounts: more, graph: stack, found: [{ ...postgres, data }, elsewhere] }, 'sda', 'sdb');
    expect(made.applications).toEqual([
      { kind: 'postgresql', title: postgres.title, on: ['/var'], outside: ['/mnt2/wal'], quiescedAs: null },
    ]);
    expect(codes(made)).toEqual(['application-outside', 'application-not-configured']);
  });

  it('two servers of a kind need two entries, and an entry without a server is told', () => {
    const found = [postgres, { ...postgres, title: 'second', pid: 8 }];
    const one = plan({ mounts, graph: stack, found, configured: [{ name: 'pg', kind: 'postgresql' }] }, 'sda', 'sdb');
    expect(one.applications.map(({ quiescedAs }) => quiescedAs)).toEqual(['pg', null]);
    const none = plan({ mounts, graph: stack, configured: [{ name: 'cache', kind: 'redis' }] }, 'sda', 'sdb');
    expect(none.warnings).toMatchObject([{ code: 'application-not-found' }]);
    expect(none.warnings[0]?.text).toContain('cache');
  });

  it('tells a refused hook', () => {
    const made = plan({ mounts, graph: stack, hooks: [{ name: 'x', refused: 'not executable' }] }, 'sda', 'sdb');
    expect(made.warnings).toMatchObject([{ code: 'hook-refused', text: 'hook x is not run: not executable' }]);
    expect(made.hooks).toEqual([]);
  });

  it('reads well', () => {
    const text = planText(plan({ mounts, graph: stack, found: [postgres] }, 'sda'));
    expect(text).toContain('Strongest point: filesystem-consistent');
    expect(text).toContain('  2. xfs at /var, also at /srv/web\n     on /dev/sda → sda2 → dm-1 (vg-dm-1)');
    expect(text).toContain('xfs at /var also lies on sdb');
  });
});
