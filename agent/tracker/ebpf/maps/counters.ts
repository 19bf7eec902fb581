/**
 * Reads the counters of a disk's programs. They are 64 bits wide and change meanwhile; no lock is taken.
 */
import { LINE_BYTES, RARE, SLOT } from './layout.js';

/** Sectors, apart for discards, as the kernel counts them apart. */
export interface Pair {
  readonly writes: number;
  readonly discards: number;
}

export interface ProgramCounts {
  /** Submissions whose marks are complete. */
  readonly submitted: Pair;
  /** Completions of requests. */
  readonly requests: Pair;
  /** Completions of bios that never became part of a request (or of all, on devices without requests). */
  readonly bios: Pair;
}

const LINE_WORDS = LINE_BYTES / 4;
const HALF = 2 ** 32;

export class ProgramCounters {
  readonly #words: Uint32Array;
  readonly #cpuSlots: number;

  constructor(memory: ArrayBuffer, cpuSlots: number) {
    this.#words = new Uint32Array(memory, 0, (LINE_BYTES * (1 + cpuSlots)) >>> 2);
    this.#cpuSlots = cpuSlots;
  }

  read(): ProgramCounts {
    return {
      submitted: this.#pair(SLOT.submitExitWrite, SLOT.submitExitDiscard),
      requests: this.#pair(SLOT.requestWrite, SLOT.requestDiscard),
      bios: this.#pair(SLOT.bioWrite, SLOT.bioDiscard),
    };
  }

  get opaqueWrites(): number {
    return this.#u64(RARE.opaque >>> 2);
  }

  get tooBig(): number {
    return this.#u64(RARE.tooBig >>> 2);
  }

  /**
   * Whether no submission is being marked on a CPU at this instant. "Exit" is read before "enter": both only grow and exit
   * never leads, so equality means that both were equal when "enter" was read. Comparing with an earlier "enter" would be
   * wrong: programs nest when an interrupt submits, and the inner one's exit would hide the outer one.
   */
  isQuiescent(cpu: number): boolean {
    const line = (1 + cpu) * LINE_WORDS;
    return (
      this.#balanced(line + (SLOT.submitEnterWrite >>> 2), line + (SLOT.submitExitWrite >>> 2)) &&
      this.#balanced(line + (SLOT.submitEnterDiscard >>> 2), line + (SLOT.submitExitDiscard >>> 2))
    );
  }

  #balanced(enter: number, exit: number): boolean {
    const left = Atomics.load(this.#words, exit);
    return left === Atomics.load(this.#words, enter);
  }

  #pair(writes: number, discards: number): Pair {
    let [w, d] = [0, 0];
    for (let cpu = 0; cpu < this.#cpuSlots; cpu++) {
      const line = (1 + cpu) * LINE_WORDS;
      w += this.#u64(line + (writes >>> 2));
      d += this.#u64(line + (discards >>> 2));
    }
    return { writes: w, discards: d };
  }

  /** A carry between the two halves shows as a changed upper half. */
  #u64(index: number): number {
    for (;;) {
      const high = Atomics.load(this.#words, index + 1);
      const low = Atomics.load(this.#words, index);
      if (high === Atomics.load(this.#words, index + 1)) return high * HALF + low;
    }
  }
}
