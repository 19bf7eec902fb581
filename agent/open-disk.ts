/**
 * Opens one protected disk: finds it by its id, arms its tracker, opens its hash store and its reader.
 */
import { join } from 'node:path';
import { readFileSync } from 'node:fs';
import type { Logger } from 'pino';
import type { Clock } from '../shared/clock.js';
import { geometryOf, type Geometry } from '../shared/blocks/geometry.js';
import { AfterimageError, messageOf } from '../shared/errors.js';
import type { AgentConfig } from './config.js';
import { stateFolder, type StateFolder } from './cycle/hash-store/files.js';
import { sizeOfStore } from './cycle/hash-store/open.js';
import { HashStore } from './cycle/hash-store/store.js';
import { ProtectedDisk } from './cycle/protected-disk.js';
import type { ReadPool } from './cycle/read-pool.js';
import type { ReadSource } from './cycle/read-source.js';
import { DiskReader } from './cycle/reader.js';
import { StillDisk } from './cycle/still-disk.js';
import { agreeOnHashKey } from './keys/hash-key-note.js';
import { PLAIN_DISK, type SourceKeys } from './keys/source-keys.js';
import { isOfOneDisk } from './disks/absent.js';
import { inspectDevice, type InspectedDevice } from './disks/inspect.js';
import { locateDisk } from './disks/locate.js';
import type { Sysfs } from './disks/sysfs.js';
import { isPresent } from './disks/watch.js';
import type { ProtectedEntry, ProtectionList } from './protection.js';
import type { DiskId } from '../shared/units.js';
import { FIRST_SERIES } from './tracker/ebpf/arm.js';
import type { ArmResult, MarkTracker, TrackableDisk } from './tracker/tracker.js';

export interface OpenContext {
  readonly config: AgentConfig;
  readonly sysfs: Sysfs;
  readonly clock: Clock;
  readonly log: Logger;
  readonly pool: ReadPool;
  /** Null where this kernel can't track, with the reason. */
  readonly tracker: MarkTracker | null;
  readonly trackerReason: string;
  readonly newUuid: () => string;
  /** Why tracking of a disk did not go on over the last reboot, where that is known. */
  readonly rebootReasons?: ReadonlyMap<string, string>;
  /** Absent: this machine doesn't encrypt. */
  readonly keys?: SourceKeys;
  /** What a disk stands on in this process, where it isn't the kernel and `stateDir`: a simulation's. */
  readonly ground?: DiskGround;
}

export interface DiskGround {
  readonly bootId: string;
  readonly hashFolder: (disk: DiskId) => StateFolder;
  readonly openSource: (path: string) => ReadSource;
}

export interface OpenedDisk {
  readonly disk: ProtectedDisk;
  readonly inspected: InspectedDevice;
  /** Set when the disk has no marks and is read from end to end for each point. */
  readonly still: StillDisk | null;
}

/** Id of this boot of the kernel: after another one, page cache and kernel maps are gone. */
export const bootId = (): string => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();

export async function openDisk(
  entry: ProtectedEntry,
  list: ProtectionList,
  others: readonly OpenedDisk[],
  context: OpenContext,
): Promise<OpenedDisk> {
  const { path, inspected } = findDisk(entry, list, others, context);
  return openInspected(entry, path, inspected, context);
}

function findDisk(
  entry: ProtectedEntry,
  list: ProtectionList,
  others: readonly OpenedDisk[],
  context: OpenContext,
): { readonly path: string; readonly inspected: InspectedDevice } {
  const { sysfs } = context;
  const path = locateDisk(sysfs, entry.id, list.kept) ?? entry.path;
  const inspected = inspectDevice(path, {
    sysfs,
    protectedDisks: others.map(({ disk, inspected: { source } }) => ({ id: disk.id, source })),
    kept: list.kept,
    newUuid: context.newUuid,
  });
  if (inspected.id !== entry.id) {
    throw new AfterimageError(`disk ${entry.id} is not connected: ${path} is another disk now (${inspected.id})`, {
      code: 'disk-missing',
      kind: 'not-found',
      hint: 'Connect it again, or `afterimage-agent unprotect` it.',
    });
  }
  return { path, inspected };
}

/** Whether a disk that was away is there again, as large as it was, and can be read. Changes nothing. */
export async function canBeOpened(
  entry: ProtectedEntry,
  list: ProtectionList,
  others: readonly OpenedDisk[],
  context: OpenContext,
): Promise<boolean> {
  try {
    const { path, inspected } = findDisk(entry, list, others, context);
    const geometry = geometryOf(inspected.geometry.sizeBytes, entry.blockBytes);
    await mustNotShrink(entry.id, path, geometry, await hashFolderOf(entry.id, context));
    const { sysfs, pool } = context;
    const reader = new DiskReader({ path, geometry, pool, isPresent: () => isPresent(sysfs, inspected.state) });
    await reader.readRuns([{ first: 0, count: 1 }], () => undefined).finally(() => reader.close());
    return true;
  } catch (error) {
    if (isOfOneDisk(error)) return false;
    throw error;
  }
}

const hashFolderOf = async (id: DiskId, { config, ground }: OpenContext): Promise<StateFolder> =>
  ground?.hashFolder(id) ?? stateFolder(join(config.stateDir, 'hashes', id));

/** Its points are larger than it: none can be made of what is left. */
async function mustNotShrink(id: DiskId, path: string, { sizeBytes }: Geometry, folder: StateFolder): Promise<void> {
  const before = await sizeOfStore(folder);
  if (before === null || sizeBytes >= before) return;
  throw new AfterimageError(`disk ${id} (${path}) shrank from ${before} to ${sizeBytes} bytes`, {
    code: 'disk-shrank',
    kind: 'refused',
    hint: 'Bring it back to its size, or `afterimage-agent unprotect` it and protect it anew: its points stay.',
  });
}

/** The same for a device that was found and is known to be the entry's. */
export async function openInspected(
  entry: ProtectedEntry,
  path: string,
  inspected: InspectedDevice,
  context: OpenContext,
): Promise<OpenedDisk> {
  const geometry = geometryOf(inspected.geometry.sizeBytes, entry.blockBytes);
  await mustNotShrink(entry.id, path, geometry, await hashFolderOf(entry.id, context));
  const armed = arm(inspected, geometry, context);
  try {
    return await openArmed({ entry, path, inspected, geometry, armed }, context);
  } catch (error) {
    // Its pinned objects go on; the next try arms it again.
    if (armed.trackable !== null) context.tracker?.release(entry.id);
    throw error;
  }
}

interface Found {
  readonly entry: ProtectedEntry;
  readonly path: string;
  readonly inspected: InspectedDevice;
  readonly geometry: Geometry;
  readonly armed: Armed;
}

async function openArmed(
  { entry, path, inspected, geometry, armed }: Found,
  context: OpenContext,
): Promise<OpenedDisk> {
  const { sysfs, config, ground } = context;
  const cipher = context.keys?.forDisk(entry.id) ?? PLAIN_DISK;
  const dir = join(config.stateDir, 'hashes', entry.id);
  // A simulation's disks aren't in this file system, and keep their hash key.
  if (ground === undefined && (await agreeOnHashKey(dir, cipher.hashCheck)))
    context.log.warn(
      { disk: entry.id },
      'block hashes are made with another key from now on: all of the disk will be compared',
    );
  const { store, state, reason } = await HashStore.open({
    dir: ground?.hashFolder(entry.id) ?? dir,
    disk: entry.id,
    geometry,
    bootId: ground?.bootId ?? bootId(),
    clock: context.clock,
    syncJournal: true,
  });
  context.log.info({ disk: entry.id, path, hashStore: state, reason }, 'disk opened');
  const reader = new DiskReader({
    path,
    geometry,
    pool: context.pool,
    isPresent: () => isPresent(sysfs, inspected.state),
    ...(ground === undefined ? {} : { open: ground.openSource }),
  });
  const disk = new ProtectedDisk({
    id: entry.id,
    device: path,
    geometry,
    reader,
    store,
    trackable: armed.trackable,
    scanReason: armed.reason,
    cipher,
  });
  if (armed.result !== null) {
    disk.series = armed.result.series;
    disk.seriesReason = seriesReason(entry.id, armed.result, context.rebootReasons);
    disk.carry = armed.result.uncommitted;
  }
  const source = inspected.source;
  return {
    disk,
    inspected,
    still: armed.trackable === null ? new StillDisk(disk, sysfs, source, context.clock) : null,
  };
}

/** After a reboot nothing is pinned: why, those know that ran at shutdown and at boot. */
function seriesReason(id: DiskId, result: ArmResult, rebootReasons: ReadonlyMap<string, string> | undefined): string {
  if (result.resumed) return '';
  return result.reason === FIRST_SERIES ? (rebootReasons?.get(id) ?? result.reason) : result.reason;
}

type Armed =
  | { readonly trackable: TrackableDisk; readonly result: ArmResult; readonly reason: '' }
  | { readonly trackable: null; readonly result: null; readonly reason: string };

/**
 * Arms the tracker of a disk, before anything of it is read. What an earlier process had taken and not committed comes back in the result.
 * Where the kernel can't track it, the disk is scanned instead, with the reason.
 */
function arm(inspected: InspectedDevice, geometry: Geometry, { tracker, trackerReason, log }: OpenContext): Armed {
  const scan = (reason: string): Armed => {
    log.warn({ disk: inspected.id, reason }, 'no change tracking: the disk is read from end to end for each point');
    return { trackable: null, result: null, reason };
  };
  if (inspected.trackable === null) return scan(inspected.untrackedReason ?? 'not a block device');
  if (tracker === null) return scan(trackerReason);
  const trackable = { ...inspected.trackable, geometry };
  try {
    const result = tracker.arm(trackable);
    const { series, resumed, reason, uncommitted } = result;
    log.info(
      { disk: inspected.id, series, uncommittedBlocks: uncommitted.size, reason },
      resumed ? 'change tracking goes on' : 'change tracking begins',
    );
    return { trackable, result, reason: '' };
  } catch (error) {
    if (error instanceof AfterimageError && error.kind === 'unsupported') return scan(error.message);
    throw error;
  }
}

export async function closeDisk({ disk }: OpenedDisk, log: Logger): Promise<void> {
  disk.reader.close();
  await disk.store
    .close()
    .catch((error: unknown) => log.error({ err: error, disk: disk.id }, `hash store: ${messageOf(error)}`));
}
