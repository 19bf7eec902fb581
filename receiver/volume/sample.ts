/**
 * Reads and proves a few chunks of a disk at a point, spread over it: says quickly whether a key opens it. No proof of the whole; that is verify.ts.
 */
import { CHUNK_PLAIN_BYTES_MAX } from '../../shared/limits.js';
import { KEY_SAMPLE_UNITS } from '../../shared/limits-keys.js';
import { provePieces } from './chunk-check.js';
import type { LayerReader } from './layer-reader.js';
import { cancelled } from './plan-point.js';
import type { ReadPlan } from './read-plan.js';
import { byChunk, workOf } from './unit-work.js';

export interface Sample {
  readonly readBytes: number;
  readonly encryptedChunks: number;
}

/** One chunk of each of some units of the plan, the newest and the last among them. Throws kind `corrupt`, or code `key-missing`. */
export async function sampleDisk(reader: LayerReader, plan: ReadPlan, signal: AbortSignal): Promise<Sample> {
  const units = plan.units.filter((unit) => unit.kind !== 'zero');
  const step = Math.max(1, Math.ceil(units.length / KEY_SAMPLE_UNITS));
  const plain = Buffer.allocUnsafe(CHUNK_PLAIN_BYTES_MAX);
  let readBytes = 0;
  let encryptedChunks = 0;
  for (const [i, unit] of units.entries()) {
    if (signal.aborted) throw cancelled('the check of a key file');
    if (i % step !== 0 && i !== units.length - 1) continue;
    const index = await reader.index(unit.layer);
    const groups = [...byChunk(workOf(plan, unit, index).pieces)];
    const chosen = groups[Math.floor(groups.length / 2)];
    if (chosen === undefined) continue;
    const [number, pieces] = chosen;
    for await (const stored of reader.storedChunks(unit.layer, index, [number])) {
      if (stored.header.seal !== null) encryptedChunks++;
      readBytes += stored.bytes.length;
      const name = reader.nameOf(unit.layer);
      provePieces(name, index, await reader.open(name, index, stored), pieces, plain);
    }
  }
  return { readBytes, encryptedChunks };
}
