/**
 * What a guest gets: CPUs, memory, firmware, disks in order, cards with their networks. Launch settings win, then the machine's own description,
 * then a default; what had to be assumed is said. Pure.
 */
import { GIB, MIB } from '../../../shared/units.js';
import { derivedMac } from './instance-hardware.js';
import type { LaunchDisk, LaunchSpec } from './provider.js';

export type Network =
  | { readonly type: 'user' | 'isolated' }
  | { readonly type: 'bridge'; readonly bridge: string }
  | { readonly type: 'tap'; readonly tap: string };

export interface Forward {
  readonly host: string;
  readonly hostPort: number;
  readonly guestPort: number;
}

export interface GuestNic {
  readonly mac: string;
  readonly network: Network;
  readonly forwards: readonly Forward[];
}

export type DiskBus = 'virtio' | 'nvme' | 'scsi' | 'ide';

export interface GuestShape {
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly firmware: 'bios' | 'uefi';
  readonly bus: DiskBus;
  readonly disks: readonly LaunchDisk[];
  readonly nics: readonly GuestNic[];
  /** What was assumed, for the job. */
  readonly notes: readonly string[];
}

/** Cards of a machine whose settings name none: more are not worth a guess. */
const DESCRIBED_NICS_MAX = 8;
/** The description holds what the kernel could use of the memory: the machine has the next multiple of this. */
const MEMORY_STEP_BYTES = 128 * MIB;
const MEMORY_DEFAULT_BYTES = 2 * GIB;
const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/;

function networkOf(text: string): Network {
  const [type, name = ''] = text.split(':');
  if (type === 'bridge') return { type, bridge: name };
  if (type === 'tap') return { type, tap: name };
  return { type: type === 'user' ? 'user' : 'isolated' };
}

/** Disks in the order of the settings; those that they don't name come last. A name without a disk is a problem (see problems). */
function disksInOrder({ disks, settings }: LaunchSpec): LaunchDisk[] {
  const order = settings.disks ?? [];
  const rank = (disk: LaunchDisk): number => {
    const at = order.indexOf(disk.disk);
    return at < 0 ? order.length : at;
  };
  return [...disks].sort((a, b) => rank(a) - rank(b));
}

function nicsOf(spec: LaunchSpec, notes: string[]): GuestNic[] {
  const { instance, settings, description, test } = spec;
  const described = (description?.nics ?? []).map(({ mac }) => mac.toLowerCase()).filter((mac) => MAC.test(mac));
  const sources = [...new Set(described)].filter((mac) => mac !== '00:00:00:00:00:00');
  // A test never carries the source's address, not even where settings name one: both would be on the wire at once.
  const macOf = (index: number, set: string | undefined): string =>
    test ? derivedMac(instance, index) : (set ?? sources[index] ?? derivedMac(instance, index));
  if (settings.nics === undefined) {
    const macs = sources.slice(0, DESCRIBED_NICS_MAX);
    if (macs.length > 0) {
      notes.push(`no networks in the launch settings: ${macs.length} network card(s) are there, isolated`);
    }
    return macs.map((_, i) => ({ mac: macOf(i, undefined), network: { type: 'isolated' }, forwards: [] }));
  }
  return settings.nics.map((nic, i) => ({
    mac: macOf(i, nic.mac),
    network: networkOf(test ? (nic.testNetwork ?? 'isolated') : nic.network),
    forwards: nic.forwards.map(({ host, hostPort, testHostPort, guestPort }) => ({
      host,
      hostPort: test ? (testHostPort ?? hostPort) : hostPort,
      guestPort,
    })),
  }));
}

function firmwareOf({ settings, description }: LaunchSpec, notes: string[]): 'bios' | 'uefi' {
  if (settings.firmware !== undefined) return settings.firmware;
  const known = description?.firmware ?? 'unknown';
  if (known !== 'unknown') return known;
  notes.push('the firmware of the machine is not known: BIOS is assumed (launch setting `firmware`)');
  return 'bios';
}

export function guestShape(spec: LaunchSpec): GuestShape {
  const { settings, description } = spec;
  const notes: string[] = [];
  const described = description?.memoryBytes ?? 0;
  if (settings.memoryBytes === undefined && described === 0) {
    notes.push('the memory of the machine is not known: 2 GiB are assumed (launch setting `memoryBytes`)');
  }
  const memoryBytes =
    settings.memoryBytes ??
    (described > 0 ? Math.ceil(described / MEMORY_STEP_BYTES) * MEMORY_STEP_BYTES : MEMORY_DEFAULT_BYTES);
  return {
    cpus: Math.max(1, settings.cpus ?? description?.cpus ?? 1),
    memoryBytes,
    firmware: firmwareOf(spec, notes),
    bus: settings.diskBus ?? 'virtio',
    disks: disksInOrder(spec),
    nics: nicsOf(spec, notes),
    notes,
  };
}

/** The forwards that QEMU serves itself: on bridges and taps the guest has an address of its own. */
export const servedForwards = (nics: readonly GuestNic[]): readonly Forward[] =>
  nics.flatMap(({ network, forwards }) => (network.type === 'user' || network.type === 'isolated' ? forwards : []));
