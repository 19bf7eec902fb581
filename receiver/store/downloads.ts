/**
 * Reads of objects over the network, whole or a range, however often the stream is cut: what came stays, the next try asks for the rest. What differs
 * between stores is how one download is asked for and what its errors mean.
 */
import type { Readable } from 'node:stream';
import { absent, parseContentRange, protocolError, Received, tooLarge, tooShort } from './body.js';
import { checkName } from './object-name.js';
import type { Requests } from './requests.js';
import type { RequestWatch } from './watch.js';

export interface Download {
  readonly stream: Readable | undefined;
  readonly sizeBytes: number | undefined;
  /** As the header says, of a range. */
  readonly contentRange: string | undefined;
}

export interface DownloadSource {
  /** One request, without tries of its own; null: all of it. */
  download(
    name: string,
    range: { readonly from: number; readonly end: number } | null,
    signal: AbortSignal,
  ): Promise<Download>;
  sizeOf(name: string): Promise<number | null>;
  isAbsent(error: unknown): boolean;
  /** The range begins after the object's end. */
  isBeyond(error: unknown): boolean;
}

export class Downloads {
  readonly #source: DownloadSource;
  readonly #requests: Requests;
  readonly #watch: RequestWatch | undefined;

  constructor(source: DownloadSource, requests: Requests, watch: RequestWatch | undefined) {
    this.#source = source;
    this.#requests = requests;
    this.#watch = watch;
  }

  /** As ObjectStore.get. */
  async get(name: string, maxBytes: number): Promise<Buffer | null> {
    checkName(name);
    let received: Received | undefined;
    const request = { kind: 'get', what: `reading ${name}`, bytes: maxBytes } as const;
    const found = await this.#requests.run(request, async (signal) => {
      if (received !== undefined) {
        await this.#range(name, 0, received, signal);
        return true;
      }
      try {
        const { stream, sizeBytes = -1 } = await this.#source.download(name, null, signal);
        if (stream === undefined || sizeBytes < 0 || sizeBytes > maxBytes) {
          stream?.destroy();
          throw sizeBytes > maxBytes ? tooLarge(name, sizeBytes, maxBytes) : protocolError(`no length of ${name}`);
        }
        received = new Received(Buffer.allocUnsafe(sizeBytes));
        await received.fill(stream, signal);
        return true;
      } catch (error) {
        if (this.#source.isAbsent(error)) return false;
        throw error;
      }
    });
    if (!found || received === undefined) return null;
    this.#watch?.moved('read', received.bytes);
    return received.target;
  }

  /** As ObjectStore.read. */
  async read(name: string, offset: number, lengthBytes: number, room?: Buffer): Promise<Buffer> {
    checkName(name);
    if (lengthBytes === 0) {
      const sizeBytes = await this.#source.sizeOf(name);
      if (sizeBytes === null) throw absent(name);
      if (sizeBytes < offset) throw tooShort(name, sizeBytes, offset);
      return Buffer.alloc(0);
    }
    const received = new Received(room?.subarray(0, lengthBytes) ?? Buffer.allocUnsafe(lengthBytes));
    await this.#requests.run({ kind: 'read', what: `reading ${name}`, bytes: lengthBytes }, (signal) =>
      this.#range(name, offset, received, signal),
    );
    this.#watch?.moved('read', lengthBytes);
    return received.target;
  }

  /** What `received` still lacks of the range that begins at `offset`. */
  async #range(name: string, offset: number, received: Received, signal: AbortSignal): Promise<void> {
    if (received.complete) return;
    const from = offset + received.bytes;
    const end = offset + received.target.length;
    try {
      const { stream, contentRange } = await this.#source.download(name, { from, end }, signal);
      const range = parseContentRange(contentRange);
      if (stream === undefined || range?.from !== from || range.total < end) {
        stream?.destroy();
        throw range?.from === from
          ? tooShort(name, range.total, end)
          : protocolError(`not the range of ${name} that was asked for`);
      }
      await received.fill(stream, signal);
    } catch (error) {
      if (this.#source.isAbsent(error)) throw absent(name);
      if (this.#source.isBeyond(error)) throw tooShort(name, (await this.#source.sizeOf(name)) ?? 0, end);
      throw error;
    }
  }
}
