/**
 * One object being written to a bucket: what fits into one part is one conditional request, made by `finish`; more goes in parts while it is
 * written, of which a bounded number are in memory. How a backend does it is its PartSink. After a crash, parts may lie in the store, under no
 * name; they are removed at a later open.
 */
import { AfterimageError } from '../../shared/errors.js';
import { STORE_PART_BYTES, STORE_PARTS_IN_FLIGHT } from '../../shared/limits-store.js';
import type { CreateResult, ObjectWriter } from './store.js';

export interface PartSink {
  /** The whole object at once, unless the name is taken. */
  whole(bytes: Buffer): Promise<CreateResult>;
  /** One part, numbered from 1; several at once. */
  part(number: number, bytes: Buffer): Promise<void>;
  /** Makes the object of all parts, unless the name is taken. */
  complete(): Promise<CreateResult>;
  /** Throws the parts away; called when none is on its way any more. Never throws. */
  abandon(): Promise<void>;
}

export class PartedWriter implements ObjectWriter {
  readonly #name: string;
  readonly #sink: PartSink;
  readonly #partBytes: number;
  /** Copies of what was written and has not left yet: as much memory as there is data. */
  #pieces: Buffer[] = [];
  #pendingBytes = 0;
  #parts = 0;
  readonly #inFlight = new Set<Promise<void>>();
  /** What a part on its way met; told to whoever comes next. */
  #failure: { readonly error: unknown } | null = null;
  #state: 'open' | 'failed' | 'closed' = 'open';

  constructor(name: string, sink: PartSink, partBytes = STORE_PART_BYTES) {
    this.#name = name;
    this.#sink = sink;
    this.#partBytes = partBytes;
  }

  async write(buffers: readonly Buffer[]): Promise<void> {
    this.#mustBeOpen();
    try {
      for (const buffer of buffers) await this.#take(buffer);
    } catch (error) {
      this.#state = 'failed';
      throw error;
    }
  }

  async finish(): Promise<CreateResult> {
    this.#mustBeOpen();
    try {
      const result = await (this.#parts === 0 ? this.#sink.whole(this.#pending()) : this.#finishParts());
      this.#state = 'closed';
      if (result === 'exists' && this.#parts > 0) await this.#sink.abandon();
      return result;
    } catch (error) {
      await this.abort();
      throw error;
    }
  }

  async abort(): Promise<void> {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    this.#pending();
    await Promise.all(this.#inFlight);
    if (this.#parts > 0) await this.#sink.abandon();
  }

  async #take(buffer: Buffer): Promise<void> {
    let rest = buffer;
    while (rest.length > 0) {
      // A full part leaves only when there is more: an object of exactly one part is one request.
      if (this.#pendingBytes === this.#partBytes) await this.#sendPart();
      const piece = rest.subarray(0, this.#partBytes - this.#pendingBytes);
      this.#pieces.push(Buffer.from(piece));
      this.#pendingBytes += piece.length;
      rest = rest.subarray(piece.length);
    }
  }

  async #finishParts(): Promise<CreateResult> {
    await this.#sendPart();
    await Promise.all(this.#inFlight);
    this.#throwFailure();
    return this.#sink.complete();
  }

  async #sendPart(): Promise<void> {
    while (this.#inFlight.size >= STORE_PARTS_IN_FLIGHT) await Promise.race(this.#inFlight);
    this.#throwFailure();
    const sent = this.#sink
      .part(++this.#parts, this.#pending())
      .catch((error: unknown) => {
        this.#failure ??= { error };
      })
      .finally(() => this.#inFlight.delete(sent));
    this.#inFlight.add(sent);
  }

  /** Takes what is pending out. */
  #pending(): Buffer {
    const [only] = this.#pieces;
    const bytes = this.#pieces.length === 1 && only !== undefined ? only : Buffer.concat(this.#pieces);
    this.#pieces = [];
    this.#pendingBytes = 0;
    return bytes;
  }

  #throwFailure(): void {
    if (this.#failure !== null) throw this.#failure.error;
  }

  #mustBeOpen(): void {
    if (this.#state === 'open') return;
    throw new AfterimageError(`writer of ${this.#name} is ${this.#state}`, { code: 'writer-state', kind: 'internal' });
  }
}
