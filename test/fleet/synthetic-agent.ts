/**
 * An agent without a disk: the real route, connection and session, and blocks that are made up. It keeps what a real one would keep (committed point,
 * series, what is in doubt), says hello with it, and does what the verdict says; so a hundred of them fit into one process.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { connectToReceiver } from '../../agent/session/connect.js';
import type { Credentials } from '../../agent/session/credentials.js';
import { NO_FLEET, Route } from '../../agent/session/route.js';
import { ReceiverSession, SessionEnded } from '../../agent/session/session.js';
import { digestToText, hashBlockAt } from '../../shared/blocks/hash.js';
import { segmentBlocks, geometryOf } from '../../shared/blocks/geometry.js';
import { systemClock } from '../../shared/clock.js';
import { messageOf } from '../../shared/errors.js';
import { chunkBytesMax, encodeChunk } from '../../shared/layer/chunk.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, asSeriesId } from '../../shared/units.js';
import { DATA_HEADER_BYTES, PROTOCOL_VERSION, type Hello, type Welcome } from '../../shared/wire/messages.js';
import type { Transport } from '../../shared/wire/transport.js';

export const BLOCK_BYTES = 4096;
/** Two chunks' worth of content for the same blocks, in turns: a cycle always changes all that it sends. */
const VERSIONS = 2;

export interface SyntheticOptions {
  readonly credentials: Credentials;
  readonly hardwareId: string;
  readonly diskBytes: number;
  readonly shelf: ChunkShelf;
  readonly chunksPerPoint: number;
  readonly intervalMs: number;
  /** How long a receiver may take to answer a dial. */
  readonly connectTimeoutMs: number;
  readonly random: () => number;
}

/** Encoded chunks of random content, made once and sent by all: what is measured is the receiver. */
export class ChunkShelf {
  readonly #noise: Buffer;
  readonly #made = new Map<string, { readonly chunk: Buffer; readonly digest: bigint }>();

  constructor(readonly chunkBlocks: number) {
    this.#noise = randomBytes(chunkBlocks * BLOCK_BYTES + VERSIONS * BLOCK_BYTES);
  }

  /** The chunk at a place of the disk, counted in chunks. */
  get(place: number, version: number): { readonly chunk: Buffer; readonly digest: bigint } {
    const key = `${place}-${version}`;
    let made = this.#made.get(key);
    if (made === undefined) {
      made = this.#make(place, version);
      this.#made.set(key, made);
    }
    return made;
  }

  #make(place: number, version: number): { readonly chunk: Buffer; readonly digest: bigint } {
    const { chunkBlocks } = this;
    const plain = this.#noise.subarray(version * BLOCK_BYTES, (version + chunkBlocks) * BLOCK_BYTES);
    const first = place * chunkBlocks;
    const hashes = new BigUint64Array(chunkBlocks);
    for (let i = 0; i < chunkBlocks; i++) hashes[i] = hashBlockAt(plain, i * BLOCK_BYTES, BLOCK_BYTES, first + i);
    const chunk = Buffer.alloc(chunkBytesMax(1, chunkBlocks, plain.length));
    const extents = [{ first, count: chunkBlocks, zero: false }];
    const length = encodeChunk(chunk, BLOCK_BYTES, extents, hashes, plain);
    return { chunk: chunk.subarray(0, length), digest: hashes.reduce((sum, hash) => sum ^ hash, 0n) };
  }
}

/** One acknowledged commit. */
export interface Acknowledged {
  readonly point: number;
  readonly cycle: string;
  /** Of the receiver that acknowledged it. */
  readonly address: string;
  /** From the moment at which the point was due to its acknowledgement. */
  readonly lateMs: number;
  readonly atMs: number;
}

interface Pending {
  readonly cycle: string;
  readonly versions: Map<number, number>;
}

export class SyntheticAgent {
  readonly acknowledged: Acknowledged[] = [];
  /** Verdicts of all welcomes, with the address that gave them. */
  readonly verdicts: { readonly verdict: string; readonly reason: string; readonly address: string }[] = [];
  readonly ends: string[] = [];
  readonly route: Route;
  readonly #options: SyntheticOptions;
  readonly #geometry;
  readonly #series = asSeriesId(randomUUID());
  readonly #disk = asDiskId('disk0');
  /** Version of each chunk; absent: zero. */
  #versions = new Map<number, number>();
  #committedPoint = 0;
  #inDoubt: Pending | null = null;
  #position = 0;
  #message = Buffer.alloc(0);
  #transport: Transport | null = null;
  /** Address of the session that stands. */
  at: string | null = null;
  sentBytes = 0;

  constructor(options: SyntheticOptions) {
    this.#options = options;
    this.#geometry = geometryOf(options.diskBytes, BLOCK_BYTES);
    this.route = new Route([options.credentials.receiver], NO_FLEET, options.random);
  }

  get machine(): Credentials['machine'] {
    return this.#options.credentials.machine;
  }

  /** Cuts the connection without a word, as a network would. */
  drop(): void {
    this.#transport?.close(1000, 'dropped');
  }

  async run(signal: AbortSignal): Promise<void> {
    const { random } = this.#options;
    while (!signal.aborted) {
      const attempt = { address: this.route.next(), connected: false, welcomed: false };
      const ended = await this.#once(attempt, signal);
      this.at = null;
      if (signal.aborted) return;
      this.ends.push(`${attempt.address}: ${messageOf(ended)}`);
      const pace = this.route.ended({ ...attempt, ended: ended instanceof SessionEnded ? ended : null });
      if (pace !== 'now') await systemClock.sleep((pace === 'next' ? 50 : 200) * random(), signal);
    }
  }

  async #once(
    attempt: { readonly address: string; connected: boolean; welcomed: boolean },
    signal: AbortSignal,
  ): Promise<unknown> {
    const { credentials, connectTimeoutMs } = this.#options;
    let session: ReceiverSession | null = null;
    const stop = (): void => session?.close('the test is over');
    try {
      const receiver = { ...credentials, receiver: attempt.address };
      const transport = await connectToReceiver(receiver, { clock: systemClock, signal, timeoutMs: connectTimeoutMs });
      attempt.connected = true;
      this.#transport = transport;
      const open = new ReceiverSession(transport, { take: async () => undefined }, silentLogger(), systemClock);
      session = open;
      signal.addEventListener('abort', stop, { once: true });
      open.onFleet((fleet) => this.route.learnt(fleet));
      const welcome = await open.hello(this.#hello());
      attempt.welcomed = true;
      this.route.welcomed(attempt.address);
      this.at = attempt.address;
      await this.#welcomed(welcome, open, attempt.address);
      await this.#replicate(open, attempt.address, signal);
      return await open.ended;
    } catch (error) {
      if (session === null || error instanceof SessionEnded) return error;
      session.close('session over');
      return await session.ended;
    } finally {
      signal.removeEventListener('abort', stop);
      session?.close('session over');
      await session?.ended;
      this.#transport = null;
    }
  }

  #hello(): Hello {
    const { credentials, hardwareId, diskBytes } = this.#options;
    const { soFar } = this.route;
    return {
      ...{ type: 'hello', protocol: PROTOCOL_VERSION, program: 'synthetic', machine: credentials.machine },
      ...{ generation: credentials.generation, hardwareId, session: randomUUID() },
      description: { hostname: 'synthetic', os: 'none', cpus: 1, memoryBytes: 1, firmware: 'bios', nics: [] },
      inDoubtCycle: this.#inDoubt?.cycle ?? null,
      disks: [
        {
          ...{ id: this.#disk, device: '/dev/null', sizeBytes: diskBytes, blockBytes: BLOCK_BYTES, tracker: 'ebpf' },
          ...{ series: this.#series, committedPoint: this.#committedPoint, changedBlocks: 1, hashStore: 'valid' },
          ...{ committedSeries: this.#committedPoint > 0 ? this.#series : null, sweep: null },
        },
      ],
      ...(soFar === undefined ? {} : { route: soFar }),
    };
  }

  async #welcomed(welcome: Welcome, session: ReceiverSession, address: string): Promise<void> {
    const said = welcome.disks[0];
    if (said === undefined) throw new Error('a welcome without a disk');
    this.verdicts.push({ verdict: said.verdict, reason: said.reason, address });
    const doubt = this.#inDoubt;
    if (doubt !== null && welcome.lastCycle === doubt.cycle) {
      this.#versions = doubt.versions;
      this.#committedPoint = said.committedPoint;
    }
    this.#inDoubt = null;
    if (said.verdict !== 'full') return;
    // Nothing but zeroes: each segment ends as it began.
    let last = 0;
    for (let segment = 0; segment < this.#geometry.segmentCount; segment++)
      last = await session.endSegment(this.#disk, segment, 'sweep-base');
    await session.whenStaged(last);
  }

  /** Points at their times: one that is late isn't made up for. */
  async #replicate(session: ReceiverSession, address: string, signal: AbortSignal): Promise<void> {
    const { intervalMs, random } = this.#options;
    const over = new AbortController();
    void session.ended.then(() => over.abort());
    const stop = AbortSignal.any([signal, over.signal]);
    let dueAtMs = performance.now() + intervalMs * random();
    while (!stop.aborted) {
      await systemClock.sleep(Math.max(0, dueAtMs - performance.now()), stop);
      if (stop.aborted) return;
      await this.#point(session, address, dueAtMs);
      dueAtMs = Math.max(dueAtMs + intervalMs, performance.now());
    }
  }

  async #point(session: ReceiverSession, address: string, dueAtMs: number): Promise<void> {
    const { shelf, chunksPerPoint } = this.#options;
    const cycle = randomUUID();
    const versions = new Map(this.#versions);
    const places = Math.floor(segmentBlocks(this.#geometry, 0).count / shelf.chunkBlocks);
    await session.beginCycle(cycle);
    for (let i = 0; i < chunksPerPoint; i++) {
      const place = (this.#position + i) % places;
      const version = ((versions.get(place) ?? 0) + 1) % VERSIONS;
      versions.set(place, version);
      const message = this.#messageOf(place, version);
      this.sentBytes += message.length;
      await session.sendChunk(message, 0, 'cycle', null);
    }
    const { committed } = await this.#commit(session, { cycle, versions });
    this.#position += chunksPerPoint;
    const atMs = performance.now();
    this.acknowledged.push({ point: committed, cycle, address, lateMs: atMs - dueAtMs, atMs });
  }

  async #commit(session: ReceiverSession, pending: Pending): Promise<{ committed: number }> {
    const { cycle, versions } = pending;
    const disks = [{ disk: this.#disk, series: this.#series, digest: digestToText(this.#digestOf(versions)) }];
    const stats = { passes: 1, cutMs: 0, freezeMs: 0, changedBytes: 1 };
    const said = { cycle, cutAtMs: Date.now(), consistency: 'crash' as const, reason: 'synthetic', disks, stats };
    this.#inDoubt = pending;
    const { point } = await session.commit(said, () => undefined);
    this.#inDoubt = null;
    this.#versions = versions;
    this.#committedPoint = point;
    return { committed: point };
  }

  /** A copy: the session writes its header into it, and other agents send the same chunk. */
  #messageOf(place: number, version: number): Buffer {
    const { chunk } = this.#options.shelf.get(place, version);
    const length = DATA_HEADER_BYTES + chunk.length;
    if (this.#message.length < length) this.#message = Buffer.alloc(length);
    chunk.copy(this.#message, DATA_HEADER_BYTES);
    return this.#message.subarray(0, length);
  }

  #digestOf(versions: ReadonlyMap<number, number>): bigint {
    let digest = 0n;
    for (const [place, version] of versions) digest ^= this.#options.shelf.get(place, version).digest;
    return digest;
  }
}
