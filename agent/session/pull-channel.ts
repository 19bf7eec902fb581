/**
 * What a restoring agent asks its receiver: many requests in flight, each answered once. Every wait ends when the session does, or the goal.
 * Bounds what was asked for and not yet worked off by a window in bytes; holds no durable state.
 */
import { hasBit, countBits } from '../../shared/blocks/bitmap.js';
import type { AfterimageError } from '../../shared/errors.js';
import { RESTORE_WINDOW_BYTES } from '../../shared/limits.js';
import type { DiskId, SegmentNumber } from '../../shared/units.js';
import {
  DATA_HEADER_BYTES,
  decodeDataHeader,
  protocolError,
  type AgentMessage,
  type BasePoint,
  type ReceiverMessage,
} from '../../shared/wire/messages.js';
import { ByteWindow } from './window.js';

type Answer = Extract<ReceiverMessage, { type: 'changed-segments' | 'differences' | 'blocks-end' }>;

interface Pending {
  readonly type: Answer['type'];
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
  readonly onChunk: ((chunk: Buffer) => void) | null;
}

export interface Candidates {
  /** Bit per block of the segment. */
  readonly blocks: Uint8Array;
  /** Hash at the point, by block of the segment; undefined for blocks that are no candidates. */
  readonly hashOf: (i: number) => bigint | undefined;
}

/** Takes a chunk; its promise resolves when the chunk is no longer in memory. */
export type OnChunk = (chunk: Buffer) => Promise<void>;

export class PullChannel {
  readonly #say: (message: AgentMessage) => Promise<void>;
  readonly #window = new ByteWindow(RESTORE_WINDOW_BYTES);
  readonly #pending = new Map<number, Pending>();
  #requests = 0;
  #releasedBytes = 0;
  #failure: AfterimageError | null = null;
  /** Set from giveUp() to begin(): the receiver answers nothing for a goal that it has forgotten, so nothing may be asked for it. */
  #givenUp: Error | null = null;

  constructor(say: (message: AgentMessage) => Promise<void>) {
    this.#say = say;
  }

  async changedSegments(
    disk: DiskId,
    point: number,
    base: BasePoint,
  ): Promise<{ readonly segments: Uint8Array | null; readonly reason: string }> {
    const answer = await this.#ask('changed-segments', (request) => ({
      type: 'changed-segments',
      request,
      disk,
      point,
      base,
    }));
    return answer as Extract<Answer, { type: 'changed-segments' }>;
  }

  async differences(
    disk: DiskId,
    point: number,
    segment: SegmentNumber,
    blockCount: number,
    from: {
      readonly base: BasePoint | null;
      readonly also: Uint8Array<ArrayBuffer> | null;
      readonly digest: string | null;
    },
  ): Promise<Candidates> {
    const answer = (await this.#ask('differences', (request) => ({
      type: 'differences',
      request,
      disk,
      point,
      segment,
      ...from,
    }))) as Extract<Answer, { type: 'differences' }>;
    const { candidates, hashes } = answer;
    if (candidates.length !== Math.ceil(blockCount / 8) || hashes.length !== countBits(candidates) * 8) {
      throw protocolError(`differences of ${candidates.length} bytes with ${hashes.length} bytes of hashes`);
    }
    const view = new DataView(hashes.buffer, hashes.byteOffset, hashes.byteLength);
    const places = new Uint32Array(blockCount);
    let n = 0;
    for (let i = 0; i < blockCount; i++) if (hasBit(candidates, i)) places[i] = n++;
    return {
      blocks: candidates,
      hashOf: (i) => (hasBit(candidates, i) ? view.getBigUint64((places[i] ?? 0) * 8, true) : undefined),
    };
  }

  /** Asks for blocks, `plainBytes` in all; resolves when all that came was taken. Which blocks came is the caller's to check. */
  async blocks(
    disk: DiskId,
    point: number,
    segment: SegmentNumber,
    blocks: Uint8Array<ArrayBuffer>,
    plainBytes: number,
    onChunk: OnChunk,
  ): Promise<void> {
    await this.#window.reserve(plainBytes);
    const work: Promise<void>[] = [];
    try {
      await this.#ask(
        'blocks-end',
        (request) => ({ type: 'blocks-request', request, disk, point, segment, blocks }),
        (chunk) => {
          const taken = onChunk(chunk);
          taken.catch(() => undefined);
          work.push(taken);
        },
      );
      await Promise.all(work);
    } finally {
      await Promise.allSettled(work);
      this.#releasedBytes += plainBytes;
      if (this.#failure === null) this.#window.acknowledge(this.#releasedBytes);
    }
  }

  /** A data message. */
  data(bytes: Buffer): void {
    const header = decodeDataHeader(bytes);
    if (header.target !== 'restore') throw protocolError(`data for ${header.target} from the receiver`);
    this.#pending.get(header.sequence)?.onChunk?.(bytes.subarray(DATA_HEADER_BYTES));
  }

  answered(answer: Answer): void {
    const pending = this.#pending.get(answer.request);
    // The goal that wanted it was given up.
    if (pending === undefined) return;
    if (pending.type !== answer.type) throw protocolError(`${answer.type} for request ${answer.request}`);
    this.#pending.delete(answer.request);
    pending.resolve(answer);
  }

  /** Nobody waits for anything any more: the session has ended. */
  fail(error: AfterimageError): void {
    this.#failure ??= error;
    this.#window.fail(error);
    for (const { reject } of this.#pending.values()) reject(this.#failure);
    this.#pending.clear();
  }

  /** Gives up what is under way and what would still be asked, for a goal that isn't wanted any more; late answers are thrown away. */
  giveUp(error: Error): void {
    this.#givenUp = error;
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }

  /** Another goal begins; all that the one before asked for has come to its end. */
  begin(): void {
    this.#givenUp = null;
  }

  #ask(
    type: Answer['type'],
    message: (request: number) => AgentMessage,
    onChunk: Pending['onChunk'] = null,
  ): Promise<Answer> {
    const over = this.#failure ?? this.#givenUp;
    if (over !== null) return Promise.reject(over);
    const request = ++this.#requests;
    return new Promise((resolve, reject) => {
      this.#pending.set(request, { type, resolve, reject, onChunk });
      this.#say(message(request)).catch((error: unknown) => {
        this.#pending.delete(request);
        reject(error instanceof Error ? error : new Error(String(error)));
      });
    });
  }
}
