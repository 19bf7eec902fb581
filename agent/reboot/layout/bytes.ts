/**
 * Reading a device past the page cache, at any offset. Owns one descriptor until `close`.
 */
import { closeSync, constants, fsyncSync, openSync, readSync } from 'node:fs';
import { alignedBuffer } from '../../../shared/native/libc.js';
import { MIB } from '../../../shared/units.js';

/** Bytes of a device; short at its end. */
export type ReadAt = (offset: number, length: number) => Buffer;

/** The same, seen from an offset on. */
export const shifted =
  (read: ReadAt, by: number): ReadAt =>
  (offset, length) =>
    read(by + offset, length);

/** What O_DIRECT asks of any disk. */
const ALIGN_BYTES = 4096;
const PIECE_BYTES = MIB;
let piece: Buffer | undefined;

export class RawDevice {
  readonly #fd: number;

  constructor(path: string) {
    this.#fd = openSync(path, constants.O_RDONLY | constants.O_DIRECT);
  }

  readonly read: ReadAt = (offset, length) => {
    piece ??= alignedBuffer(PIECE_BYTES);
    const start = Math.floor(offset / ALIGN_BYTES) * ALIGN_BYTES;
    const parts: Buffer[] = [];
    for (let at = start; at < offset + length;) {
      const wanted = Math.min(PIECE_BYTES, Math.ceil((offset + length - at) / ALIGN_BYTES) * ALIGN_BYTES);
      const got = readSync(this.#fd, piece, 0, wanted, at);
      parts.push(Buffer.from(piece.subarray(0, got)));
      at += got;
      if (got < wanted) break;
    }
    return Buffer.concat(parts).subarray(offset - start, offset - start + length);
  };

  /** Everything that the disk has acknowledged is kept over a power cut when this returns. */
  flush(): void {
    fsyncSync(this.#fd);
  }

  close(): void {
    closeSync(this.#fd);
  }
}
