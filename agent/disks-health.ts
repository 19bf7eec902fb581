/**
 * Whether the disks of a session can be read, and what to do when one can't: its points stop with the reason, those of the others go on, and it is
 * tried again by itself. Decides by what is there now; owns nothing that outlives the session.
 *
 * A disk that is gone, was replaced or resized, or to which a second path leads, is opened anew together with the others (their tracking goes on). One that is there and fails to read stays
 * open, since its marks are worth keeping: what is written to it meanwhile is in its next point.
 */
import type { Logger } from 'pino';
import type { Clock } from '../shared/clock.js';
import { AfterimageError, messageOf } from '../shared/errors.js';
import { DISK_LOOK_MS } from '../shared/limits-disks.js';
import type { DiskId } from '../shared/units.js';
import type { DiskState, ProtectedDisk } from './cycle/protected-disk.js';
import { DiskReadError } from './cycle/reader.js';
import { withoutText, type AbsentDisk } from './disks/absent.js';
import { looseText } from './disks/multipath.js';
import { PathsWatch, pathsToSource } from './disks/paths-watch.js';
import type { Sysfs } from './disks/sysfs.js';
import { checkDisk } from './disks/watch.js';
import type { OpenedDisk } from './open-disk.js';

export interface HealthDeps {
  readonly sysfs: Sysfs;
  readonly clock: Clock;
  readonly log: Logger;
  readonly disks: readonly OpenedDisk[];
  /** Protected disks that are not open. */
  readonly absent: readonly AbsentDisk[];
  /** Whether a disk that is away could be opened now. */
  readonly isBack: (disk: AbsentDisk) => Promise<boolean>;
}

interface Failure {
  readonly disk: ProtectedDisk;
  /** Where reading failed. */
  readonly block: number;
  readonly before: { readonly state: DiskState; readonly reason: string };
}

export class DisksHealth {
  readonly #deps: HealthDeps;
  readonly #failures = new Map<ProtectedDisk, Failure>();
  readonly #paths: PathsWatch;
  #lookAtMs: number;

  constructor(deps: HealthDeps) {
    this.#deps = deps;
    this.#paths = new PathsWatch(deps.sysfs, deps.clock);
    this.#lookAtMs = deps.clock.monotonicMs() + DISK_LOOK_MS;
  }

  /** A disk is away or can't be read: `check` is to be called now and then, whenever the next point may be due. */
  get isLooking(): boolean {
    return this.#deps.absent.length > 0 || this.#failures.size > 0;
  }

  /** Throws DisksChanged when the disks have to be opened anew. */
  async check(): Promise<void> {
    const { sysfs, clock, disks, absent, isBack } = this.#deps;
    for (const { disk, inspected } of disks) {
      const verdict = checkDisk(sysfs, inspected.state);
      if (verdict.is === 'unchanged') continue;
      disk.setState('Failed', verdict.reason);
      // What was gone, or smaller, may come back with other content under the same number. Of one that grew, the tracker itself knows.
      disk.mustBeCompared = verdict.is !== 'resized' || verdict.sizeBytes < disk.geometry.sizeBytes;
      throw new DisksChanged(verdict.reason);
    }
    this.#checkPaths();
    if (clock.monotonicMs() < this.#lookAtMs) return;
    for (const disk of absent) if (await isBack(disk)) throw new DisksChanged(`${disk.path} is back`);
    for (const failure of [...this.#failures.values()]) await this.#tryAgain(failure);
    this.#lookAtMs = clock.monotonicMs() + DISK_LOOK_MS;
  }

  /** An error of reading one disk: it is set aside; returns why. Null: the error is of another kind. */
  setAside(error: unknown): string | null {
    if (!(error instanceof DiskReadError)) return null;
    const disk = this.#deps.disks.find((d) => d.disk.reader.path === error.path)?.disk;
    if (disk === undefined || disk.state === 'Failed') return null;
    const before = { state: disk.state, reason: disk.stateReason };
    this.#failures.set(disk, { disk, block: Math.floor(error.offset / disk.geometry.blockBytes), before });
    disk.setState('Failed', error.message);
    this.#deps.log.error(
      { disk: disk.id, err: error },
      `disk can't be read: points go on without it until it can: ${error.message}`,
    );
    return error.message;
  }

  /** Protected disks that a point made now doesn't hold: their ids, and for its reason why; null when it holds all. */
  without(): { readonly disks: readonly DiskId[]; readonly text: string | null } {
    const failed = this.#deps.disks.filter(({ disk }) => disk.state === 'Failed');
    const without = [
      ...this.#deps.absent,
      ...failed.map(({ disk }) => ({ id: disk.id, path: disk.device, reason: disk.stateReason })),
    ];
    return { disks: without.map(({ id }) => id), text: withoutText(without) };
  }

  /** A second path that nothing joins: what is written over it isn't seen, so no further point may hold the disk. It is opened again when that path is gone. */
  #checkPaths(): void {
    const { sysfs, disks } = this.#deps;
    const devices = disks.filter(({ inspected }) => inspected.state.source.kind === 'block');
    const present = devices.length === 0 ? null : this.#paths.look();
    if (present === null) return;
    for (const { disk, inspected } of devices) {
      const paths = pathsToSource(sysfs, inspected.state.source, present);
      if (paths === null) continue;
      disk.paths = paths.joined;
      if (paths.loose.length === 0) continue;
      const why = looseText(disk.device, paths.loose);
      disk.setState('Failed', why);
      disk.mustBeCompared = true;
      throw new DisksChanged(why);
    }
  }

  async #tryAgain({ disk, block, before }: Failure): Promise<void> {
    try {
      await disk.reader.readRuns([{ first: block, count: 1 }], () => undefined);
    } catch (error) {
      disk.setState('Failed', messageOf(error));
      return;
    }
    this.#failures.delete(disk);
    disk.setState(before.state, before.reason);
    this.#deps.log.info({ disk: disk.id }, 'disk can be read again: the next point holds what changed meanwhile');
  }
}

/** The disks have to be opened anew: the session ends for that. */
export class DisksChanged extends AfterimageError {
  constructor(why: string) {
    super(`disks are opened anew: ${why}`, { code: 'disks-changed', kind: 'disconnected' });
  }
}
