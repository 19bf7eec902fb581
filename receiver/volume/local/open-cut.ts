/**
 * A cut that is being read while clients go on writing: before a changed block that was not read yet is overwritten, its content is copied to memory.
 * Memory is bounded: beyond it writers wait until the cut is read on or ended. In memory only: after a crash there is no cut.
 *
 * A block that was read needs no copy. Reading it a second time works until it is overwritten; then it fails rather than lie.
 */
import { BlockSet } from '../../../shared/blocks/block-set.js';
import { bytesOfBlocks, type Geometry } from '../../../shared/blocks/geometry.js';
import { AfterimageError, messageOf } from '../../../shared/errors.js';
import { CUT_COPIES_BYTES_MAX } from '../../../shared/limits.js';
import type { VolumeCut } from '../cut.js';

export interface CutHost {
  readonly geometry: Geometry;
  /** Bytes of the local image; the blocks of a cut are all local and stay so. */
  readImage(offset: number, into: Buffer): Promise<void>;
  /** Everything acknowledged so far survives a crash of the host. */
  flush(): Promise<void>;
  ended(cut: OpenCut, outcome: 'committed' | 'given-up'): void;
}

export class OpenCut implements VolumeCut {
  readonly changed: BlockSet;
  readonly #host: CutHost;
  readonly #copiesBytesMax: number;
  readonly #copies = new Map<number, Buffer>();
  /** Blocks whose file content is being read, for the cut's reader or for a copy; their writers wait. */
  readonly #busy = new Map<number, Promise<void>>();
  readonly #read = new BlockSet();
  readonly #overwritten = new BlockSet();
  #heldBytes = 0;
  #waiting: (() => void)[] = [];
  #ended = false;
  #failure: Error | undefined;
  #durable: Promise<void> | undefined;

  constructor(changed: BlockSet, host: CutHost, copiesBytesMax = CUT_COPIES_BYTES_MAX) {
    this.changed = changed;
    this.#host = host;
    this.#copiesBytesMax = copiesBytesMax;
  }

  async read(first: number, count: number, into: Buffer): Promise<void> {
    // What a point holds must not be lost by the volume that it came from: else the two would part unseen after a crash of the host.
    this.#durable ??= this.#host.flush();
    const results = await Promise.allSettled([this.#readBlocks(first, count, into), this.#durable]);
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  end(outcome: 'committed' | 'given-up'): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#copies.clear();
    this.#wake();
    this.#host.ended(this, outcome);
  }

  /** To be awaited before [first, first + count) is overwritten. Undefined: go on at once. Never rejects. */
  preserve(first: number, count: number): Promise<void> | undefined {
    if (this.#ended) return undefined;
    const blocks = this.changed.blocksIn(first, count);
    if (blocks.length === 0) return undefined;
    if (!blocks.every((block) => this.#isSafe(block))) return this.#preserve(blocks);
    this.#noteOverwritten(blocks);
    return undefined;
  }

  #isSafe(block: number): boolean {
    if (this.#busy.has(block)) return false;
    return this.#copies.has(block) || this.#read.has(block) || this.#overwritten.has(block);
  }

  async #preserve(blocks: readonly number[]): Promise<void> {
    while (!this.#ended) {
      const unsafe = blocks.filter((block) => !this.#isSafe(block));
      if (unsafe.length === 0) break;
      const busy = unsafe.map((block) => this.#busy.get(block)).find((work) => work !== undefined);
      if (busy !== undefined) {
        await busy;
        continue;
      }
      // One run at a time, and then look again: while it is copied others may come to be read, and their readers must be waited for.
      const first = unsafe[0] ?? 0;
      let count = 1;
      while (unsafe[count] === first + count) count++;
      const bytes = count * this.#host.geometry.blockBytes;
      // One that is larger than the bound passes alone.
      if (this.#heldBytes > 0 && this.#heldBytes + bytes > this.#copiesBytesMax) {
        await new Promise<void>((go) => this.#waiting.push(go));
        continue;
      }
      this.#heldBytes += bytes;
      await this.#copy(first, count);
    }
    this.#noteOverwritten(blocks);
  }

  #noteOverwritten(blocks: readonly number[]): void {
    for (const block of blocks) if (!this.#copies.has(block)) this.#overwritten.add(block);
  }

  /** Copies a run of blocks that nobody is at; a copy that fails spoils the cut, not the client's write. */
  async #copy(first: number, count: number): Promise<void> {
    const { blockBytes } = this.#host.geometry;
    const bytes = Buffer.alloc(count * blockBytes);
    await this.#whileBusy(first, count, async () => {
      try {
        await this.#readFile(first, count, bytes);
      } catch (error) {
        this.#failure ??= unreadable(messageOf(error), error);
      }
      if (this.#ended) return;
      // Memory of its own for each block, since each is given back by itself.
      for (let k = 0; k < count; k++) {
        this.#copies.set(first + k, Buffer.from(bytes.subarray(k * blockBytes, (k + 1) * blockBytes)));
      }
    });
  }

  async #readBlocks(first: number, count: number, into: Buffer): Promise<void> {
    const { blockBytes } = this.#host.geometry;
    const target = (block: number, n: number): Buffer =>
      into.subarray((block - first) * blockBytes, (block - first + n) * blockBytes);
    for (let at = first; at < first + count;) {
      this.#check(at);
      const busy = this.#busy.get(at);
      if (busy !== undefined) {
        await busy;
        continue;
      }
      const copy = this.#copies.get(at);
      if (copy !== undefined) {
        copy.copy(target(at, 1));
        this.#copies.delete(at);
        this.#overwritten.add(at);
        this.#heldBytes -= blockBytes;
        this.#wake();
        at++;
        continue;
      }
      const run = at;
      let n = 1;
      while (run + n < first + count && this.#isInFile(run + n)) n++;
      await this.#whileBusy(run, n, async () => {
        await this.#readFile(run, n, target(run, n));
        this.#read.addRange(run, n);
      });
      at += n;
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** The file has the block as it was at the cut, and nobody else is at it. */
  #isInFile(block: number): boolean {
    return (
      this.changed.has(block) && !this.#copies.has(block) && !this.#busy.has(block) && !this.#overwritten.has(block)
    );
  }

  #check(block: number): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#ended) throw unreadable('it was ended');
    if (!this.changed.has(block)) throw unreadable(`block ${block} is not part of it`);
    if (this.#overwritten.has(block)) throw unreadable(`block ${block} was read before and overwritten since`);
  }

  async #whileBusy(first: number, count: number, work: () => Promise<void>): Promise<void> {
    const run = work();
    const settled = run.catch(() => undefined);
    for (let i = 0; i < count; i++) this.#busy.set(first + i, settled);
    try {
      await run;
    } finally {
      for (let i = 0; i < count; i++) this.#busy.delete(first + i);
    }
  }

  async #readFile(first: number, count: number, into: Buffer): Promise<void> {
    const { geometry } = this.#host;
    const lengthBytes = bytesOfBlocks(geometry, first, count);
    await this.#host.readImage(first * geometry.blockBytes, into.subarray(0, lengthBytes));
    into.fill(0, lengthBytes);
  }

  #wake(): void {
    for (const go of this.#waiting.splice(0)) go();
  }
}

const unreadable = (why: string, cause?: unknown): AfterimageError =>
  new AfterimageError(`a cut of a volume can not be read: ${why}`, { code: 'cut-unreadable', kind: 'io', cause });
