/**
 * Aligned buffers for O_DIRECT and for what is read from the store, all of one size. Their memory is never freed (see alignedBuffer), so they are lent and given back.
 */
import { RESTORE_WRITE_BYTES_MAX } from '../../shared/limits.js';
import { alignedBuffer } from '../../shared/native/libc.js';

const free: Buffer[] = [];

export const takeAligned = (): Buffer => free.pop() ?? alignedBuffer(RESTORE_WRITE_BYTES_MAX);

export function giveBackAligned(buffer: Buffer): void {
  free.push(buffer);
}
