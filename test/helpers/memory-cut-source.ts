/** A writable volume in memory, as strict about the contract of CutSource as it can be: what breaks it throws. */
import type { Geometry } from '../../shared/blocks/geometry.js';
import { BlockSet } from '../../shared/blocks/block-set.js';
import type { DiskId } from '../../shared/units.js';
import type { CutSource, VolumeCut } from '../../receiver/volume/cut.js';

export class MemoryCutSource implements CutSource {
  readonly disk: DiskId;
  readonly geometry: Geometry;
  /** What the guest sees: whole blocks, the last one padded. */
  readonly bytes: Buffer;
  /** What it held at each cut that was taken, oldest first. */
  readonly images: Buffer[] = [];
  changed = new BlockSet();
  openCuts = 0;
  /** Called at each read of a cut; may reject. */
  onRead: () => Promise<void> = () => Promise.resolve();
  /** Called at each hold; may reject or not come back. */
  onHold: () => Promise<void> = () => Promise.resolve();
  #released: Promise<void> | null = null;
  #release = (): void => undefined;

  constructor(disk: DiskId, geometry: Geometry, bytes?: Buffer) {
    this.disk = disk;
    this.geometry = geometry;
    this.bytes = Buffer.alloc(geometry.blockCount * geometry.blockBytes);
    bytes?.copy(this.bytes);
  }

  get changedBlocks(): number {
    return this.changed.size;
  }

  /** Blocks that are not on this host: all else is. */
  readonly away = new BlockSet();

  get isComplete(): boolean {
    return this.away.isEmpty;
  }

  held(blocks: BlockSet): BlockSet {
    const found = blocks.clone();
    for (const block of this.away.blocks()) found.delete(block);
    return found;
  }

  markChanged(blocks: BlockSet): void {
    this.changed.addAll(blocks);
  }

  get isHeld(): boolean {
    return this.#released !== null;
  }

  /** As a guest would: waits while held. */
  async write(block: number, content: Buffer): Promise<void> {
    while (this.#released !== null) await this.#released;
    this.set(block, content);
  }

  set(block: number, content: Buffer): void {
    const { blockBytes, sizeBytes } = this.geometry;
    const at = block * blockBytes;
    content.copy(this.bytes, at, 0, Math.min(blockBytes, sizeBytes - at));
    this.changed.add(block);
  }

  async hold(): Promise<void> {
    if (this.#released !== null) throw new Error('held twice');
    this.#released = new Promise((resolve) => (this.#release = resolve));
    await this.onHold();
  }

  resume(): void {
    this.#released = null;
    this.#release();
  }

  cut(): VolumeCut {
    if (this.#released === null) throw new Error('a cut without a hold');
    if (this.openCuts > 0) throw new Error('a second cut');
    this.openCuts++;
    const image = Buffer.from(this.bytes);
    this.images.push(image);
    const changed = this.changed;
    this.changed = new BlockSet();
    const { blockBytes } = this.geometry;
    let ended = false;
    let reading = 0;
    return {
      changed,
      read: async (first, count, into) => {
        if (ended) throw new Error('a read of a cut that was given back');
        for (let block = first; block < first + count; block++)
          if (!changed.has(block)) throw new Error(`a read of block ${block}, which did not change`);
        reading++;
        try {
          await this.onRead();
          await new Promise((resolve) => setImmediate(resolve));
          if (ended) throw new Error('a cut was given back while it was read');
          image.copy(into, 0, first * blockBytes, (first + count) * blockBytes);
        } finally {
          reading--;
        }
      },
      end: (outcome) => {
        if (ended) throw new Error('a cut ended twice');
        if (reading > 0) throw new Error('a cut was given back while it was read');
        ended = true;
        this.openCuts--;
        if (outcome === 'given-up') this.changed.addAll(changed);
      },
    };
  }
}
