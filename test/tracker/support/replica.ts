/**
 * A copy of a disk that is kept by takes alone, as a cycle would: take, read what was taken, audit, read again what the
 * audit asks for, commit. Compared with the disk byte by byte, it shows what a tracker lost.
 */
import { BlockSet } from '../../../shared/blocks/block-set.js';
import type { MarkTracker, TrackableDisk } from '../../../agent/tracker/tracker.js';
import type { LoopDisk } from './loop.js';

export class Replica {
  readonly #image: Buffer;
  readonly #blockBytes: number;
  takes = 0;
  copied = 0;
  recopies = 0;

  constructor(
    readonly tracker: MarkTracker,
    readonly disk: TrackableDisk,
    readonly loop: LoopDisk,
  ) {
    this.#image = Buffer.alloc(loop.sizeBytes);
    this.#blockBytes = disk.geometry.blockBytes;
    tracker.take();
    loop.readInto(this.#image, 0, loop.sizeBytes);
  }

  /** One take, copied. */
  follow(): void {
    const marked = this.tracker.take().disks.get(this.disk.id)?.marked ?? new BlockSet();
    this.takes++;
    this.#copy(marked);
  }

  /** Audit and commit. Returns the reason when the series ended. */
  commit(): string | undefined {
    const verdict = this.tracker.audit(this.disk.id);
    if (verdict.kind === 'series-ended') return verdict.reason;
    if (verdict.kind === 'recopy') {
      this.recopies++;
      this.#copy(verdict.blocks);
    }
    this.tracker.committed(this.disk.id, new BlockSet());
    return undefined;
  }

  /** Blocks in which the copy differs from the disk; they are repaired, so that each loss counts once. */
  differences(): number[] {
    const now = Buffer.alloc(this.loop.sizeBytes);
    this.loop.readInto(now, 0, this.loop.sizeBytes);
    const lost: number[] = [];
    if (now.equals(this.#image)) return lost;
    for (let at = 0; at < now.length; at += this.#blockBytes) {
      const end = at + this.#blockBytes;
      if (now.compare(this.#image, at, end, at, end) !== 0) lost.push(at / this.#blockBytes);
    }
    now.copy(this.#image);
    return lost;
  }

  #copy(blocks: BlockSet): void {
    this.copied += blocks.size;
    for (const { first, count } of blocks.extents()) {
      this.loop.readInto(this.#image, first * this.#blockBytes, count * this.#blockBytes);
    }
  }
}
