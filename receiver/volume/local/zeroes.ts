/** A buffer of zeroes to write from; never written to. */
import { VOLUME_PIECE_BYTES_MAX } from '../../../shared/limits.js';

export const Zeroes = Buffer.alloc(VOLUME_PIECE_BYTES_MAX);
