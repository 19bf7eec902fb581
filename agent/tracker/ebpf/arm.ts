/**
 * Arming a disk: go on with its pinned objects when they are whole and still fit the disk, else begin a new series and say
 * why. Synchronous; takes some hundred milliseconds for a large disk (the kernel clears its bitmaps).
 */
import { randomUUID } from 'node:crypto';
import { closeSync } from 'node:fs';
import { BlockSet } from '../../../shared/blocks/block-set.js';
import { AfterimageError, usageError } from '../../../shared/errors.js';
import { SECTOR_BYTES, asSeriesId, type SeriesId } from '../../../shared/units.js';
import type { ArmResult, TrackableDisk } from '../tracker.js';
import { AuditLedger, UNKNOWN_STATE } from './audit.js';
import { ArmedDisk, readNumbers } from './armed-disk.js';
import {
  readAuditState,
  readIdentity,
  whyNotResumable,
  writeAuditState,
  writeIdentity,
  type Identity,
} from './identity.js';
import type { KernelTypes } from './kernel-types.js';
import { DiskMaps } from './maps/disk-maps.js';
import { groupImage } from './maps/group-bitmap.js';
import { LAYOUT_VERSION, mapSizes, type MapSizes } from './maps/layout.js';
import {
  attachPrograms,
  closeObjects,
  createMaps,
  openObjects,
  pinObjects,
  removePins,
  type DiskObjects,
} from './objects.js';
import type { TestOnlyDisable } from './programs.js';
import { DiskStatistics, deviceKind, possibleCpus, readBootId, readDiskFacts, untrackable } from './statistics.js';

export interface ArmContext {
  /** Directory of this disk's pins. */
  readonly directory: string;
  readonly mode: KernelTypes['mode'];
  /** Read when programs must be built. */
  readonly kernelTypes: () => KernelTypes;
  readonly controlFd: number;
  readonly disable: TestOnlyDisable | undefined;
  readonly monotonicMs: () => number;
}

export interface Armed {
  readonly armed: ArmedDisk;
  readonly result: ArmResult;
}

/** Readings after attaching, to find the disk idle: at about 10 to 25 µs each, some ten milliseconds. */
const START_READINGS = 3000;
/** Nothing was pinned. */
export const FIRST_SERIES = 'tracking of this disk begins';

export function armDisk(disk: TrackableDisk, context: ArmContext): Armed {
  const now = describe(disk, context);
  const opened = openObjects(context.directory);
  if (typeof opened === 'string') return startSeries(disk, context, now, opened === '' ? FIRST_SERIES : opened);
  const sizes = mapSizes(disk.geometry, possibleCpus());
  const resumed = resume(disk, context, now, opened, sizes);
  if (typeof resumed !== 'string') return resumed;
  closeObjects(opened);
  return startSeries(disk, context, now, resumed);
}

/** A series of an earlier boot that goes on: what it had marked and no point holds. */
export interface Adopted {
  readonly series: SeriesId;
  readonly uncommitted: BlockSet;
}

/** Goes on with a series that another kernel tracked. That nothing was written in between is for the caller to prove. */
export function adoptSeries(disk: TrackableDisk, context: ArmContext, adopted: Adopted): Armed {
  const now = { ...describe(disk, context), series: adopted.series };
  return startSeries(disk, context, now, 'it goes on over a reboot', adopted.uncommitted);
}

/** Begins a new series, whatever was pinned. */
export function startSeries(
  disk: TrackableDisk,
  context: ArmContext,
  now: Identity,
  reason: string,
  uncommitted = new BlockSet(),
): Armed {
  removePins(context.directory);
  const sizes = mapSizes(disk.geometry, possibleCpus());
  const statistics = new DiskStatistics(disk.sysName);
  const undo: (() => void)[] = [() => statistics.close()];
  try {
    const maps = createMaps(sizes);
    undo.push(() => Object.values(maps).forEach((fd) => closeSync(fd)));
    const mapped = new DiskMaps(maps, sizes, disk.geometry.blockCount);
    undo.push(() => mapped.unmap());
    const attached = attachPrograms(context.kernelTypes(), target(disk, sizes, maps, context), context.disable);
    undo.push(() =>
      [attached.links, attached.programs].forEach((fds) => Object.values(fds).forEach((fd) => closeSync(fd))),
    );
    const ledger = new AuditLedger(deviceKind(disk.sysName), UNKNOWN_STATE, context.monotonicMs());
    ledger.start(() => readNumbers(mapped, statistics, context.monotonicMs()), START_READINGS);
    writeAuditState(mapped.identity, ledger.state);
    const { pending } = mapped;
    pending.orImage(groupImage(uncommitted, disk.geometry.blockCount, pending.lengthBytes));
    writeIdentity(mapped.identity, now);
    const objects: DiskObjects = { maps, ...attached };
    undo.push(() => removePins(context.directory));
    pinObjects(objects, context.directory);
    const parts = {
      disk,
      identity: now,
      directory: context.directory,
      objects,
      maps: mapped,
      statistics,
      ledger,
      monotonicMs: context.monotonicMs,
    };
    const armed = new ArmedDisk(parts, context.monotonicMs());
    return { armed, result: { series: now.series, resumed: false, reason, uncommitted } };
  } catch (error) {
    for (const step of undo.reverse()) step();
    throw error;
  }
}

/** A string says why the pinned objects can't be gone on with; the caller closes them then. */
function resume(
  disk: TrackableDisk,
  context: ArmContext,
  now: Identity,
  objects: DiskObjects,
  sizes: MapSizes,
): Armed | string {
  const maps = mapPinned(objects, sizes, disk.geometry.blockCount);
  if (maps === undefined) return 'the size of the pinned maps has changed';
  const identity = readIdentity(maps.identity);
  const reason = identity === undefined ? 'the tracker has another version now' : whyNotResumable(identity, now);
  if (identity === undefined || reason !== undefined) {
    maps.unmap();
    return reason ?? '';
  }
  maps.repairSummary();
  const ledger = new AuditLedger(deviceKind(disk.sysName), readAuditState(maps.identity), context.monotonicMs());
  const statistics = new DiskStatistics(disk.sysName);
  const parts = {
    disk,
    identity,
    directory: context.directory,
    objects,
    maps,
    statistics,
    ledger,
    monotonicMs: context.monotonicMs,
  };
  const armed = new ArmedDisk(parts, context.monotonicMs());
  const uncommitted = armed.uncommitted();
  return { armed, result: { series: identity.series, resumed: true, reason: '', uncommitted } };
}

/** Maps of another size can't be mapped at the size expected; of a larger one they could, but the identity differs then. */
function mapPinned(objects: DiskObjects, sizes: MapSizes, blockCount: number): DiskMaps | undefined {
  try {
    return new DiskMaps(objects.maps, sizes, blockCount);
  } catch {
    return undefined;
  }
}

/** The disk as it is, with the id of a series that may begin. Throws when it can't be tracked. */
export function describe(disk: TrackableDisk, context: ArmContext): Identity {
  const facts = readDiskFacts(disk.sysName);
  if (facts === undefined) {
    throw new AfterimageError(`there is no disk ${disk.sysName}`, { code: 'disk-gone', kind: 'not-found' });
  }
  const unfit = untrackable(disk.sysName);
  if (unfit !== undefined) {
    throw new AfterimageError(`disk ${disk.sysName} can't be tracked: ${unfit}`, {
      code: 'tracker-unsupported',
      kind: 'unsupported',
      hint: 'use the scan tracker for this disk',
    });
  }
  if (disk.startSector + disk.sectorCount > facts.wholeSectors) {
    throw usageError(`disk ${disk.id} reaches beyond the end of ${disk.sysName}`, 'read its size again');
  }
  return {
    layout: LAYOUT_VERSION,
    series: asSeriesId(randomUUID()),
    bootId: readBootId(),
    ...facts,
    major: disk.major,
    minor: disk.minor,
    startSector: disk.startSector,
    sectorCount: disk.sectorCount,
    blockBytes: disk.geometry.blockBytes,
    mode: context.mode,
    disable: context.disable ?? 'none',
  };
}

function target(disk: TrackableDisk, sizes: MapSizes, mapFds: DiskObjects['maps'], context: ArmContext) {
  return {
    major: disk.major,
    minor: disk.minor,
    startSector: disk.startSector,
    sectorCount: disk.sectorCount,
    sectorsPerBlock: disk.geometry.blockBytes / SECTOR_BYTES,
    sizes,
    controlFd: context.controlFd,
    mapFds,
  };
}
