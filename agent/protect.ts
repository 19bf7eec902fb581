/**
 * Adds disks to the list of protected ones, and takes them off. All or nothing: one bad device and the list stays as it was. Each change holds the list's
 * lock from reading to writing it: a rule and an operator that change it in the same instant both find their change in it.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { existsSync } from 'node:fs';
import { geometryOf } from '../shared/blocks/geometry.js';
import { usageError } from '../shared/errors.js';
import type { DiskId } from '../shared/units.js';
import { isOfOneDisk } from './disks/absent.js';
import { blockNameOf } from './disks/footprint.js';
import { isSuccession, successorOf } from './disks/identity.js';
import { locateDisk } from './disks/locate.js';
import { userOf } from './restore/in-use.js';
import { inspectDevice, type InspectedDevice } from './disks/inspect.js';
import { Sysfs } from './disks/sysfs.js';
import { loadProtection, saveProtection, type ProtectedEntry, type ProtectionList } from './protection.js';
import { whileLocked } from './protection-lock.js';
import { EbpfTracker } from './tracker/ebpf/tracker.js';

export interface AddedDisk {
  readonly id: string;
  readonly path: string;
  readonly sizeBytes: number;
  readonly tracker: 'ebpf' | 'scan';
  readonly warnings: readonly string[];
}

export const protect = (stateDir: string, devices: readonly string[], newUuid: () => string): Promise<AddedDisk[]> =>
  whileLocked(stateDir, () => addDisks(stateDir, devices, newUuid));

async function addDisks(stateDir: string, devices: readonly string[], newUuid: () => string): Promise<AddedDisk[]> {
  const sysfs = new Sysfs();
  let list: ProtectionList = await loadProtection(stateDir);
  const known = list.disks.flatMap((entry) => knownDisk(sysfs, entry, list, newUuid));
  const added: AddedDisk[] = [];
  for (const device of devices) {
    const found = inspectDevice(device, { sysfs, protectedDisks: known, kept: list.kept, newUuid });
    known.push({ id: found.id, source: found.source });
    const { record } = found.identity;
    list = {
      disks: [...list.disks, { id: found.id, path: device, blockBytes: found.geometry.blockBytes }],
      kept: record === null ? list.kept : [...list.kept.filter((k) => k.id !== record.id || isSuccession(k)), record],
    };
    added.push({
      id: found.id,
      path: device,
      sizeBytes: found.geometry.sizeBytes,
      tracker: found.trackable === null ? 'scan' : 'ebpf',
      warnings: found.untrackedReason === null ? found.warnings : [`scan: ${found.untrackedReason}`, ...found.warnings],
    });
  }
  await saveProtection(stateDir, list);
  return added;
}

type KnownDisk = Pick<InspectedDevice, 'id' | 'source'>;

/** Where a protected disk is, to see that nothing overlaps with it: one that is away can't. */
function knownDisk(sysfs: Sysfs, entry: ProtectedEntry, list: ProtectionList, newUuid: () => string): KnownDisk[] {
  const { id, path } = entry;
  if (!existsSync(path)) return [];
  try {
    const there = inspectDevice(path, { sysfs, protectedDisks: [], kept: list.kept, newUuid });
    return [{ id: there.id, source: there.source }];
  } catch (error) {
    if (!isOfOneDisk(error)) throw error;
    // It can't be followed now, e.g. as a second path leads to it: no reason to refuse others, but for those that lie on it.
    const name = blockNameOf(sysfs, path);
    return name === null ? [] : [{ id, source: { kind: 'block', name, path } }];
  }
}

export interface ReplaceOptions {
  readonly newUuid: () => string;
  readonly blockBytes: number | null;
}

/**
 * Gives a device the place of a protected disk that is gone: it becomes the disk with that id. Nothing of the old disk is believed of the new one: its
 * hash store goes, and its pinned tracking doesn't fit another device, so the next session compares or restores all of it.
 */
export const replaceDisk = (
  stateDir: string,
  id: DiskId,
  device: string,
  options: ReplaceOptions,
): Promise<AddedDisk> => whileLocked(stateDir, () => givePlace(stateDir, id, device, options));

async function givePlace(stateDir: string, id: DiskId, device: string, options: ReplaceOptions): Promise<AddedDisk> {
  const sysfs = new Sysfs();
  const list = await loadProtection(stateDir);
  const old = list.disks.find((d) => d.id === id);
  const others = list.disks.filter((d) => d.id !== id);
  const connected = locateDisk(sysfs, id, list.kept);
  const protectedDisks = others.flatMap((entry) => knownDisk(sysfs, entry, list, options.newUuid));
  const found = inspectDevice(device, { sysfs, protectedDisks, kept: list.kept, newUuid: options.newUuid });
  if (connected !== null && found.id !== id) {
    throw usageError(
      `disk ${id} is connected still, as ${connected}`,
      'Disconnect it first: two disks can not be one. To protect the new device as a disk of its own, leave out --as.',
    );
  }
  const user = userOf(sysfs, found.source);
  if (user !== null)
    throw usageError(`${device} is ${user}`, 'It is going to be written over: stop what uses it first.');
  const blockBytes = options.blockBytes ?? old?.blockBytes ?? found.geometry.blockBytes;
  const { sizeBytes } = geometryOf(found.geometry.sizeBytes, blockBytes);
  const { record } = found.identity;
  const kept = list.kept.filter((k) => k.id !== id && k.id !== record?.id);
  const own = found.id === id ? list.kept.filter((k) => k.id === id) : [successorOf(id, found.id, sizeBytes)];
  await rm(join(stateDir, 'hashes', id), { recursive: true, force: true });
  await saveProtection(stateDir, {
    disks: [...others, { id, path: device, blockBytes }],
    kept: [...kept, ...(record === null || found.id === id ? [] : [record]), ...own],
  });
  return {
    id,
    path: device,
    sizeBytes,
    tracker: found.trackable === null ? 'scan' : 'ebpf',
    warnings: found.warnings,
  };
}

export interface UnprotectOptions {
  readonly pinDirectory: string;
  /** Makes a running agent let go of the disk before its tracking is ended; when that fails, nothing is changed. */
  readonly reload: () => Promise<void>;
  /** Has a running agent look at the list once more, without waiting for it. */
  readonly takeBack: () => Promise<void>;
  /** The rule that takes the disk, if there is one. */
  readonly ruleFor: (list: ProtectionList, id: DiskId) => string | null;
}

/** Held to the end: nobody protects the disk again while what was kept of it is removed. */
export const unprotect = (stateDir: string, word: string, options: UnprotectOptions): Promise<ProtectedEntry> =>
  whileLocked(stateDir, () => giveUp(stateDir, word, options));

async function giveUp(
  stateDir: string,
  word: string,
  { pinDirectory, reload, takeBack, ruleFor }: UnprotectOptions,
): Promise<ProtectedEntry> {
  const list = await loadProtection(stateDir);
  const found = list.disks.find((d) => d.id === word || d.path === word);
  if (found === undefined) {
    const names = list.disks.map((d) => d.path).join(', ');
    throw usageError(`${word} is not protected`, names === '' ? 'No disk is.' : `Protected are: ${names}.`);
  }
  const rule = ruleFor(list, found.id);
  if (rule !== null)
    throw usageError(
      `${word} would be protected again at once: ${rule}`,
      'Exclude it in agent.yaml (`disks: { exclude: [{ id: … }] }`) and restart the agent first.',
    );
  await saveProtection(stateDir, { ...list, disks: list.disks.filter((d) => d !== found) });
  try {
    await reload();
  } catch (error) {
    // An agent that has the disk open still would write what is removed here: nothing is changed then. It may have looked at the list just now.
    await saveProtection(stateDir, list);
    await takeBack();
    throw error;
  }
  await rm(join(stateDir, 'hashes', found.id), { recursive: true, force: true });
  if (existsSync(pinDirectory)) {
    const tracker = new EbpfTracker({ pinDirectory });
    tracker.disarm(found.id);
    tracker.close();
  }
  return found;
}
