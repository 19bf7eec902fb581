/**
 * What one disk held at one recovery point, block by block: what a volume reads where nothing is local. Immutable, checked, without state that matters.
 */
import type { Geometry } from '../../shared/blocks/geometry.js';
import type { SharedRoom } from './threads/shared-room.js';

export interface ContentRun {
  readonly first: number;
  readonly count: number;
  /** Known to be zero without reading it. */
  readonly zero: boolean;
}

/** Called for whole runs of plain blocks of which more came along than was asked for; what was asked for of them is among them. `plain` is valid during the call only. */
export type TakeExtra = (first: number, count: number, plain: Buffer) => void;

export interface PointContent {
  readonly geometry: Geometry;
  /** To read it again costs no more than to decompress it: its layers are files of this host. */
  readonly isNear: boolean;
  /** Covers [first, first + count), ascending, adjacent runs of one kind joined. May have to load indexes. */
  runs(first: number, count: number): Promise<readonly ContentRun[]>;
  /**
   * Plain bytes of blocks [first, first + count) into `into` (count × block size; the last block of a disk is padded with zeroes). Every byte is
   * checked against its hash. `extra`: the rest of the chunks that had to be read, so that a cache can keep it.
   * Throws kind `corrupt` or `io`.
   */
  read(first: number, count: number, into: Buffer, extra?: TakeExtra): Promise<void>;
  /** Whether readBeside() is worth asking. */
  readonly canReadBeside?: boolean;
  /**
   * The same by threads, into a room's bytes from `offset` on, without the rest. False: it can't be done so, and what the bytes are is undefined: read() does
   * it, or tells why not.
   */
  readBeside?(first: number, count: number, room: SharedRoom, offset: number): Promise<boolean>;
  /** Hash of each block at the point (shared/blocks/hash.ts); 0 for zero. From indexes alone. */
  hashes(first: number, count: number): Promise<BigUint64Array>;
}
