/**
 * Is a block device or file in use on this machine? Mounted, swapped to, part of a RAID, LVM or multipath, backing a loop device.
 * Reads /proc and /sys only. The exclusive open that follows is the kernel's own word on it; this gives the reason, and finds what
 * the kernel allows but would be a disaster.
 */
import { readdir, readFile, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { refused } from './target.js';

export const majorOf = (dev: number): number => Number((BigInt(dev) >> 8n) & 0xfffn);
export const minorOf = (dev: number): number => Number((BigInt(dev) & 0xffn) | ((BigInt(dev) >> 12n) & 0xfff00n));
const devText = (dev: number): string => `${majorOf(dev)}:${minorOf(dev)}`;

const read = async (path: string): Promise<string | undefined> =>
  readFile(path, 'utf8').then(
    (text) => text.trim(),
    () => undefined,
  );
const entries = (path: string): Promise<string[]> => readdir(path).catch(() => []);

/** Device numbers whose use means that ours is in use, with their kernel names; and who holds any of them. */
interface Related {
  readonly devices: ReadonlyMap<string, string>;
  readonly holders: readonly string[];
}

/** Folder of a block device in /sys. */
export const sysFolder = (dev: number): Promise<string | undefined> =>
  realpath(`/sys/dev/block/${devText(dev)}`).catch(() => undefined);

async function relatedDevices(dev: number): Promise<Related> {
  const devices = new Map([[devText(dev), devText(dev)]]);
  const holders: string[] = [];
  const folder = await sysFolder(dev);
  if (folder === undefined) return { devices, holders };
  const folders = [folder];
  for (const name of await entries(folder)) {
    if ((await read(join(folder, name, 'partition'))) !== undefined) folders.push(join(folder, name));
  }
  // A partition is in use, too, when its whole disk is.
  if ((await read(join(folder, 'partition'))) !== undefined) folders.push(dirname(folder));
  for (const f of folders) {
    const number = await read(join(f, 'dev'));
    if (number !== undefined) devices.set(number, basename(f));
    holders.push(...(await entries(join(f, 'holders'))));
  }
  return { devices, holders };
}

/** /proc/self/mountinfo writes spaces and backslashes as octal. */
const unescape = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));

async function deviceOfPath(path: string): Promise<string | undefined> {
  const found = await stat(path).catch(() => undefined);
  return found?.isBlockDevice() ? devText(found.rdev) : undefined;
}

async function checkMounts(path: string, devices: ReadonlyMap<string, string>): Promise<void> {
  for (const line of ((await read('/proc/self/mountinfo')) ?? '').split('\n')) {
    const fields = line.split(' ');
    const source = fields[fields.indexOf('-') + 2] ?? '';
    // btrfs mounts under numbers of its own: there the source tells.
    const bySource = source.startsWith('/dev/') ? await deviceOfPath(unescape(source)) : undefined;
    const hit = [fields[2], bySource].find((d) => d !== undefined && devices.has(d));
    if (hit === undefined) continue;
    throw refused(
      'target-mounted',
      `target ${path} is in use: ${devices.get(hit) ?? hit} is mounted on ${unescape(fields[4] ?? '?')}`,
      'Unmount it first, or pick another target.',
    );
  }
}

async function checkSwaps(path: string, devices: ReadonlyMap<string, string>): Promise<void> {
  for (const line of ((await read('/proc/swaps')) ?? '').split('\n').slice(1)) {
    const swap = unescape(line.split(/\s/)[0] ?? '');
    const dev = swap === '' ? undefined : await deviceOfPath(swap);
    if (swap !== path && (dev === undefined || !devices.has(dev))) continue;
    throw refused(
      'target-swap',
      `target ${path} is in use as swap space (${swap})`,
      'Turn it off with `swapoff` first.',
    );
  }
}

/** Throws kind `refused` when the device, one of its partitions or its whole disk is in use. */
export async function checkDeviceUnused(path: string, dev: number): Promise<void> {
  const { devices, holders } = await relatedDevices(dev);
  await checkMounts(path, devices);
  await checkSwaps(path, devices);
  if (holders.length === 0) return;
  throw refused(
    'target-held',
    `target ${path} is in use by ${[...new Set(holders)].join(', ')}`,
    'Stop the RAID, volume group or mapping that uses it, or pick another target.',
  );
}

/** Throws kind `refused` when a file backs a loop device or is swapped to. `path` has its links resolved. */
export async function checkFileUnused(path: string): Promise<void> {
  await checkSwaps(path, new Map());
  for (const name of await entries('/sys/block')) {
    if (!name.startsWith('loop') || (await read(`/sys/block/${name}/loop/backing_file`)) !== path) continue;
    throw refused(
      'target-held',
      `target ${path} is in use by /dev/${name}`,
      `Detach it with \`losetup -d /dev/${name}\`.`,
    );
  }
}

/** What tells this device from another one that may get the same number later. */
export async function deviceIdentity(dev: number, sizeBytes: number): Promise<string> {
  const folder = (await sysFolder(dev)) ?? '';
  const whole = (await read(join(folder, 'partition'))) === undefined ? folder : dirname(folder);
  const named =
    (await read(join(whole, 'wwid'))) ??
    (await read(join(whole, 'device/wwid'))) ??
    (await read(join(whole, 'serial'))) ??
    (await read(join(whole, 'device/serial'))) ??
    (await read(join(whole, 'loop/backing_file'))) ??
    (await read(join(whole, 'dm/uuid')));
  // Without a name of its own, only the attachment can be recognised (it ends at a reboot).
  const identity =
    named === undefined || named === '' ? `attachment ${(await read(join(whole, 'diskseq'))) ?? '?'}` : named;
  return `device ${devText(dev)} ${sizeBytes} ${identity}`;
}
