/**
 * Proof of stillness for sources without marks: image files, and devices that the eBPF tracker can't follow. A full read between two
 * equal fingerprints saw one state of the disk. Reads facts only, owns no state.
 *
 * The file is flushed before its times are taken: on filesystems of disks, a store into a mapped page then faults and sets the times anew.
 * What it can't see: stores into mapped files on tmpfs, which are never flushed; writes to a device from elsewhere (another host on shared
 * storage, the hypervisor). A loop device with direct I/O writes to its file like any program, and its own counters are looked at too.
 * Times of files move in ticks of the kernel's clock: a file that changed just now isn't called still.
 */
import type { BigIntStats } from 'node:fs';
import { open } from 'node:fs/promises';
import type { Clock } from '../../shared/clock.js';
import { SCAN_QUIET_MS } from '../../shared/limits.js';
import { inodeOf, loopsOnFile, type Source } from '../disks/footprint.js';
import type { Sysfs } from '../disks/sysfs.js';

interface DeviceCount {
  readonly name: string;
  readonly diskseq: string | null;
  readonly written: number;
  readonly writesInFlight: number;
  readonly dax: boolean;
}

/** What must be equal before and after a read. */
export interface Fingerprint {
  readonly takenAtMs: number;
  readonly file: {
    readonly inode: string;
    readonly sizeBytes: bigint;
    readonly mtimeNs: bigint;
    readonly ctimeNs: bigint;
  } | null;
  /** The device itself, or the loop devices on the file. */
  readonly devices: readonly DeviceCount[];
}

export type Stillness = { readonly still: true } | { readonly still: false; readonly reason: string };

function countOf(sysfs: Sysfs, name: string): DeviceCount | null {
  const device = sysfs.device(name);
  const counters = sysfs.counters(name);
  if (device === null || counters === null) return null;
  const { writeRequests, writeSectors, discardRequests, discardSectors, writesInFlight } = counters;
  // Sums suffice: each of the four only grows.
  const written = writeRequests + writeSectors + discardRequests + discardSectors;
  return { name, diskseq: device.diskseq, written, writesInFlight, dax: device.dax };
}

async function statFlushed(path: string): Promise<BigIntStats> {
  const file = await open(path, 'r');
  try {
    await file.sync();
    return await file.stat({ bigint: true });
  } finally {
    await file.close();
  }
}

export async function fingerprint(sysfs: Sysfs, source: Source, clock: Clock): Promise<Fingerprint> {
  // Before the look: a file that changes during it then shows as changed a moment before.
  const takenAtMs = clock.nowMs();
  if (source.kind === 'block') {
    const count = countOf(sysfs, source.name);
    return { takenAtMs, file: null, devices: count === null ? [] : [count] };
  }
  const stat = await statFlushed(source.path);
  const inode = inodeOf(stat);
  return {
    takenAtMs,
    file: { inode, sizeBytes: stat.size, mtimeNs: stat.mtimeNs, ctimeNs: stat.ctimeNs },
    devices: loopsOnFile(sysfs, inode).flatMap((name) => countOf(sysfs, name) ?? []),
  };
}

const moved = (reason: string): Stillness => ({ still: false, reason });
const NS_PER_MS = 1_000_000n;

/** Whether nothing was written between two fingerprints; if it was, the reason that an operator reads. */
export function isStill(before: Fingerprint, after: Fingerprint): Stillness {
  const { file } = before;
  if (file === null && before.devices.length === 0) return moved('the device is gone');
  if (file !== null) {
    const later = after.file;
    if (later === null || later.inode !== file.inode) return moved('the file was replaced');
    if (later.sizeBytes !== file.sizeBytes) return moved('the file changed its size');
    if (later.mtimeNs !== file.mtimeNs || later.ctimeNs !== file.ctimeNs) return moved('the file was written');
    const changedMs = Number((file.mtimeNs > file.ctimeNs ? file.mtimeNs : file.ctimeNs) / NS_PER_MS);
    // A wall clock that was set back makes a file look younger than now: that is no proof either.
    if (before.takenAtMs - changedMs < SCAN_QUIET_MS) return moved('the file was written a moment before');
  }
  if (after.devices.length !== before.devices.length)
    return moved('a loop device of the file came or went, or the device is gone');
  for (const [index, device] of before.devices.entries()) {
    const later = after.devices[index];
    if (later === undefined || later.name !== device.name || later.diskseq !== device.diskseq) {
      return moved(`${device.name} was replaced`);
    }
    if (device.dax) return moved(`${device.name} is written as memory (DAX): its writes can't be counted`);
    if (later.written !== device.written) return moved(`${device.name} was written`);
    // A write is counted only when it is done: one that is under way may be in what was read, or not.
    if (device.writesInFlight > 0 || later.writesInFlight > 0) return moved(`${device.name} has writes in flight`);
  }
  return { still: true };
}
