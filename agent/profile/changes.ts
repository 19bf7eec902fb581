/**
 * Finds out which blocks of disks changed, for a profile: by a tracker of its own, by reading everything, or not at all.
 *
 * Its pins lie beside the agent's, in a directory named after this process: a running agent's series go on as if nothing were there. What a killed
 * profile has left is removed by the next one. Disks are read, never written; nothing is kept in the agent's state.
 */
import { existsSync, readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { hashBlockAt } from '../../shared/blocks/hash.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { PROFILE_SCAN_BYTES_MAX } from '../../shared/limits-profile.js';
import { formatBytes } from '../../shared/units.js';
import type { DiskReader } from '../cycle/reader.js';
import type { InspectedDevice } from '../disks/inspect.js';
import { removeAllPins } from '../tracker/ebpf/objects.js';
import type { MarkTracker } from '../tracker/tracker.js';

export const profilePinDirectory = (agentPinDirectory: string, pid: number): string =>
  `${agentPinDirectory}-profile-${pid}`;

/** Removes the pins of profiles whose process is gone. */
export function removeStalePins(agentPinDirectory: string): void {
  const parent = dirname(agentPinDirectory);
  const prefix = `${basename(agentPinDirectory)}-profile-`;
  for (const name of existsSync(parent) ? readdirSync(parent) : []) {
    const pid = name.startsWith(prefix) ? name.slice(prefix.length) : '';
    if (/^\d+$/.test(pid) && !existsSync(`/proc/${pid}`)) removeAllPins(join(parent, name));
  }
}

export interface DiskChanges {
  readonly method: 'ebpf' | 'scan' | 'writes-only';
  readonly methodReason: string;
  /** What makes what it found less than certain. */
  readonly doubts: ReadonlySet<string>;
  /** Blocks changed since the last call; the first call begins. `marked`: what the tracker's take has of it. */
  changed(marked: BlockSet | undefined): Promise<BlockSet>;
}

/** The way that this disk allows. */
export function changesOf(
  device: InspectedDevice,
  reader: DiskReader,
  tracker: MarkTracker | null,
  trackerReason: string,
): DiskChanges {
  let reason = device.untrackedReason ?? trackerReason;
  if (device.trackable !== null && tracker !== null) {
    try {
      tracker.arm(device.trackable);
      return new Marked(device, tracker);
    } catch (error) {
      if (!(error instanceof AfterimageError) || error.kind !== 'unsupported') throw error;
      reason = error.message;
    }
  }
  if (device.geometry.sizeBytes <= PROFILE_SCAN_BYTES_MAX) return new Scanned(device, reader, reason);
  const large = `larger than ${formatBytes(PROFILE_SCAN_BYTES_MAX)}, too large to be read for each sample`;
  const nothing = new BlockSet();
  return {
    method: 'writes-only',
    methodReason: `${reason}; ${large}`,
    doubts: new Set(),
    changed: () => Promise.resolve(nothing),
  };
}

class Marked implements DiskChanges {
  readonly method = 'ebpf';
  readonly methodReason = '';
  readonly doubts = new Set<string>();
  readonly #device: InspectedDevice;
  readonly #tracker: MarkTracker;

  constructor(device: InspectedDevice, tracker: MarkTracker) {
    this.#device = device;
    this.#tracker = tracker;
  }

  changed(marked = new BlockSet()): Promise<BlockSet> {
    const { id } = this.#device;
    const verdict = this.#tracker.audit(id);
    if (verdict.kind === 'series-ended') {
      this.doubts.add(`changes may have gone unseen: ${verdict.reason}`);
      this.#restart(verdict.reason);
    }
    if (verdict.kind === 'recopy') this.doubts.add('completions of some writes went unseen');
    if (verdict.kind !== 'series-ended') this.#tracker.committed(id, new BlockSet());
    return Promise.resolve(marked);
  }

  #restart(reason: string): void {
    try {
      this.#tracker.restartSeries(this.#device.id, reason);
    } catch (error) {
      if (!(error instanceof AfterimageError)) throw error;
      this.doubts.add(`nothing is seen any more: ${messageOf(error)}`);
    }
  }
}

class Scanned implements DiskChanges {
  readonly method = 'scan';
  readonly methodReason: string;
  readonly doubts = new Set<string>([
    'read while it may have been written: a block is seen as it was when it was read',
  ]);
  readonly #hashes: BigUint64Array;
  readonly #reader: DiskReader;
  #begun = false;

  constructor(device: InspectedDevice, reader: DiskReader, reason: string) {
    this.methodReason = reason;
    this.#hashes = new BigUint64Array(device.geometry.blockCount);
    this.#reader = reader;
  }

  async changed(): Promise<BlockSet> {
    const changed = new BlockSet();
    const { blockBytes, blockCount } = this.#reader.geometry;
    await this.#reader.readRuns([{ first: 0, count: blockCount }], (buffer, first, count) => {
      for (let i = 0; i < count; i++) {
        const hash = hashBlockAt(buffer, i * blockBytes, blockBytes, first + i);
        if (hash === this.#hashes[first + i]) continue;
        this.#hashes[first + i] = hash;
        changed.add(first + i);
      }
    });
    if (this.#begun) return changed;
    this.#begun = true;
    return new BlockSet();
  }
}
