/**
 * A receiver in memory, at the other end of a transport without a network: it takes the real messages of a real session, applies them to one
 * image per disk at each commit, and checks what a real receiver would: sequence, block hashes, the digest of the whole disk.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import { segmentBlocks, type Geometry } from '../../shared/blocks/geometry.js';
import { digestToText, hashBlock, ZERO_HASH } from '../../shared/blocks/hash.js';
import { chunkHash, decodeChunkData, decodeChunkHeader } from '../../shared/layer/chunk.js';
import { CHUNK_PLAIN_BYTES_MAX, WINDOW_BYTES } from '../../shared/limits.js';
import type { DiskId } from '../../shared/units.js';
import {
  DATA_HEADER_BYTES,
  decodeAgentMessage,
  decodeDataHeader,
  encodeControl,
  PROTOCOL_VERSION,
  TAG_DATA,
  type AgentMessage,
  type Commit,
  type ReceiverMessage,
} from '../../shared/wire/messages.js';
import type { Transport, TransportClosed } from '../../shared/wire/transport.js';

/** What a layer would hold: newest wins. */
type Blocks = Map<number, { readonly bytes: Buffer | null; readonly hash: bigint }>;

class MemoryDisk {
  readonly image: Buffer;
  readonly hashes: BigUint64Array;
  digest = 0n;
  /** What the running cycle has sent, and what sweeps have staged. */
  cycle: Blocks = new Map();
  staged: Blocks = new Map();

  constructor(
    readonly id: DiskId,
    readonly geometry: Geometry,
  ) {
    this.image = Buffer.alloc(geometry.sizeBytes);
    this.hashes = new BigUint64Array(geometry.blockCount);
  }

  commit(): void {
    for (const blocks of [this.staged, this.cycle]) for (const [block, what] of blocks) this.#apply(block, what);
    this.staged = new Map();
    this.cycle = new Map();
  }

  #apply(block: number, { bytes, hash }: { bytes: Buffer | null; hash: bigint }): void {
    const { blockBytes } = this.geometry;
    const end = Math.min((block + 1) * blockBytes, this.image.length);
    if (bytes === null) this.image.fill(0, block * blockBytes, end);
    else bytes.copy(this.image, block * blockBytes);
    this.digest ^= (this.hashes[block] ?? 0n) ^ hash;
    this.hashes[block] = hash;
  }
}

export class MemoryReceiver implements Transport {
  readonly closed: Promise<TransportClosed>;
  readonly #disks: MemoryDisk[];
  readonly #plain = Buffer.alloc(CHUNK_PLAIN_BYTES_MAX);
  #close: (closed: TransportClosed) => void = () => undefined;
  #handler: (bytes: Buffer) => void = () => undefined;
  #receivedBytes = 0;
  #sequence = 0;
  #stagedSequence = 0;
  #point = 0;

  constructor(disks: readonly { readonly id: DiskId; readonly geometry: Geometry }[]) {
    this.#disks = disks.map(({ id, geometry }) => new MemoryDisk(id, geometry));
    this.closed = new Promise((resolve) => (this.#close = resolve));
  }

  /** The images of the last committed point, in the order of the disks. */
  get images(): Buffer[] {
    return this.#disks.map((d) => d.image);
  }

  get point(): number {
    return this.#point;
  }

  onMessage(handler: (bytes: Buffer) => void): void {
    this.#handler = handler;
  }

  close(code: number, reason: string): void {
    this.#close({ code, reason });
  }

  async send(bytes: Buffer): Promise<void> {
    if (bytes[0] === TAG_DATA) this.#data(bytes);
    else this.#control(decodeAgentMessage(Buffer.from(bytes)));
    // As with a socket, nothing is answered within the call.
    await new Promise((resolve) => setImmediate(resolve));
  }

  #answer(message: ReceiverMessage): void {
    const bytes = encodeControl(message);
    setImmediate(() => this.#handler(bytes));
  }

  #acknowledge(): void {
    this.#answer({
      type: 'ack',
      receivedBytes: this.#receivedBytes,
      stagedSequence: this.#stagedSequence,
      committedPoint: this.#point,
    });
  }

  #data(message: Buffer): void {
    const { diskIndex, target, sequence } = decodeDataHeader(message);
    this.#follow(sequence);
    const disk = this.#disks[diskIndex];
    if (disk === undefined) throw new Error(`data for disk ${diskIndex}`);
    const chunk = message.subarray(DATA_HEADER_BYTES);
    const header = decodeChunkHeader(chunk);
    const into = target === 'cycle' ? disk.cycle : disk.staged;
    if (header.dataBlocks > 0) decodeChunkData(chunk, header, this.#plain);
    let i = 0;
    for (const { first, count, zero } of header.extents) {
      for (let block = first; block < first + count; block++) {
        if (zero) {
          into.set(block, { bytes: null, hash: ZERO_HASH });
          continue;
        }
        const { blockBytes } = header;
        const bytes = Buffer.from(this.#plain.subarray(i * blockBytes, (i + 1) * blockBytes));
        const hash = chunkHash(chunk, header, i++);
        if (hash !== hashBlock(bytes, block)) throw new Error(`hash of block ${block} is wrong`);
        into.set(block, { bytes, hash });
      }
    }
    this.#receivedBytes += message.length;
    this.#acknowledge();
  }

  #follow(sequence: number): void {
    if (sequence !== this.#sequence + 1) throw new Error(`sequence ${sequence} after ${this.#sequence}`);
    this.#sequence = sequence;
  }

  #control(message: AgentMessage): void {
    switch (message.type) {
      case 'hello':
        return this.#welcome();
      case 'cycle-begin':
        for (const disk of this.#disks) disk.cycle = new Map();
        return;
      case 'segment-end':
        this.#follow(message.sequence);
        this.#stagedSequence = message.sequence;
        return this.#acknowledge();
      case 'commit':
        return this.#commit(message);
      case 'hashes-request':
        return this.#hashes(message.disk, message.segment);
      case 'progress':
      case 'bye':
        return;
    }
  }

  #welcome(): void {
    const welcome = {
      type: 'welcome',
      protocol: PROTOCOL_VERSION,
      program: 'memory',
      mode: 'replicate',
      generation: 1,
      holdWorkload: false,
      epoch: 1,
      windowBytes: WINDOW_BYTES,
    } as const;
    this.#answer({ ...welcome, lastPoint: this.#point, lastCycle: null, disks: [] });
  }

  #commit(commit: Commit): void {
    if (commit.lastSequence !== this.#sequence)
      throw new Error(`commit up to ${commit.lastSequence}, ${this.#sequence} came`);
    for (const disk of this.#disks) {
      const said = commit.disks.find((d) => d.disk === disk.id);
      if (said === undefined) throw new Error(`commit without disk ${disk.id}`);
      disk.commit();
      const digest = digestToText(disk.digest);
      if (said.digest !== digest) throw new Error(`digest of ${disk.id}: ${said.digest} said, ${digest} is held`);
    }
    this.#point++;
    this.#answer({ type: 'committed', cycle: commit.cycle, point: this.#point, storedBytes: 0 });
  }

  #hashes(id: DiskId, segment: number): void {
    const disk = this.#disks.find((d) => d.id === id);
    if (disk === undefined) throw new Error(`hashes of disk ${id}`);
    const { first, count } = segmentBlocks(disk.geometry, segment);
    const hashes = disk.hashes.slice(first, first + count);
    for (const block of BlockSet.of(disk.staged.keys()).blocksIn(first, count))
      hashes[block - first] = disk.staged.get(block)?.hash ?? 0n;
    this.#answer({ type: 'hashes', disk: id, segment, hashes: new Uint8Array(hashes.buffer) });
  }
}
