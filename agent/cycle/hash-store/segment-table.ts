/**
 * What is known about each segment, in memory: the digest that its hashes must have (8 bytes) and whether the file is believed (1 byte).
 * The digests come from checkpoint and journal alone, so they stay true even when pages of the file of hashes are torn.
 */
import type { SegmentNumber } from '../../../shared/units.js';
import { xorOf } from './lanes.js';

/** The file holds these hashes. */
export const TRUSTED = 0;
/** The digest is known, the file may be torn: to be read and compared before it is believed. */
export const UNVERIFIED = 1;
/** Nobody told us these hashes: neither file nor digest mean anything. */
export const UNKNOWN = 2;
/** Read and found to differ from its digest. Not kept across an opening: it would be found again. */
export const MISMATCH = 3;

export class SegmentTable {
  readonly digests: BigUint64Array;
  readonly trust: Uint8Array;
  #unknown: number;

  constructor(digests: BigUint64Array, trust: Uint8Array) {
    this.digests = digests;
    this.trust = trust;
    this.#unknown = trust.reduce((n, t) => (t === UNKNOWN ? n + 1 : n), 0);
  }

  static filled(segmentCount: number, trust: typeof TRUSTED | typeof UNKNOWN): SegmentTable {
    return new SegmentTable(new BigUint64Array(segmentCount), new Uint8Array(segmentCount).fill(trust));
  }

  /** Segments that nobody told us the hashes of. */
  get unknown(): number {
    return this.#unknown;
  }

  /** XOR of all hashes of the disk; null while a segment is unknown. */
  get digest(): bigint | null {
    return this.#unknown === 0 ? xorOf(this.digests) : null;
  }

  /** The digest with other digests for some segments. */
  digestWith(segments: Uint32Array, digests: BigUint64Array): bigint | null {
    let digest = this.digest;
    if (digest === null) return null;
    for (let i = 0; i < segments.length; i++) digest ^= (this.digests[segments[i] ?? 0] ?? 0n) ^ (digests[i] ?? 0n);
    return digest;
  }

  set(segment: SegmentNumber, digest: bigint, trust: number): void {
    if (this.trust[segment] === UNKNOWN && trust !== UNKNOWN) this.#unknown--;
    this.digests[segment] = digest;
    this.trust[segment] = trust;
  }

  /** The file's pages may be older, newer or torn: nothing is believed unread. */
  distrust(): void {
    for (let i = 0; i < this.trust.length; i++) if (this.trust[i] === TRUSTED) this.trust[i] = UNVERIFIED;
  }
}
