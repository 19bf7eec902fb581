/**
 * Facts of the protected disks and of the room for their hash stores. Reads only; no disk's content is looked at.
 */
import { readdirSync, statfsSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { JOURNAL_BYTES_MAX } from '../../../shared/limits.js';
import { BLOCK_BYTES_MIN } from '../../../shared/limits.js';
import { inspectDevice, type InspectedDevice } from '../../disks/inspect.js';
import { locateDisk, wholeDisks } from '../../disks/locate.js';
import { pathsToSource } from '../../disks/paths-watch.js';
import type { Sysfs } from '../../disks/sysfs.js';
import { loadProtection, type ProtectedEntry, type ProtectionList } from '../../protection.js';
import type { DiskFacts, Problem, SpaceFacts } from '../facts.js';
import { problemOf } from './problem.js';

const HASH_BYTES = 8;
const STAT_BLOCK_BYTES = 512;
/** A disk without a number gets an id of its own at each look; what it is then doesn't matter. */
const NO_ID = 'unknown';

export async function listedDisks(stateDir: string): Promise<ProtectionList | Problem> {
  try {
    return await loadProtection(stateDir);
  } catch (error) {
    return problemOf(error);
  }
}

export function diskFacts(list: ProtectionList, sysfs: Sysfs): DiskFacts[] {
  const known: { id: InspectedDevice['id']; source: InspectedDevice['source'] }[] = [];
  const present = wholeDisks(sysfs);
  return list.disks.map((entry) => {
    const path = locateDisk(sysfs, entry.id, list.kept) ?? entry.path;
    try {
      const found = inspectDevice(path, { sysfs, protectedDisks: known, kept: list.kept, newUuid: () => NO_ID });
      if (found.id !== entry.id) return missing(entry, path, found.id);
      known.push({ id: found.id, source: found.source });
      const paths = pathsToSource(sysfs, found.source, present)?.joined ?? [];
      return { ...factsOf(found, path, list), paths };
    } catch (error) {
      return { ...missing(entry, path, ''), problem: problemOf(error) };
    }
  });
}

const missing = (entry: ProtectedEntry, path: string, found: string): DiskFacts => ({
  id: entry.id,
  path,
  sizeBytes: null,
  problem: { message: `disk ${entry.id} is not connected: ${path} is another disk now (${found})`, hint: null },
  untrackedReason: null,
  paths: [],
  isKnownBySlot: false,
  warnings: [],
});

function factsOf(found: InspectedDevice, path: string, { kept }: ProtectionList): Omit<DiskFacts, 'paths'> {
  return {
    id: found.id,
    path,
    sizeBytes: found.geometry.sizeBytes,
    problem: null,
    untrackedReason: found.untrackedReason,
    isKnownBySlot: kept.some(({ id, key }) => key.startsWith('slot:') && found.id.startsWith(id)),
    warnings: found.warnings,
  };
}

export function spaceFacts(stateDir: string, list: ProtectionList, disks: readonly DiskFacts[]): SpaceFacts | Problem {
  try {
    const { bavail, bsize } = statfsSync(nearestFolder(stateDir));
    const fullBytes = list.disks.reduce((sum, { id, blockBytes }) => {
      const sizeBytes = disks.find((disk) => disk.id === id)?.sizeBytes ?? 0;
      return sum + (sizeBytes / Math.max(blockBytes, BLOCK_BYTES_MIN)) * HASH_BYTES + JOURNAL_BYTES_MAX;
    }, 0);
    const usedBytes = list.disks.reduce((sum, { id }) => sum + usedIn(join(stateDir, 'hashes', id)), 0);
    return { path: stateDir, freeBytes: bavail * bsize, neededBytes: Math.max(0, Math.round(fullBytes - usedBytes)) };
  } catch (error) {
    return problemOf(error);
  }
}

/** Before the first enrolment there is no such folder yet. */
function nearestFolder(path: string): string {
  try {
    statSync(path);
    return path;
  } catch {
    return nearestFolder(dirname(path));
  }
}

function usedIn(folder: string): number {
  try {
    return readdirSync(folder).reduce((sum, name) => sum + statSync(join(folder, name)).blocks * STAT_BLOCK_BYTES, 0);
  } catch {
    return 0;
  }
}
