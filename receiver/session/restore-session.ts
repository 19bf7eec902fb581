/**
 * The receiver's side of a restoring agent: names the goal, answers what the agent pulls. Reads the store only; writes nothing, commits nothing.
 * One request after the other, each answer handed to the socket before the next is read, so memory is that of one segment's hashes and one chunk.
 */
import type { Logger } from 'pino';
import { isBitmapOf } from '../../shared/blocks/bitmap.js';
import { segmentBlocks } from '../../shared/blocks/geometry.js';
import type { DiskId, MachineId, SegmentNumber } from '../../shared/units.js';
import {
  DATA_HEADER_BYTES,
  encodeDataHeader,
  protocolError,
  type AgentMessage,
  type ReceiverMessage,
  type RestoreGoal,
} from '../../shared/wire/messages.js';
import type { RecoveryPoint } from '../catalog/manifest.js';
import type { PinDeps } from '../catalog/pin-holder.js';
import { openPinned, type PinnedPoint } from '../catalog/pinned-point.js';
import { IndexCache } from '../volume/index-cache.js';
import { PointSource } from './differences.js';
import { wantedChunks } from './point-chunks.js';

export type PullMessage = Extract<AgentMessage, { type: 'changed-segments' | 'differences' | 'blocks-request' }>;

export const isPull = (message: AgentMessage): message is PullMessage =>
  message.type === 'changed-segments' || message.type === 'differences' || message.type === 'blocks-request';

/** What went to the agent for the present goal. */
export interface PullCounters {
  readonly dataBytes: number;
  readonly sentBytes: number;
  readonly blocks: number;
}

export interface RestoreSessionDeps extends PinDeps {
  readonly log: Logger;
  readonly machine: MachineId;
  /** The agent's disks, in the order of its hello. */
  readonly disks: readonly DiskId[];
  /** Encodes and sends; resolves to the bytes that went out. */
  readonly send: (message: ReceiverMessage | Buffer) => Promise<number>;
}

interface Goal {
  readonly pinned: PinnedPoint;
  readonly point: RecoveryPoint;
  readonly sources: Map<DiskId, Promise<PointSource>>;
}

export class RestoreSession {
  readonly #deps: RestoreSessionDeps;
  readonly #cache = new IndexCache();
  #goal: Goal | null = null;
  #isClosed = false;
  #counters = { dataBytes: 0, sentBytes: 0, blocks: 0 };

  constructor(deps: RestoreSessionDeps) {
    this.#deps = deps;
  }

  get counters(): PullCounters {
    return { ...this.#counters };
  }

  /** From now on requests are about this point. Returns what the agent has to be told. Throws when there is no such point. */
  async setGoal(goal: number, number: number, final: boolean): Promise<RestoreGoal> {
    const { machine } = this.#deps;
    const pinned = await openPinned(this.#deps, machine, { by: 'number', number }, 'the way home of the machine');
    const { point } = pinned;
    if (pinned.warning !== null) this.#deps.log.warn(pinned.warning);
    const before = this.#goal;
    this.#goal = { pinned, point, sources: new Map() };
    await before?.pinned.release();
    if (this.#isClosed) await this.end();
    this.#counters = { dataBytes: 0, sentBytes: 0, blocks: 0 };
    return {
      type: 'restore-goal',
      goal,
      point: number,
      final,
      disks: point.disks.map(({ disk, sizeBytes, blockBytes, digest, hashCheck }) => ({
        disk,
        sizeBytes,
        blockBytes,
        digest,
        ...(hashCheck === undefined ? {} : { hashCheck }),
      })),
    };
  }

  /** The session is over: what its goal needs may be deleted. */
  async end(): Promise<void> {
    this.#isClosed = true;
    const goal = this.#goal;
    this.#goal = null;
    await goal?.pinned.release();
  }

  async answer(message: PullMessage): Promise<void> {
    const goal = this.#goal;
    goal?.pinned.lost.throwIfAborted();
    if (goal === null) throw protocolError(`${message.type} without a goal`);
    // The goal was replaced while this was on its way: nobody waits for the answer any more.
    if (message.point !== goal.point.number) return;
    const source = await this.#source(goal, message.disk);
    switch (message.type) {
      case 'changed-segments':
        await this.#send({
          type: 'changed-segments',
          request: message.request,
          ...(await source.changedSegments(message.base)),
        });
        return;
      case 'differences': {
        const count = this.#checkSegment(source, message.segment);
        if (message.also !== null && !isBitmapOf(message.also, count)) throw protocolError('a bitmap of another size');
        const found = await source.differences(message.segment, message.base, message.also, message.digest);
        const hashes = new Uint8Array(found.hashes.buffer, found.hashes.byteOffset, found.hashes.byteLength);
        await this.#send({ type: 'differences', request: message.request, candidates: found.candidates, hashes });
        return;
      }
      case 'blocks-request': {
        const count = this.#checkSegment(source, message.segment);
        if (!isBitmapOf(message.blocks, count)) throw protocolError('a bitmap of another size');
        await this.#sendBlocks(source, message);
        return;
      }
    }
  }

  async #sendBlocks(source: PointSource, message: Extract<PullMessage, { type: 'blocks-request' }>): Promise<void> {
    const diskIndex = this.#deps.disks.indexOf(message.disk);
    const { segment, request } = message;
    for await (const chunk of wantedChunks(source, segment, message.blocks)) {
      const bytes = Buffer.allocUnsafe(DATA_HEADER_BYTES + chunk.length);
      encodeDataHeader(bytes, { diskIndex, target: 'restore', segment, sequence: request });
      chunk.copy(bytes, DATA_HEADER_BYTES);
      this.#counters.blocks += chunk.readUInt32LE(16);
      this.#counters.dataBytes += bytes.length;
      await this.#send(bytes);
    }
    await this.#send({ type: 'blocks-end', request });
  }

  #source(goal: Goal, disk: DiskId): Promise<PointSource> {
    if (!this.#deps.disks.includes(disk)) throw protocolError(`disk ${disk} was not in hello`);
    let source = goal.sources.get(disk);
    if (source === undefined) {
      source = PointSource.open(this.#deps.store, goal.pinned.view, goal.point, disk, this.#cache);
      goal.sources.set(disk, source);
    }
    return source;
  }

  #checkSegment(source: PointSource, segment: SegmentNumber): number {
    if (segment >= source.geometry.segmentCount) throw protocolError(`segment ${segment} does not exist`);
    return segmentBlocks(source.geometry, segment).count;
  }

  async #send(message: ReceiverMessage | Buffer): Promise<void> {
    this.#counters.sentBytes += await this.#deps.send(message);
  }
}
