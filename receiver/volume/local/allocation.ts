/**
 * What of a volume is stored, for clients that copy only that: from the maps, the holes of the local image, and the runs of the recovery point.
 */
import { ALLOCATION_SPAN_BYTES } from '../../../shared/limits.js';
import type { AllocationRun } from '../block-device.js';
import type { PointContent } from '../content.js';
import type { LocalImage } from './image.js';

/** Joins runs of one kind, clipped to the request, and counts them. */
class Runs {
  readonly runs: AllocationRun[] = [];
  at: number;
  readonly #end: number;
  readonly #max: number;

  constructor(offset: number, end: number, max: number) {
    this.at = offset;
    this.#end = end;
    this.#max = max;
  }

  get isDone(): boolean {
    return this.at >= this.#end || this.runs.length > this.#max;
  }

  /** Goes on to `until`. */
  add(until: number, zero: boolean): void {
    const to = Math.min(until, this.#end);
    if (to <= this.at) return;
    const last = this.runs.at(-1);
    const lengthBytes = to - this.at;
    this.at = to;
    if (last?.zero === zero) this.runs[this.runs.length - 1] = { ...last, lengthBytes: last.lengthBytes + lengthBytes };
    else this.runs.push({ lengthBytes, hole: zero, zero });
  }

  /** At most what was asked for: one more was gathered to know where the last one ends. */
  get result(): readonly AllocationRun[] {
    return this.runs.slice(0, this.#max);
  }
}

export async function allocationOf(
  image: LocalImage,
  content: PointContent | null,
  offset: number,
  lengthBytes: number,
  runsMax: number,
): Promise<readonly AllocationRun[]> {
  const { blockBytes } = image.geometry;
  const end = offset + Math.min(lengthBytes, ALLOCATION_SPAN_BYTES);
  const found = new Runs(offset, end, runsMax);
  const endBlock = Math.ceil(end / blockBytes);
  while (!found.isDone) {
    const first = Math.floor(found.at / blockBytes);
    const local = image.maps.local.has(first);
    const runEnd = image.maps.local.runEnd(first, endBlock);
    if (local || content === null) {
      addLocal(image, found, runEnd * blockBytes);
      continue;
    }
    for (const run of await content.runs(first, runEnd - first)) {
      // What became local while we asked is zero only if nothing was written there.
      const still =
        !image.maps.local.has(run.first) &&
        image.maps.local.runEnd(run.first, run.first + run.count) === run.first + run.count;
      found.add((run.first + run.count) * blockBytes, run.zero && still);
      if (found.isDone) break;
    }
  }
  return found.result;
}

function addLocal(image: LocalImage, found: Runs, until: number): void {
  while (found.at < until && !found.isDone) {
    const data = image.nextData(found.at);
    if (data === undefined) return found.add(until, false);
    if (data === null) return found.add(until, true);
    const [start, end] = data;
    found.add(Math.min(start, until), true);
    if (start < until) found.add(Math.min(end, until), false);
  }
}
