/**
 * What this machine is: the description that a recovery shows and starts from, and an id of the hardware that unmasks clones. Reads only.
 *
 * The hardware id is SHA-256 over what stays when the machine reboots and changes when its disks boot elsewhere:
 *   1. the UUID of the mainboard or virtual machine (DMI product_uuid) with the board's serial number (DMI, or device tree on ARM);
 *   2. where firmware tells neither: /etc/machine-id with the MAC addresses of the physical network cards and the platform's name.
 * The machine-id alone would be no help, as it is copied with the disk. Network cards count only in the second case, since they can be replaced.
 * A clone that is given the same UUID or MAC addresses on purpose has the same id: against that one stands the generation, not this.
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { cpus, hostname, networkInterfaces, release, totalmem, type } from 'node:os';
import { join } from 'node:path';
import type { z } from 'zod';
import type { helloDescriptionSchema } from '../shared/wire/messages.js';
import { Sysfs } from './disks/sysfs.js';

export type MachineDescription = z.infer<typeof helloDescriptionSchema>;

const NICS_MAX = 64;
const ADDRESSES_MAX = 64;

/** PRETTY_NAME of os-release(5), quotes removed. */
export function osNameOf(osRelease: string): string | null {
  const value = /^PRETTY_NAME=(.*)$/m.exec(osRelease)?.[1]?.trim();
  return value === undefined || value === '' ? null : value.replace(/^(["'])(.*)\1$/, '$2');
}

function readText(path: string): string | null {
  try {
    const text = readFileSync(path, 'utf8').trim();
    return text === '' ? null : text;
  } catch {
    return null;
  }
}

/** Cards of the machine, and whatever else carries an address (bonds, bridges, VLANs). */
function describeNics(sysfs: Sysfs): MachineDescription['nics'] {
  const addressed = networkInterfaces();
  return sysfs
    .names('class/net')
    .map((name) => ({
      name,
      mac: sysfs.text(`class/net/${name}/address`) ?? '',
      addresses: (addressed[name] ?? []).map(({ cidr, address }) => cidr ?? address).slice(0, ADDRESSES_MAX),
      physical: isPhysical(sysfs, name),
    }))
    .filter(({ name, addresses, physical }) => name !== 'lo' && (physical || addresses.length > 0))
    .slice(0, NICS_MAX)
    .map(({ name, mac, addresses }) => ({ name, mac, addresses }));
}

const isPhysical = (sysfs: Sysfs, name: string): boolean => existsSync(join(sysfs.root, 'class/net', name, 'device'));

export function describeMachine(sysfs = new Sysfs(), etcRoot = '/etc'): MachineDescription {
  const uefi = existsSync(join(sysfs.root, 'firmware/efi'));
  return {
    hostname: hostname(),
    os: osNameOf(readText(join(etcRoot, 'os-release')) ?? '') ?? `${type()} ${release()}`,
    cpus: cpus().length,
    memoryBytes: totalmem(),
    firmware: uefi ? 'uefi' : process.arch === 'x64' ? 'bios' : 'unknown',
    nics: describeNics(sysfs),
  };
}

/** Facts of the hardware id, null where the machine doesn't tell. */
export interface HardwareFacts {
  readonly productUuid: string | null;
  readonly boardSerial: string | null;
  readonly machineId: string | null;
  readonly macs: readonly string[];
  readonly platform: string | null;
}

/** What makers leave in when they fill in nothing. */
const PLACEHOLDERS =
  /^(0+|f+|none|default string|not (specified|applicable|available)|to be filled by o\.?e\.?m\.?|n\/a|03000200-0400-0500-0006-000700080009)$/i;
const told = (text: string | null): string | null =>
  text === null || PLACEHOLDERS.test(text) || PLACEHOLDERS.test(text.replaceAll('-', '')) ? null : text.toLowerCase();

export function hardwareIdOf(facts: HardwareFacts): string {
  const uuid = told(facts.productUuid);
  const serial = told(facts.boardSerial);
  const parts =
    uuid !== null || serial !== null
      ? ['firmware', uuid ?? '', serial ?? '']
      : ['fallback', facts.machineId ?? '', facts.platform ?? '', ...facts.macs.map((mac) => mac.toLowerCase()).sort()];
  return createHash('sha256')
    .update(['afterimage hardware 1', ...parts].join('\n'))
    .digest('hex');
}

/** Addresses burnt into cards: those made up at each boot (assign type 1) would change the id. */
function permanentMacs(sysfs: Sysfs): string[] {
  return sysfs.names('class/net').flatMap((name) => {
    const at = `class/net/${name}`;
    if (!isPhysical(sysfs, name) || sysfs.text(`${at}/addr_assign_type`) === '1') return [];
    // A member of a bond shows the bond's address; its own is kept aside.
    return sysfs.text(`${at}/bonding_slave/perm_hwaddr`) ?? sysfs.text(`${at}/address`) ?? [];
  });
}

export function readHardwareFacts(sysfs = new Sysfs(), etcRoot = '/etc'): HardwareFacts {
  const platform = [sysfs.text('class/dmi/id/sys_vendor'), sysfs.text('class/dmi/id/product_name')].join(' ').trim();
  return {
    productUuid: sysfs.text('class/dmi/id/product_uuid'),
    boardSerial: sysfs.text('class/dmi/id/board_serial') ?? sysfs.text('firmware/devicetree/base/serial-number'),
    machineId: readText(join(etcRoot, 'machine-id')),
    macs: permanentMacs(sysfs),
    platform: platform === '' ? null : platform,
  };
}

/** AFTERIMAGE_HARDWARE_ID stands in for it: several machines of a test share one hardware. */
export const hardwareId = (env: NodeJS.ProcessEnv = process.env): string =>
  env['AFTERIMAGE_HARDWARE_ID'] ?? hardwareIdOf(readHardwareFacts());
