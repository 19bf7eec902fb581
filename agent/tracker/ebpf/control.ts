/**
 * The epoch word that all disks share, and the wait for stragglers. The map is pinned; if it is lost, programs that are
 * attached still use the old one, so every disk must then be armed anew (the caller removes their pins).
 */
import { closeSync } from 'node:fs';
import { AfterimageError } from '../../../shared/errors.js';
import { TAKE_STRAGGLER_MS } from '../../../shared/limits.js';
import { mmapShared, type Mapping } from '../../../shared/native/libc.js';
import { createArrayMap, openPinned, pinObject } from './bpf.js';
import type { ProgramCounters } from './maps/counters.js';
import { CONTROL_BYTES, CONTROL_EPOCH_OFFSET } from './maps/layout.js';

export type EpochIndex = 0 | 1;

/** Programs run for less than a microsecond: most waits end before this many looks. */
const LOOKS_BEFORE_SLEEP = 200;
const SLEEP_MS = 0.2;
const sleeper = new Int32Array(new SharedArrayBuffer(4));

export class Control {
  readonly fd: number;
  /** False when an earlier process had pinned it. */
  readonly created: boolean;
  readonly #mapping: Mapping;
  readonly #words: Int32Array;

  constructor(pinPath: string) {
    const pinned = openPinned(pinPath);
    this.created = pinned === undefined;
    this.fd = pinned ?? createArrayMap('ai_control', 1, CONTROL_BYTES);
    if (this.created) pinObject(this.fd, pinPath);
    this.#mapping = mmapShared(this.fd, CONTROL_BYTES);
    this.#words = new Int32Array(this.#mapping.bytes, 0, CONTROL_BYTES >>> 2);
  }

  get epoch(): EpochIndex {
    return (Atomics.load(this.#words, CONTROL_EPOCH_OFFSET >>> 2) & 1) as EpochIndex;
  }

  set epoch(value: EpochIndex) {
    Atomics.store(this.#words, CONTROL_EPOCH_OFFSET >>> 2, value);
  }

  close(): void {
    this.#mapping.unmap();
    closeSync(this.fd);
  }
}

/**
 * Waits until each CPU was seen with no submission in the works, for each disk; returns the ms waited. Programs that start
 * meanwhile read the new epoch: their "enter" is ordered before that read, as the flip is before our first look.
 */
export function waitForStragglers(
  counters: readonly ProgramCounters[],
  cpus: number,
  monotonicMs: () => number,
): number {
  const start = monotonicMs();
  for (const disk of counters) {
    for (let cpu = 0; cpu < cpus; cpu++) {
      for (let looks = 1; !disk.isQuiescent(cpu); looks++) {
        if (looks < LOOKS_BEFORE_SLEEP) continue;
        if (monotonicMs() - start > TAKE_STRAGGLER_MS) throw straggler(cpu);
        Atomics.wait(sleeper, 0, 0, SLEEP_MS);
      }
    }
  }
  return monotonicMs() - start;
}

const straggler = (cpu: number): AfterimageError =>
  new AfterimageError(`CPU ${cpu} was still marking a write after ${TAKE_STRAGGLER_MS} ms`, {
    code: 'take-straggler',
    kind: 'io',
    hint: 'the machine is starved of CPU time; the next take tries again',
  });
