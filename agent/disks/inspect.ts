/**
 * Looks at a device or image file that an operator wants to protect: what it is, which disk it is, whether it can be protected and how.
 * Reads only; changes nothing. Everything that makes protection impossible is a usage error that names the device; what merely deserves
 * attention is a warning.
 */
import { realpathSync, statSync, type BigIntStats } from 'node:fs';
import { chooseBlockBytes, geometryOf, type Geometry } from '../../shared/blocks/geometry.js';
import { AfterimageError, errnoOf, messageOf, usageError } from '../../shared/errors.js';
import { SECTOR_BYTES, type DiskId } from '../../shared/units.js';
import { freezePlanFor } from '../quiesce/mounts.js';
import type { TrackableDisk } from '../tracker/tracker.js';
import { blockNameOf, footprintOf, inodeOf, overlaps, type Source } from './footprint.js';
import { identityOf, type FileFacts, type Identity, type KeptIdentity } from './identity.js';
import type { Sysfs } from './sysfs.js';
import { backingFacts, devicePath, wholeDisks } from './locate.js';
import { multipathAbove, pathsText } from './multipath.js';
import { readDiskState, type DiskState } from './watch.js';
import { usageWarnings } from './warnings.js';

export interface MountedHere {
  readonly path: string;
  readonly fsType: string;
  /** Why it isn't frozen for a stronger point; null when it can be. */
  readonly notFrozen: 'read-only' | 'cannot-freeze' | null;
}

export interface InspectedDevice {
  readonly id: DiskId;
  readonly identity: Identity;
  readonly source: Source;
  readonly geometry: Geometry;
  /** Null when only the scan tracker can follow it, for `untrackedReason`. */
  readonly trackable: TrackableDisk | null;
  readonly untrackedReason: string | null;
  /** To be kept for `checkDisk`. */
  readonly state: DiskState;
  readonly mounted: readonly MountedHere[];
  readonly warnings: readonly string[];
}

export interface InspectContext {
  readonly sysfs: Sysfs;
  /** Disks of this machine that are protected already; the device itself must not be among them. */
  readonly protectedDisks: readonly { readonly id: DiskId; readonly source: Source }[];
  readonly kept: readonly KeptIdentity[];
  readonly newUuid: () => string;
  readonly procRoot?: string;
}

export function inspectDevice(path: string, context: InspectContext): InspectedDevice {
  const real = resolvePath(path);
  const stat = statSync(real, { bigint: true });
  if (stat.isDirectory()) throw usageError(`${path} is a folder`, 'Name the block device or image file that holds it.');
  if (stat.isFile()) return inspectFile(real, stat, context);
  if (stat.isBlockDevice()) return inspectBlock(real, context);
  throw usageError(`${path} is neither a block device nor a regular file`);
}

function resolvePath(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    const hint = 'Run `lsblk` to see the disks of this machine.';
    if (errnoOf(error) === 'ENOENT') throw usageError(`${path} does not exist`, hint);
    throw usageError(`${path} can't be reached: ${messageOf(error)}`, hint);
  }
}

function sizedGeometry(path: string, sizeBytes: number): Geometry {
  if (sizeBytes === 0) throw usageError(`${path} has no medium: its size is 0`);
  try {
    return geometryOf(sizeBytes, chooseBlockBytes(sizeBytes));
  } catch (error) {
    throw error instanceof AfterimageError ? usageError(`${path}: ${error.message}`) : error;
  }
}

const fileFacts = (path: string, stat: BigIntStats): FileFacts => ({
  path,
  inode: inodeOf(stat),
  sizeBytes: Number(stat.size),
});

function inspectFile(path: string, stat: BigIntStats, context: InspectContext): InspectedDevice {
  const file = fileFacts(path, stat);
  const geometry = sizedGeometry(path, file.sizeBytes);
  const source: Source = { kind: 'file', path, inode: file.inode };
  const identity = identityOf({ kind: 'file', file }, [], context.kept, context.newUuid);
  const reason = 'an image file: writes to it pass no block device of their own';
  return finish(context, { identity, source, geometry, trackable: null, untrackedReason: reason });
}

function inspectBlock(path: string, context: InspectContext): InspectedDevice {
  const { sysfs } = context;
  const name = blockNameOf(sysfs, path);
  const device = name === null ? null : sysfs.device(name);
  const parent = device === null ? null : sysfs.device(device.disk);
  if (device === null || parent === null) throw usageError(`${path} is a device node without a device behind it`);
  const above = multipathAbove(device, (other) => sysfs.device(other));
  if (above !== null) {
    const found = inspectBlock(devicePath(above.name), context);
    return { ...found, warnings: [pathsText(path, above), ...found.warnings] };
  }
  if (device.readOnly) {
    throw usageError(
      `${path} is read-only: it can't change, so there is nothing to follow`,
      'Copy it once, or make it writable.',
    );
  }
  const geometry = sizedGeometry(path, device.sectorCount * SECTOR_BYTES);
  const subject = { kind: 'block', device, parent, backing: backingFacts(parent) } as const;
  const identity = identityOf(subject, wholeDisks(sysfs), context.kept, context.newUuid);
  const untrackedReason = device.dax ? 'persistent memory (DAX): programs write to it past the block layer' : null;
  const trackable: TrackableDisk = {
    id: identity.id,
    major: device.diskMajor,
    minor: device.diskMinor,
    sysName: device.disk,
    startSector: device.startSector,
    sectorCount: device.sectorCount,
    geometry,
  };
  const source: Source = { kind: 'block', name: device.name, path };
  return finish(context, {
    identity,
    source,
    geometry,
    trackable: untrackedReason === null ? trackable : null,
    untrackedReason,
  });
}

function refuseOverlap(context: InspectContext, source: Source, id: DiskId): void {
  const footprint = footprintOf(context.sysfs, source);
  for (const other of context.protectedDisks) {
    if (other.id === id) throw usageError(`${source.path} is protected already, as disk ${id}`);
    const theirs = footprintOf(context.sysfs, other.source);
    if (footprint === null || theirs === null || !overlaps(footprint, theirs)) continue;
    throw usageError(
      `${source.path} shares bytes with ${other.source.path}, which is protected as disk ${other.id}`,
      'Protect either the whole disk or what lies on it, not both.',
    );
  }
}

function finish(
  context: InspectContext,
  found: Pick<InspectedDevice, 'identity' | 'source' | 'geometry' | 'trackable' | 'untrackedReason'>,
): InspectedDevice {
  const { sysfs, procRoot = '/proc' } = context;
  const { source, identity } = found;
  refuseOverlap(context, source, identity.id);
  const state = readDiskState(sysfs, source);
  if (state === null) throw usageError(`${source.path} vanished while it was inspected`);
  const plan = freezePlanFor(sysfs, [source], procRoot);
  const mounted: MountedHere[] = [
    ...plan.freeze.map(({ mounts, fsType }) => ({ path: mounts[0]?.path ?? '', fsType, notFrozen: null })),
    ...plan.skipped.map(({ path, fsType, why }) => ({ path, fsType, notFrozen: why })),
  ];
  const others = context.protectedDisks.map((disk) => disk.source);
  return {
    id: identity.id,
    ...found,
    state,
    mounted,
    warnings: usageWarnings(sysfs, source, others, mounted, procRoot),
  };
}
