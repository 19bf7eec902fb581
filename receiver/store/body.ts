/**
 * Bytes of an object as they come over the network: into memory of a known length, however often the stream is cut.
 */
import type { Readable } from 'node:stream';
import { AfterimageError, corrupt } from '../../shared/errors.js';

/** What is wanted of an object, and how much of it is there. */
export class Received {
  readonly target: Buffer;
  bytes = 0;

  constructor(target: Buffer) {
    this.target = target;
  }

  get complete(): boolean {
    return this.bytes === this.target.length;
  }

  /** Takes what the stream gives, up to what is wanted. Throws when it ends early or breaks; what came stays. */
  async fill(stream: Readable, signal: AbortSignal): Promise<void> {
    const stop = (): void => void stream.destroy(new Error('given up'));
    signal.addEventListener('abort', stop, { once: true });
    try {
      for await (const piece of stream as AsyncIterable<Buffer>) {
        const room = this.target.length - this.bytes;
        if (piece.length > room) throw protocolError('more bytes than were asked for');
        piece.copy(this.target, this.bytes);
        this.bytes += piece.length;
      }
    } finally {
      signal.removeEventListener('abort', stop);
      stream.destroy();
    }
    if (!this.complete) throw new Error(`the answer ended after ${this.bytes} of ${this.target.length} bytes`);
  }
}

/** A server that doesn't do what it must: nothing it says can be relied on. */
export const protocolError = (message: string): AfterimageError =>
  new AfterimageError(`the store's server answered wrongly: ${message}`, {
    code: 'store-protocol',
    kind: 'io',
    hint: 'Run `afterimage store probe` with the URL of the store; a proxy in between may be the cause.',
  });

export const tooLarge = (name: string, bytes: number, maxBytes: number): AfterimageError =>
  corrupt('object-too-large', `object ${name} has ${bytes} bytes, at most ${maxBytes} were expected`);

export const tooShort = (name: string, bytes: number, wanted: number): AfterimageError =>
  corrupt('object-short', `object ${name} ends at byte ${bytes}, ${wanted} were expected`);

export const absent = (name: string): AfterimageError =>
  new AfterimageError(`object ${name} is absent`, { code: 'object-absent', kind: 'not-found' });

/** `bytes 0-9/100` → 0 and 100. */
export function parseContentRange(text: string | undefined): { readonly from: number; readonly total: number } | null {
  const match = /^bytes (\d+)-\d+\/(\d+)$/.exec(text ?? '');
  return match === null ? null : { from: Number(match[1]), total: Number(match[2]) };
}
