/** From a launch to a command line: decisions as tables. */
import { describe, expect, it } from 'vitest';
import { chooseAcceleration, probeAcceleration } from '../../receiver/failover/compute/acceleration.js';
import { describeGuestEnd } from '../../receiver/failover/compute/guest-end.js';
import { guestShape } from '../../receiver/failover/compute/guest-shape.js';
import { derivedMac, diskSerial, hardwareUuid } from '../../receiver/failover/compute/instance-hardware.js';
import type { LaunchSpec } from '../../receiver/failover/compute/provider.js';
import { qemuArguments, type HostFacts } from '../../receiver/failover/compute/qemu-arguments.js';
import { launchProblems, type LaunchFacts } from '../../receiver/failover/compute/qemu-problems.js';
import { supervisorCommand } from '../../receiver/failover/compute/supervisor.js';
import { forwardOf, hasEstablished } from '../../receiver/failover/compute/usernet.js';
import { GIB, isUuid, MIB } from '../../shared/units.js';
import { launchDisk, launchSpec } from './launch.js';

const HOST: HostFacts = {
  acceleration: 'tcg',
  ovmf: { code: '/o/CODE.fd', vars: '/o/VARS.fd' },
  bridgeHelper: '/q/helper',
};
const NIC = { mac: '52:54:00:aa:bb:cc', name: 'eth0', addresses: [] };
const DESCRIPTION = {
  hostname: 'web1',
  os: 'Debian',
  cpus: 3,
  memoryBytes: 4_100_000_000,
  firmware: 'uefi',
  nics: [NIC],
} as const;
const described = (overrides: Partial<LaunchSpec> = {}): LaunchSpec =>
  launchSpec({ description: { ...DESCRIPTION, nics: [...DESCRIPTION.nics] }, ...overrides });
const args = (spec: LaunchSpec, host = HOST): string[] => qemuArguments(spec, guestShape(spec), host);
/** The values of an option, in order. */
const all = (list: readonly string[], option: string): string[] => list.filter((_, i) => list[i - 1] === option);
const devices = (list: readonly string[], start: string): string[] =>
  all(list, '-device').filter((d) => d.startsWith(start));

describe('arguments', () => {
  it('follow the description where settings are silent', () => {
    const list = args(described());
    expect(all(list, '-smp')).toEqual(['3']);
    // The kernel sees less than the machine has: rounded up to 128 MiB.
    expect(all(list, '-m')).toEqual(['3968M']);
    expect(all(list, '-drive')).toEqual([
      'if=pflash,format=raw,readonly=on,file=/o/CODE.fd',
      'if=pflash,format=raw,file=/run/afterimage/i/vars.fd',
    ]);
    expect(devices(list, 'virtio-net')).toEqual(['virtio-net-pci,netdev=net0,mac=52:54:00:aa:bb:cc,romfile=']);
    expect(all(list, '-netdev')).toEqual(['user,id=net0,restrict=on']);
  });

  it('follow the settings first', () => {
    const settings = { cpus: 1, memoryBytes: 300 * MIB, firmware: 'bios', qemuArguments: ['-S'] } as const;
    const list = args(described({ settings: { ...settings, qemuArguments: ['-S'] } }));
    expect([all(list, '-smp'), all(list, '-m'), all(list, '-drive')]).toEqual([['1'], ['300M'], []]);
    expect(list.at(-1)).toBe('-S');
  });

  it('assume and say so when nothing is known', () => {
    const shape = guestShape(launchSpec());
    expect([shape.cpus, shape.memoryBytes, shape.firmware, shape.nics]).toEqual([1, 2 * GIB, 'bios', []]);
    expect(shape.notes).toHaveLength(2);
  });

  it('serve disks over NBD so that a restart of the server is a pause and an error a stop', () => {
    const list = args(
      launchSpec({ disks: [launchDisk('a', '/s/1', 'e/a'), launchDisk('b', '/s/2')], settings: { disks: ['b'] } }),
    );
    const [first, second] = all(list, '-blockdev').map((text) => JSON.parse(text) as Record<string, unknown>);
    expect(first).toEqual({
      driver: 'nbd',
      'node-name': 'disk0',
      server: { type: 'unix', path: '/s/2' },
      export: 'b',
      'reconnect-delay': 600,
      discard: 'unmap',
      'detect-zeroes': 'unmap',
    });
    expect(second).toMatchObject({ server: { path: '/s/1' }, export: 'e/a' });
    expect(devices(list, 'virtio-blk')).toEqual([
      'virtio-blk-pci,drive=disk0,id=dev0,serial=b,bootindex=1,write-cache=on,werror=stop,rerror=stop',
      'virtio-blk-pci,drive=disk1,id=dev1,serial=a,bootindex=2,write-cache=on,werror=stop,rerror=stop',
    ]);
  });

  it.each([
    ['nvme', 'nvme,drive=disk0,id=dev0,serial=disk0,bootindex=1,write-cache=on'],
    [
      'scsi',
      'scsi-hd,bus=scsi0.0,scsi-id=0,drive=disk0,id=dev0,serial=disk0,bootindex=1,write-cache=on,werror=stop,rerror=stop',
    ],
    [
      'ide',
      'ide-hd,bus=ide.0,unit=0,drive=disk0,id=dev0,serial=disk0,bootindex=1,write-cache=on,werror=stop,rerror=stop',
    ],
  ] as const)('bus %s', (diskBus, device) => {
    expect(all(args(launchSpec({ settings: { diskBus } })), '-device')).toContain(device);
  });

  it('a test has a card of its own and is isolated, unless testNetwork says otherwise', () => {
    const forwards = [{ host: '127.0.0.1', hostPort: 80, testHostPort: 8080, guestPort: 443 }];
    const nics = [
      { mac: '52:54:00:00:00:01', network: 'bridge:br0', forwards },
      { network: 'user', testNetwork: 'tap:t1', forwards: [] },
      { network: 'user', forwards: [{ host: '127.0.0.1', hostPort: 81, guestPort: 22 }] },
    ];
    const failover = args(described({ settings: { nics } }));
    expect(all(failover, '-netdev')).toEqual([
      'bridge,id=net0,br=br0,helper=/q/helper',
      'user,id=net1,restrict=off',
      'user,id=net2,restrict=off,hostfwd=tcp:127.0.0.1:81-:22',
    ]);
    expect(devices(failover, 'virtio-net')[0]).toContain('mac=52:54:00:00:00:01');
    const test = args(described({ test: true, settings: { nics } }));
    expect(all(test, '-netdev')).toEqual([
      'user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:8080-:443',
      'tap,id=net1,ifname=t1,script=no,downscript=no',
      'user,id=net2,restrict=on,hostfwd=tcp:127.0.0.1:81-:22',
    ]);
    expect(test.join(' ')).not.toContain('52:54:00:');
  });

  it('hardware is the instance’s own, whatever the source’s', () => {
    const spec = described();
    expect(all(args(spec), '-uuid')).toEqual([hardwareUuid(spec.instance)]);
    expect(isUuid(hardwareUuid(spec.instance))).toBe(true);
    expect(hardwareUuid(spec.instance)).not.toBe(hardwareUuid('0b5e7a2c-1111-4222-8333-444455556667'));
    const macs = [0, 1, 2].map((i) => derivedMac(spec.instance, i));
    expect(new Set(macs).size).toBe(3);
    for (const mac of macs) expect(mac).toMatch(/^[0-9a-f][26ae](:[0-9a-f]{2}){5}$/);
    expect(diskSerial('short', 20)).toBe('short');
    const [one, other] = ['wwn-0x5000c500a1b2c3d4-part-1', 'wwn-0x5000c500a1b2c3d4-part-2'].map((id) =>
      diskSerial(id, 20),
    );
    expect(one).toHaveLength(20);
    expect(one).not.toBe(other);
  });

  it('a comma in a name stays in the name', () => {
    const spec = launchSpec({ machine: { ...launchSpec().machine, name: 'a,b' } });
    expect(all(args(spec), '-name')).toEqual(['guest=a,,b']);
  });

  it('KVM uses the host’s CPU', () => {
    const list = args(launchSpec(), { ...HOST, acceleration: 'kvm' });
    expect([all(list, '-accel'), all(list, '-cpu')]).toEqual([['kvm'], ['host']]);
  });
});

describe('acceleration', () => {
  it.each([
    [{ wanted: undefined, cpuRunsGuests: true, kvmProblem: null }, 'kvm'],
    [{ wanted: 'auto', cpuRunsGuests: false, kvmProblem: null }, 'tcg'],
    [{ wanted: undefined, cpuRunsGuests: true, kvmProblem: 'EACCES' }, 'tcg'],
    [{ wanted: 'kvm', cpuRunsGuests: false, kvmProblem: 'EACCES' }, 'kvm'],
    [{ wanted: 'tcg', cpuRunsGuests: true, kvmProblem: null }, 'tcg'],
  ] as const)('%j → %s', (probe, kind) => {
    const choice = chooseAcceleration(probe);
    expect(choice.kind).toBe(kind);
    expect(choice.reason).not.toBe('');
  });

  it('an unknown wish is an error', () => {
    expect(() => chooseAcceleration({ wanted: 'hvf', cpuRunsGuests: true, kvmProblem: null })).toThrow(
      /hvf is unknown/,
    );
  });

  it('what opens and is no KVM is none', async () => {
    const probe = await probeAcceleration(undefined, { kvm: '/dev/null', cpuinfo: '/proc/cpuinfo' });
    expect(probe.kvmProblem).toContain('instead of version 12');
    expect((await probeAcceleration(undefined, { kvm: '/nowhere', cpuinfo: '/dev/null' })).kvmProblem).toContain(
      'ENOENT',
    );
  });
});

describe('problems', () => {
  const fine: LaunchFacts = {
    programFound: true,
    ovmfFound: true,
    bridgeHelperFound: true,
    memoryAvailableBytes: 64 * GIB,
    bridgeConf: '# x\nallow br0\n',
    bridges: new Set(['br0', 'br1']),
    taps: new Set(),
    portProblems: new Map(),
    unreadableFiles: [],
    accelerationProblem: null,
  };
  const problems = (spec: LaunchSpec, facts: Partial<LaunchFacts> = {}): string[] =>
    launchProblems(spec, guestShape(spec), { ...fine, ...facts });
  const nics = (network: string): LaunchSpec['settings'] => ({ nics: [{ network, forwards: [] }] });

  it.each<[string, LaunchSpec, Partial<LaunchFacts>, RegExp | null]>([
    ['nothing', described({ settings: nics('bridge:br0') }), {}, null],
    ['no QEMU', described(), { programFound: false }, /not installed: install it/],
    ['no OVMF', described(), { ovmfFound: false }, /OVMF is not installed/],
    ['no OVMF for BIOS', described({ settings: { firmware: 'bios' } }), { ovmfFound: false }, null],
    ['memory', described(), { memoryAvailableBytes: GIB }, /needs 3\.88 GiB .* has 1\.00 GiB left/],
    ['no bridge', described({ settings: nics('bridge:br9') }), {}, /no bridge br9/],
    ['bridge not allowed', described({ settings: nics('bridge:br1') }), {}, /allow br1/],
    ['no tap', described({ settings: nics('tap:t0') }), {}, /no tap device t0/],
    ['no disks', described({ disks: [] }), {}, /no disks/],
    ['unknown disk', described({ settings: { disks: ['other'] } }), {}, /disk other/],
    ['kernel', described(), { unreadableFiles: ['/k'] }, /\/k, which/],
    ['KVM', described(), { accelerationProblem: 'KVM no' }, /KVM no/],
    ['folder', described({ folder: `/${'x'.repeat(120)}` }), {}, /too long for a socket/],
    [
      'too many for ide',
      described({ settings: { diskBus: 'ide' }, disks: [1, 2, 3, 4, 5].map((i) => launchDisk(`d${i}`, '/s')) }),
      {},
      /too many for ide/,
    ],
  ])('%s', (_, spec, facts, expected) => {
    const found = problems(spec, facts);
    if (expected === null) expect(found).toEqual([]);
    else expect(found).toEqual([expect.stringMatching(expected)]);
  });

  it('a taken port and a name instead of an address', () => {
    const forward = { host: '127.0.0.1', hostPort: 80, guestPort: 80 };
    const spec = described({
      settings: { nics: [{ network: 'user', forwards: [forward, { ...forward, host: 'web' }] }] },
    });
    const shape = guestShape(spec);
    const [first] = shape.nics[0]?.forwards ?? [];
    if (first === undefined) throw new Error('no forward');
    const found = launchProblems(spec, shape, { ...fine, portProblems: new Map([[first, 'EADDRINUSE']]) });
    expect(found).toEqual([expect.stringContaining('port 80 of 127.0.0.1'), expect.stringContaining('not from web')]);
  });
});

describe('supervisor command', () => {
  const command = { systemd: false, instance: 'i', uid: 7, gid: 8, node: '/n', program: '/s.js', folder: '/f' };
  it('is the script itself, or a unit of its own', () => {
    expect(supervisorCommand(command)).toMatchObject({ program: '/n' });
    expect(supervisorCommand(command).args.slice(-2)).toEqual(['/s.js', '/f']);
    const unit = supervisorCommand({ ...command, systemd: true });
    expect(unit.program).toBe('systemd-run');
    expect(unit.args).toEqual(expect.arrayContaining(['--collect', '--unit=afterimage-guest-i', '--uid=7', '--gid=8']));
    expect(unit.args.slice(unit.args.indexOf('--') + 1)).toEqual(['/n', ...supervisorCommand(command).args]);
  });
});

describe('how a guest ended', () => {
  const exit = { exitCode: 0, signal: null, shutdown: 'guest-shutdown', lastWords: '' };
  it.each([
    [exit, true, 'ended: powered off'],
    [{ ...exit, exitCode: null, signal: 'SIGKILL' }, false, 'ended by signal SIGKILL'],
    [{ ...exit, shutdown: 'host-qmp-quit' }, false, 'ended by the host (host-qmp-quit)'],
    [{ ...exit, exitCode: 1, lastWords: 'no disk' }, false, 'ended: QEMU failed with exit code 1: no disk'],
    [{ ...exit, shutdown: null }, false, 'ended for an unknown reason (exit code 0, no event)'],
  ])('%j', (end, poweredOff, detail) => {
    expect(describeGuestEnd(end)).toEqual({ poweredOff, detail });
  });
});

describe('forwarded connections', () => {
  const nics = [{ network: 'user', forwards: [{ host: '127.0.0.1', hostPort: 18080, guestPort: 80 }] }];
  const spec = launchSpec({ settings: { nics } });
  it('are known by address and port', () => {
    expect(forwardOf(spec, 'localhost', 18080)).toMatchObject({ guestPort: 80 });
    expect(forwardOf(spec, '127.0.0.1', 18081)).toBeNull();
    expect(forwardOf(spec, '10.0.0.1', 18080)).toBeNull();
  });
  it('count when the guest has answered', () => {
    const line = (state: string): string =>
      `Hub -1 (net0):\r\n  TCP[${state}]   15       127.0.0.1 18080       10.0.2.15    80     0     0\r\n`;
    const forward = { host: '127.0.0.1', hostPort: 18080, guestPort: 80 };
    expect(hasEstablished(line('ESTABLISHED'), forward)).toBe(true);
    expect(hasEstablished(line('SYN_SENT'), forward)).toBe(false);
    expect(hasEstablished(line('HOST_FORWARD'), forward)).toBe(false);
    expect(hasEstablished(line('ESTABLISHED'), { ...forward, guestPort: 81 })).toBe(false);
  });
});
