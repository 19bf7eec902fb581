/**
 * One disk within one cycle: what is to be read (W), what was read and waits for the cut, and what was sent.
 *
 * Sent means: the receiver has it under this cycle; `sent` remembers the hash, so that a block that changes again is compared with what the
 * receiver has now, not with the last point. If the cycle fails, all that it took is handed back (`taken`).
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import { ZERO_HASH } from '../../shared/blocks/hash.js';
import type { BlockNumber } from '../../shared/units.js';
import { UNLIMITED, unpaced, type Pace } from '../load/pace.js';
import type { ReceiverSession } from '../session/session.js';
import type { DiskTake } from '../tracker/tracker.js';
import { BlockHashMap } from '../../shared/blocks/hash-map.js';
import { ChunkSender, type MessagePool } from './chunk-sender.js';
import { ensureTrusted } from './known-hashes.js';
import type { ProtectedDisk } from './protected-disk.js';
import type { OnBlocks } from './reader.js';
import type { WindowArena } from './window-arena.js';

export class DiskCycle {
  readonly disk: ProtectedDisk;
  readonly #session: ReceiverSession;
  readonly #sender: ChunkSender;
  readonly #arena: WindowArena;
  readonly #pace: Pace;
  /** W: to be read next. */
  window: BlockSet;
  /** All that this cycle has taken from the tracker (or was carried over). */
  readonly taken = new BlockSet();
  /** What the receiver has under this cycle. */
  readonly sent = new BlockHashMap();
  /** Blocks read into the arena that wait for the cut, with their offset there; the newest read of a block counts. */
  readonly #held = new Map<BlockNumber, number>();

  constructor(disk: ProtectedDisk, session: ReceiverSession, pool: MessagePool, arena: WindowArena, pace = UNLIMITED) {
    this.disk = disk;
    this.#session = session;
    this.#arena = arena;
    this.#pace = pace;
    this.window = disk.carry;
    disk.carry = new BlockSet();
    disk.cycling = this.taken;
    this.taken.addAll(this.window);
    this.#sender = new ChunkSender(
      session,
      pool,
      {
        index: disk.index,
        blockBytes: disk.geometry.blockBytes,
        counters: disk.counters,
        plain: disk,
        cipher: disk.cipher,
      },
      'cycle',
      null,
    );
  }

  get windowBytes(): number {
    return this.window.size * this.disk.geometry.blockBytes;
  }

  /** Adds what a take returned to W. */
  addTake(take: DiskTake): void {
    this.window.addAll(take.marked);
    this.taken.addAll(take.marked);
  }

  /** W becomes exactly what a take returned. */
  setWindow(take: DiskTake): void {
    this.window = take.marked;
    this.taken.addAll(take.marked);
  }

  /** The flip that ended this take's epoch proved the cut: what the take holds belongs to the next cycle. */
  cutAt(take: DiskTake): void {
    this.disk.carry = take.marked;
  }

  /** The cut does not count: what was to be the next cycle's is this one's again. */
  uncut(): void {
    this.window.addAll(this.disk.carry);
    this.taken.addAll(this.disk.carry);
    this.disk.carry = new BlockSet();
  }

  /** Whether a block of W was submitted again in the epoch that the take ended. */
  conflictsWith(take: DiskTake): boolean {
    for (const block of this.window.blocks()) if (take.submitted.mayHold(block)) return true;
    return false;
  }

  /** Reads W and sends what differs; W is empty afterwards. `paced`: within the limits of load, however long that takes. */
  async stream(paced: boolean): Promise<void> {
    const blocks = this.window;
    this.window = new BlockSet();
    if (blocks.isEmpty) return;
    const { blockBytes } = this.disk.geometry;
    const pace = paced ? this.#pace : unpaced(this.#pace);
    const onBlocks: OnBlocks = async (buffer, first, count) => {
      await this.#sendDiffering(
        Array.from({ length: count }, (_, i) => first + i),
        buffer,
        (i) => i * blockBytes,
      );
    };
    const totals = await this.disk.reader.readRuns(blocks.extents(), onBlocks, { pace });
    this.disk.counters.readBytes += totals.bytesRead;
    // A block that waits in memory and was read again since is out of date.
    for (const block of this.#held.keys()) if (blocks.has(block)) this.#held.delete(block);
  }

  /** Reads W into memory; it waits there for the cut. */
  async readWindow(): Promise<void> {
    const { blockBytes } = this.disk.geometry;
    const bytes = this.windowBytes;
    if (bytes === 0) return;
    const offset = this.#arena.reserve(bytes);
    const extents = [...this.window.extents()];
    const totals = await this.disk.reader.readSmall(
      extents,
      this.#arena.buffer.subarray(offset, offset + bytes),
      this.#pace,
    );
    this.disk.counters.readBytes += totals.bytesRead;
    let at = offset;
    for (const { first, count } of extents) {
      for (let i = 0; i < count; i++, at += blockBytes) this.#held.set(first + i, at);
    }
  }

  /** Sends what waits in memory. Before the cut this makes room; after it, it completes the point. */
  async sendHeld(): Promise<void> {
    if (this.#held.size === 0) return;
    const entries = [...this.#held].sort((a, b) => a[0] - b[0]);
    this.#held.clear();
    await this.#sendDiffering(
      entries.map(([block]) => block),
      this.#arena.buffer,
      (i) => entries[i]?.[1] ?? 0,
    );
  }

  async flush(): Promise<void> {
    await this.#sender.flush();
  }

  /** W goes out segment by segment instead: nothing of it is to be read here, and what waits in memory of it is out of date. */
  beginBulk(): void {
    for (const block of this.#held.keys()) if (this.window.has(block)) this.#held.delete(block);
    this.window = new BlockSet();
  }

  /** Gives everything back to be taken by a later cycle. */
  handBack(): void {
    this.disk.carry.addAll(this.taken);
    this.disk.cycling = null;
  }

  /** What it has taken is in a point. */
  committed(): void {
    this.disk.cycling = null;
  }

  async #trust(blocks: readonly BlockNumber[]): Promise<void> {
    for (const segment of await this.disk.store.untrustedAmong(Uint32Array.from(blocks), blocks.length)) {
      await ensureTrusted(this.disk, this.#session, segment, 'delta');
    }
  }

  async #sendDiffering(blocks: readonly BlockNumber[], buffer: Buffer, offsetOf: (i: number) => number): Promise<void> {
    const { blockBytes } = this.disk.geometry;
    const numbers = Uint32Array.from(blocks);
    const known = new BigUint64Array(numbers.length);
    await this.#trust(blocks);
    await this.disk.store.lookup(numbers, numbers.length, known);
    for (let i = 0; i < numbers.length; i++) {
      const block = numbers[i] ?? 0;
      const start = offsetOf(i);
      const hash = this.disk.cipher.hash(buffer, start, blockBytes, block);
      const sent = this.sent.get(block);
      const isAsked = sent === undefined && this.disk.resend.has(block);
      if (hash === (sent ?? known[i]) && !isAsked) continue;
      this.sent.set(block, hash);
      const wait =
        hash === ZERO_HASH ? this.#sender.addZero(block, 1) : this.#sender.addBlock(block, buffer, start, hash);
      if (wait !== undefined) await wait;
    }
  }
}
