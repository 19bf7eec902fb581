/**
 * Buffers of one size, used again: fresh memory costs as many page faults as a copy costs time, and each of it brings the next garbage collection
 * nearer. Bounds what is kept; what is lent is bounded by who takes it. What a lent buffer holds is old.
 */
export class SpareBuffers {
  readonly #free: Buffer[] = [];

  constructor(
    readonly sizeBytes: number,
    private readonly keptMax: number,
  ) {}

  take(): Buffer {
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(this.sizeBytes);
  }

  /** Nobody may use it any more. */
  giveBack(buffer: Buffer): void {
    if (this.#free.length < this.keptMax) this.#free.push(buffer);
  }
}
