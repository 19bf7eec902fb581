/**
 * A disk without change tracking (an image file, or a device that eBPF can't follow): it is read from end to end and compared, and what was read
 * is a consistent image only if the source stood still all the while (tracker/scan.ts proves that).
 */
import type { Clock } from '../../shared/clock.js';
import type { Source } from '../disks/footprint.js';
import type { Sysfs } from '../disks/sysfs.js';
import { fingerprint, isStill, type Fingerprint } from '../tracker/scan.js';
import { CutNotReached } from './cut.js';
import type { ProtectedDisk } from './protected-disk.js';
import { sweep, type SweepContext } from './sweep.js';

export class StillDisk {
  readonly disk: ProtectedDisk;
  readonly #sysfs: Sysfs;
  readonly #source: Source;
  readonly #clock: Clock;
  #before: Fingerprint | null = null;
  #committed: Fingerprint | null = null;

  constructor(disk: ProtectedDisk, sysfs: Sysfs, source: Source, clock: Clock) {
    this.disk = disk;
    this.#sysfs = sysfs;
    this.#source = source;
    this.#clock = clock;
  }

  /** Whether the source looks as it did at the last point. */
  async isUnchanged(): Promise<boolean> {
    return this.#committed !== null && isStill(this.#committed, await this.#look()).still;
  }

  /** Reads and sends what differs, unless the source is as it was at the last point and nothing was asked for. */
  async sweepIfChanged(context: SweepContext): Promise<void> {
    this.#before = await this.#look();
    const isAsked = !this.disk.resend.isEmpty;
    if (!isAsked && this.#committed !== null && isStill(this.#committed, this.#before).still) return;
    await this.disk.store.beginSweep('comparison', null);
    await sweep(this.disk, { kind: 'comparison', only: null, firstSegment: 0 }, context);
  }

  /** Throws when the source was written since it was read. */
  async assertStill(): Promise<void> {
    if (this.#before === null) return;
    const verdict = isStill(this.#before, await this.#look());
    if (verdict.still) return;
    throw new CutNotReached(
      `disk ${this.disk.id} has no change tracking and was written while it was read: ${verdict.reason}`,
    );
  }

  committed(): void {
    this.#committed = this.#before;
  }

  #look(): Promise<Fingerprint> {
    return fingerprint(this.#sysfs, this.#source, this.#clock);
  }
}
