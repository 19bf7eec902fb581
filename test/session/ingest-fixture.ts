/**
 * One receiver session in this process: a transport without a network, and an agent's side that speaks the protocol by hand.
 */
import { randomUUID } from 'node:crypto';
import type { BlockHasher } from '../../shared/crypto/block-hasher.js';
import { encodeChunk, chunkBytesMax, type ChunkExtent, type ChunkSealer } from '../../shared/layer/chunk.js';
import { digestToText, hashBlockAt } from '../../shared/blocks/hash.js';
import { segmentBlocks, geometryOf } from '../../shared/blocks/geometry.js';
import { systemClock, type Clock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, asMachineId, asSeriesId, MIB } from '../../shared/units.js';
import type { TransportClosed } from '../../shared/wire/transport.js';
import {
  DATA_HEADER_BYTES,
  decodeReceiverMessage,
  encodeControl,
  encodeDataHeader,
  PROTOCOL_VERSION,
  type AgentMessage,
  type Commit,
  type DataTarget,
  type Hello,
  type HelloDisk,
  type ReceiverMessage,
} from '../../shared/wire/messages.js';
import type { MachineIdentity } from '../../receiver/catalog/manifest.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { IngestSession, type IngestDeps, type IngestTransport } from '../../receiver/session/ingest.js';
import { newMachineStatus, type MachineStatus } from '../../receiver/session/status.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { digestOfUnit } from '../../receiver/volume/block-hashes.js';
import { LayerReader } from '../../receiver/volume/layer-reader.js';
import { planPoint } from '../../receiver/volume/plan-point.js';
import type { Random } from '../helpers/random.js';

export const MACHINE = asMachineId('11111111-2222-4333-8444-555555555555');
export const DISK = asDiskId('disk0');
export const SERIES = asSeriesId('aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeee1');
export const BLOCK_BYTES = 4096;
export const DISK_BYTES = 130 * MIB;
export const GEOMETRY = geometryOf(DISK_BYTES, BLOCK_BYTES);

export const IDENTITY: MachineIdentity = {
  version: 1,
  number: 1,
  machine: MACHINE,
  name: 'web1',
  certificate: 'a'.repeat(64),
  hardwareId: 'hardware-1',
  generation: 1,
  enrolledAtMs: 1,
};

export const HELLO_DISK: HelloDisk = {
  id: DISK,
  device: '/dev/vdb',
  sizeBytes: DISK_BYTES,
  blockBytes: BLOCK_BYTES,
  series: SERIES,
  tracker: 'ebpf',
  committedPoint: 0,
  committedSeries: null,
  changedBlocks: 0,
  hashStore: 'none',
  sweep: null,
};

export const helloOf = (disks: readonly HelloDisk[] = [HELLO_DISK], more: Partial<Hello> = {}): Hello => ({
  type: 'hello',
  protocol: PROTOCOL_VERSION,
  program: 'test',
  machine: MACHINE,
  generation: 1,
  hardwareId: 'hardware-1',
  session: randomUUID(),
  description: { hostname: 'web1', os: 'Linux', cpus: 1, memoryBytes: 1, firmware: 'bios', nics: [] },
  inDoubtCycle: null,
  disks: [...disks],
  ...more,
});

/** Both ends of a connection without a network. What the session sends is kept in order. */
export class FakeTransport implements IngestTransport {
  readonly closed: Promise<TransportClosed>;
  readonly said: ReceiverMessage[] = [];
  end: TransportClosed | null = null;
  paused = false;
  pauses = 0;
  resumes = 0;
  /** Set: sends wait for it, as they do when the peer doesn't read. */
  hold: Promise<void> | null = null;
  #handler: ((bytes: Buffer) => void) | null = null;
  #resolve: (closed: TransportClosed) => void = () => undefined;
  #waiting: (() => void)[] = [];

  constructor() {
    this.closed = new Promise((resolve) => (this.#resolve = resolve));
  }

  async send(bytes: Buffer): Promise<void> {
    if (this.end !== null) throw new Error('closed');
    this.said.push(decodeReceiverMessage(Buffer.from(bytes)));
    this.#wake();
    // As with a socket: done in a later turn of the event loop.
    await new Promise((resolve) => setImmediate(resolve));
    if (this.hold !== null) await this.hold;
  }

  onMessage(handler: (bytes: Buffer) => void): void {
    this.#handler = handler;
  }

  pause(): void {
    this.paused = true;
    this.pauses++;
  }

  resume(): void {
    this.paused = false;
    this.resumes++;
  }

  close(code: number, reason: string): void {
    if (this.end !== null) return;
    this.end = { code, reason };
    this.#resolve(this.end);
    this.#wake();
  }

  deliver(bytes: Buffer): void {
    if (this.end === null) this.#handler?.(bytes);
  }

  /** The first message of a kind that was not asked for before; rejects when the connection ends without one. */
  async next<T extends ReceiverMessage['type']>(type: T): Promise<Extract<ReceiverMessage, { type: T }>> {
    for (;;) {
      const at = this.said.findIndex((m) => m.type === type);
      if (at >= 0) return this.said.splice(at, 1)[0] as Extract<ReceiverMessage, { type: T }>;
      if (this.end !== null) throw new Error(`the session ended with ${this.end.code} ${this.end.reason}`);
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

/** The same store, but `before` runs ahead of each call of one method. */
export function withHook(store: ObjectStore, method: keyof ObjectStore, before: () => Promise<void>): ObjectStore {
  return new Proxy(store, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key, target);
      if (typeof value !== 'function') return value;
      if (key !== method) return value.bind(target) as unknown;
      return async (...args: unknown[]) => {
        await before();
        return (await Reflect.apply(value, target, args)) as unknown;
      };
    },
  });
}

export function blockBytes(random: Random): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES);
  for (let i = 0; i < 64; i += 4) block.writeUInt32LE(Math.floor(random() * 2 ** 32), i);
  return block;
}

/** An encoded chunk of these blocks; null stands for a zero block. Numbers ascend. */
export function chunkOf(
  blocks: ReadonlyMap<number, Buffer | null>,
  hash: BlockHasher = hashBlockAt,
  sealer: ChunkSealer | null = null,
): Buffer {
  const extents: ChunkExtent[] = [...blocks].map(([first, bytes]) => ({ first, count: 1, zero: bytes === null }));
  const data = [...blocks].filter(([, bytes]) => bytes !== null) as [number, Buffer][];
  const hashes = BigUint64Array.from(data, ([n, bytes]) => hash(bytes, 0, BLOCK_BYTES, n));
  const plain = Buffer.concat(data.map(([, bytes]) => bytes));
  const target = Buffer.alloc(chunkBytesMax(extents.length, data.length, plain.length));
  return target.subarray(0, encodeChunk(target, BLOCK_BYTES, extents, hashes, plain, sealer));
}

export function dataMessage(
  chunk: Buffer,
  sequence: number,
  target: DataTarget = 'cycle',
  segment: number | null = null,
  diskIndex = 0,
): Buffer {
  const header = Buffer.alloc(DATA_HEADER_BYTES);
  encodeDataHeader(header, { diskIndex, target, segment, sequence });
  return Buffer.concat([header, chunk]);
}

/** The agent's side of one session, and a model of what the disk holds. */
export class TestAgent {
  readonly transport = new FakeTransport();
  readonly status: MachineStatus = newMachineStatus(MACHINE, 'web1');
  readonly session: IngestSession;
  readonly done: Promise<void>;
  /** Of the whole disk: what this agent has sent (survives the session when handed to the next one). */
  readonly model: Map<number, Buffer>;
  sequence = 0;
  cycle = randomUUID();

  constructor(
    store: ObjectStore,
    model = new Map<number, Buffer>(),
    clock: Clock = systemClock,
    more: Partial<IngestDeps> = {},
  ) {
    this.model = model;
    const deps = { store, clock, randomId: randomUUID, log: silentLogger(), program: 'test', ...more };
    this.session = new IngestSession(deps, IDENTITY, this.transport, this.status);
    this.done = this.session.run();
  }

  say(message: AgentMessage): void {
    this.transport.deliver(encodeControl(message));
  }

  async hello(hello: Hello = helloOf()): Promise<Extract<ReceiverMessage, { type: 'welcome' }>> {
    this.say(hello);
    return this.transport.next('welcome');
  }

  data(blocks: ReadonlyMap<number, Buffer | null>, target: DataTarget = 'cycle', segment: number | null = null): void {
    for (const [n, bytes] of blocks) {
      if (bytes === null) this.model.delete(n);
      else this.model.set(n, bytes);
    }
    this.transport.deliver(dataMessage(chunkOf(blocks), ++this.sequence, target, segment));
  }

  endSegment(segment: number, target: 'sweep-base' | 'sweep-delta'): void {
    this.say({ type: 'segment-end', disk: DISK, segment, target, sequence: ++this.sequence });
  }

  begin(): void {
    this.cycle = randomUUID();
    this.say({ type: 'cycle-begin', cycle: this.cycle });
  }

  get digest(): string {
    let digest = 0n;
    for (const [n, bytes] of this.model) digest ^= hashBlockAt(bytes, 0, BLOCK_BYTES, n);
    return digestToText(digest);
  }

  commitMessage(more: Partial<Commit> = {}): Commit {
    return {
      type: 'commit',
      cycle: this.cycle,
      cutAtMs: 1_700_000_000_000,
      consistency: 'crash',
      reason: 'test',
      disks: [{ disk: DISK, series: SERIES, digest: this.digest }],
      lastSequence: this.sequence,
      stats: { passes: 1, cutMs: 1, freezeMs: 0, changedBytes: 1 },
      ...more,
    };
  }

  async commit(more: Partial<Commit> = {}): Promise<number> {
    this.say(this.commitMessage(more));
    return (await this.transport.next('committed')).point;
  }

  /** A first copy with these blocks, and its point. */
  async firstCopy(blocks: ReadonlyMap<number, Buffer>): Promise<number> {
    for (let segment = 0; segment < GEOMETRY.segmentCount; segment++) {
      const { first, count } = segmentBlocks(GEOMETRY, segment);
      const inside = new Map([...blocks].filter(([n]) => n >= first && n < first + count).sort((a, b) => a[0] - b[0]));
      if (inside.size > 0) this.data(inside, 'sweep-base', segment);
      this.endSegment(segment, 'sweep-base');
    }
    this.begin();
    return this.commit();
  }

  async end(): Promise<void> {
    this.transport.close(1006, 'test');
    await this.done;
  }
}

/** Digest of a point as its layers add up to it, and the digest that it lists. */
export async function digestsOf(store: ObjectStore, number: number): Promise<{ listed: string; found: string }> {
  const view = await MachineReader.open(store, MACHINE);
  const point = await view.findPoint({ by: 'number', number });
  const at = view.diskOf(point, DISK);
  const reader = new LayerReader(store, { machine: MACHINE, disk: DISK, blockBytes: at.blockBytes });
  const plan = await planPoint(reader, at, await view.layersFor(DISK, number));
  let found = 0n;
  for (const unit of plan.units) found ^= await digestOfUnit(reader, plan, unit);
  return { listed: at.digest, found: digestToText(found) };
}

/** Numbers of all listed points; each must add up to its digest. Empty for a machine without a manifest. */
export async function soundPoints(store: ObjectStore): Promise<number[]> {
  const view = await MachineReader.open(store, MACHINE).catch(() => null);
  const numbers: number[] = [];
  if (view === null) return numbers;
  for await (const point of view.points()) {
    const { listed, found } = await digestsOf(store, point.number);
    if (listed !== found) throw new Error(`point ${point.number} lists digest ${listed}, its layers have ${found}`);
    numbers.push(point.number);
  }
  return numbers;
}
