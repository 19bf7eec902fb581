/**
 * From a launch and the facts of the host to the arguments of QEMU. Pure.
 *
 * Disks: NBD with a reconnect delay, so that a restart of the receiver is a pause for the guest, no error. The guest sees a volatile write cache
 * (`write-cache=on`, the same as cache=writeback): each flush of the guest becomes an NBD FLUSH, each FUA write an NBD FUA; QEMU caches nothing.
 * An I/O error after the delay stops the guest instead of being handed to it (werror, rerror): no filesystem is damaged, it goes on when the disks
 * are back. NVMe has no such property in QEMU: its guests see the error.
 */
import { join } from 'node:path';
import { GUEST_DISK_RECONNECT_SECONDS } from '../../../shared/limits.js';
import { MIB } from '../../../shared/units.js';
import type { DiskBus, GuestNic, GuestShape } from './guest-shape.js';
import { diskSerial, hardwareUuid } from './instance-hardware.js';
import type { LaunchDisk, LaunchSpec } from './provider.js';

export interface HostFacts {
  readonly acceleration: 'kvm' | 'tcg';
  /** OVMF, null where it is not installed. */
  readonly ovmf: { readonly code: string; readonly vars: string } | null;
  /** Program that puts QEMU's tap device on a bridge. */
  readonly bridgeHelper: string | null;
}

/** Files of a guest in its instance's folder. */
export const guestFiles = (
  folder: string,
): Readonly<Record<'qmp' | 'events' | 'pid' | 'serial' | 'vars' | 'log', string>> => ({
  qmp: join(folder, 'qmp.sock'),
  /** A second QMP socket, held by the supervisor: QEMU serves one client per socket. */
  events: join(folder, 'events.sock'),
  /** Written and locked by QEMU itself: a second QEMU for the same instance refuses to start. */
  pid: join(folder, 'qemu.pid'),
  serial: join(folder, 'serial.log'),
  vars: join(folder, 'vars.fd'),
  log: join(folder, 'qemu.log'),
});

/** In QEMU's key=value lists a comma ends the value; two stand for one. */
const escaped = (text: string): string => text.replaceAll(',', ',,');

const SERIAL_CHARS_MAX: Readonly<Record<DiskBus, number>> = { virtio: 20, nvme: 20, scsi: 36, ide: 20 };

/** Boot order begins at 1: with `-kernel` QEMU takes 0 itself. */
function deviceArguments(bus: DiskBus, index: number, disk: LaunchDisk): string {
  const common = `drive=disk${index},id=dev${index},serial=${escaped(diskSerial(disk.disk, SERIAL_CHARS_MAX[bus]))},bootindex=${index + 1}`;
  const stopping = 'write-cache=on,werror=stop,rerror=stop';
  switch (bus) {
    case 'virtio':
      return `virtio-blk-pci,${common},${stopping}`;
    case 'nvme':
      return `nvme,${common},write-cache=on`;
    case 'scsi':
      return `scsi-hd,bus=scsi0.0,scsi-id=${index},${common},${stopping}`;
    case 'ide':
      return `ide-hd,bus=ide.${Math.floor(index / 2)},unit=${index % 2},${common},${stopping}`;
  }
}

function diskArguments({ bus, disks }: GuestShape): string[] {
  const drives = disks.flatMap((disk, i) => {
    const node = {
      driver: 'nbd',
      'node-name': `disk${i}`,
      server: { type: 'unix', path: disk.socketPath },
      export: disk.exportName,
      'reconnect-delay': GUEST_DISK_RECONNECT_SECONDS,
      discard: 'unmap',
      'detect-zeroes': 'unmap',
    };
    return ['-blockdev', JSON.stringify(node), '-device', deviceArguments(bus, i, disk)];
  });
  return bus === 'scsi' ? ['-device', 'virtio-scsi-pci,id=scsi0', ...drives] : drives;
}

function netdev(nic: GuestNic, id: string, host: HostFacts): string {
  const { network } = nic;
  switch (network.type) {
    case 'bridge': {
      const helper = host.bridgeHelper === null ? '' : `,helper=${escaped(host.bridgeHelper)}`;
      return `bridge,id=${id},br=${network.bridge}${helper}`;
    }
    case 'tap':
      return `tap,id=${id},ifname=${network.tap},script=no,downscript=no`;
    case 'user':
    case 'isolated': {
      const forwards = nic.forwards
        .map((f) => `,hostfwd=tcp:${escaped(f.host)}:${f.hostPort}-:${f.guestPort}`)
        .join('');
      return `user,id=${id},restrict=${network.type === 'isolated' ? 'on' : 'off'}${forwards}`;
    }
  }
}

/** Without romfile a card would bring its network boot program, which costs seconds at each start. */
const nicArguments = (nics: readonly GuestNic[], host: HostFacts): string[] =>
  nics.flatMap((nic, i) => [
    '-netdev',
    netdev(nic, `net${i}`, host),
    '-device',
    `virtio-net-pci,netdev=net${i},mac=${nic.mac},romfile=`,
  ]);

function firmwareArguments(shape: GuestShape, host: HostFacts, vars: string): string[] {
  if (shape.firmware === 'bios' || host.ovmf === null) return [];
  return [
    '-drive',
    `if=pflash,format=raw,readonly=on,file=${escaped(host.ovmf.code)}`,
    '-drive',
    `if=pflash,format=raw,file=${escaped(vars)}`,
  ];
}

function kernelArguments({ settings: { kernel } }: LaunchSpec): string[] {
  if (kernel === undefined) return [];
  const initrd = kernel.initrd === undefined ? [] : ['-initrd', kernel.initrd];
  return ['-kernel', kernel.image, ...initrd, '-append', kernel.append];
}

export function qemuArguments(spec: LaunchSpec, shape: GuestShape, host: HostFacts): string[] {
  const files = guestFiles(spec.folder);
  const monitor = (id: string, path: string): string[] => [
    '-chardev',
    `socket,id=${id},path=${escaped(path)},server=on,wait=off`,
    '-mon',
    `chardev=${id},mode=control`,
  ];
  const kvm = host.acceleration === 'kvm';
  return [
    ...['-name', `guest=${escaped(spec.machine.name)}`],
    ...['-uuid', hardwareUuid(spec.instance)],
    ...['-machine', 'pc', '-accel', kvm ? 'kvm' : 'tcg,thread=multi', '-cpu', kvm ? 'host' : 'max'],
    ...['-smp', String(shape.cpus), '-m', `${Math.ceil(shape.memoryBytes / MIB)}M`],
    ...['-no-user-config', '-nodefaults', '-display', 'none', '-vga', 'std', '-rtc', 'base=utc'],
    ...['-pidfile', files.pid],
    ...['-chardev', `file,id=serial0,path=${escaped(files.serial)},append=on`, '-serial', 'chardev:serial0'],
    ...monitor('qmp', files.qmp),
    ...monitor('events', files.events),
    ...['-object', 'rng-random,id=rng0,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng0'],
    ...firmwareArguments(shape, host, files.vars),
    ...kernelArguments(spec),
    ...diskArguments(shape),
    ...nicArguments(shape.nics, host),
    ...(spec.settings.qemuArguments ?? []),
  ];
}
