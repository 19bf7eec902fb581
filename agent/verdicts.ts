/**
 * What a disk does with the receiver's verdict: resolves a commit in doubt, decides whether the local hash store still holds what the receiver has,
 * and begins or continues a sweep.
 */
import type { Logger } from 'pino';
import { digestToText } from '../shared/blocks/hash.js';
import { asPoint } from '../shared/units.js';
import type { Welcome } from '../shared/wire/messages.js';
import { BlockSet } from '../shared/blocks/block-set.js';
import { refill } from './cycle/known-hashes.js';
import type { ProtectedDisk } from './cycle/protected-disk.js';
import type { ReceiverSession } from './session/session.js';

type DiskWelcome = Welcome['disks'][number];

export async function applyVerdict(
  disk: ProtectedDisk,
  said: DiskWelcome,
  welcome: Welcome,
  session: ReceiverSession,
  log: Logger,
): Promise<void> {
  await resolveDoubt(disk, said, welcome);
  disk.lastPoint = said.committedPoint;
  log.info({ disk: disk.id, verdict: said.verdict, reason: said.reason }, `receiver's verdict: ${said.verdict}`);
  if (said.verdict === 'full') {
    await disk.store.reset({ hashes: 'zero', point: asPoint(0), committedSeries: null, reason: said.reason });
    await beginSweep(disk, 'first-copy', said.reason);
    return;
  }
  const distrust = distrustReason(disk, said);
  if (distrust !== null) {
    log.warn({ disk: disk.id, reason: distrust }, 'local hashes are given up; the receiver is asked for its own');
    await disk.store.reset({
      hashes: 'unknown',
      point: asPoint(said.committedPoint),
      committedSeries: disk.series,
      reason: distrust,
    });
  }
  const doubt = distrust ?? staleSweepReason(disk);
  if (said.verdict === 'compare' || (said.verdict === 'resume' && doubt !== null)) {
    await beginSweep(disk, 'comparison', doubt ?? withSeriesReason(disk, said.reason));
    return;
  }
  if (said.verdict === 'resume') {
    resumeSweep(disk, said.reason);
    return;
  }
  if (disk.store.unknownSegments > 0 && !(await refill(disk, session))) {
    await beginSweep(
      disk,
      'comparison',
      'the hash store was lost, and the receiver can not say what it has: a layer is damaged',
    );
    return;
  }
  disk.need = null;
  disk.setState('Protected', said.reason);
}

/** The receiver sees that the series is another; why, only this machine knows. */
const withSeriesReason = ({ seriesReason }: ProtectedDisk, reason: string): string =>
  seriesReason === '' ? reason : `${reason}: ${seriesReason}`;

async function resolveDoubt(disk: ProtectedDisk, said: DiskWelcome, welcome: Welcome): Promise<void> {
  const cycle = disk.store.inDoubtCycle;
  if (cycle === null) return;
  if (welcome.lastCycle === cycle && said.committedPoint === welcome.lastPoint) {
    await disk.store.commit(cycle, asPoint(said.committedPoint), disk.series);
  } else {
    await disk.store.drop(cycle);
  }
}

/** Why the local hashes can't be what the receiver has; null when they can. */
function distrustReason(disk: ProtectedDisk, said: DiskWelcome): string | null {
  const { store } = disk;
  const staged = store.sweep?.stagedLayers ?? 0;
  if (store.point !== said.committedPoint)
    return `local hashes are of point ${store.point}, the receiver has point ${said.committedPoint}`;
  if (staged !== said.stagedLayers)
    return `${staged} staged layers are known here, ${said.stagedLayers} at the receiver`;
  if (store.unknownSegments > 0) return null;
  const digest = store.digest;
  if (staged === 0 && said.digest !== null && digest !== null && digestToText(digest) !== said.digest) {
    return 'the digest of the local hashes is not that of the last point';
  }
  return null;
}

/** What a sweep staged was read under a series that has ended: what was written to it since then went unseen. */
function staleSweepReason(disk: ProtectedDisk): string | null {
  const { sweep } = disk.store;
  if (sweep === null || sweep.series === disk.series) return null;
  return `change tracking was interrupted during the ${sweep.kind}`;
}

export async function beginSweep(
  disk: ProtectedDisk,
  kind: 'first-copy' | 'comparison',
  reason: string,
): Promise<void> {
  await disk.store.beginSweep(kind, disk.series);
  disk.need = { kind, reason };
  // All of it is read: what was taken before adds nothing.
  disk.carry = new BlockSet();
  disk.setState(kind === 'first-copy' ? 'InitialReplicationInProgress' : 'ResynchronizationInProgress', reason);
}

/** A first copy or comparison goes on at its segment; a bulk sweep's blocks are in `carry` and go with the next cycle. */
function resumeSweep(disk: ProtectedDisk, reason: string): void {
  const sweep = disk.store.sweep;
  const isWhole = sweep !== null && sweep.kind !== 'bulk' && sweep.nextSegment < disk.geometry.segmentCount;
  if (!isWhole || disk.trackable === null) {
    disk.need = sweep?.kind === 'first-copy' && isWhole ? { kind: 'first-copy', reason } : null;
    disk.setState(disk.lastPoint > 0 ? 'Protected' : 'InitialReplicationInProgress', reason);
    return;
  }
  const kind = sweep.kind === 'first-copy' ? 'first-copy' : 'comparison';
  disk.need = { kind, reason };
  disk.setState(kind === 'first-copy' ? 'InitialReplicationInProgress' : 'ResynchronizationInProgress', reason);
}
