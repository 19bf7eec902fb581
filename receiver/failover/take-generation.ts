/**
 * Raising a machine's generation in a job that may be interrupted at any moment: the manifest that raises carries the job's id, so that a job that is
 * resumed knows its own success from somebody else's.
 */
import { AfterimageError } from '../../shared/errors.js';
import type { MachineId } from '../../shared/units.js';
import { raiseGeneration } from '../catalog/generation.js';
import type { ManifestContent } from '../catalog/owned-machine.js';
import { MachineReader } from '../catalog/reader.js';
import type { FailoverParts } from './parts.js';

/** The generation that the machine has by this job. Throws kind `fenced` when another raised it. */
export async function takeGeneration(
  parts: FailoverParts,
  machine: MachineId,
  job: string,
  expected: number,
  change?: (content: ManifestContent) => ManifestContent,
): Promise<number> {
  const mark = `raise-${job}`;
  const { manifest } = await MachineReader.open(parts.store, machine);
  // Nothing is committed between the raise and the record of it, so the raising manifest is still the highest.
  if (manifest.writeId === mark) return manifest.generation;
  if (manifest.generation !== expected) {
    throw new AfterimageError(
      `machine ${manifest.machine.name} is at generation ${manifest.generation}, not at ${expected}: the right to write it went to somebody else`,
      { code: 'generation-moved', kind: 'fenced', hint: 'See `afterimage status`, then decide again.' },
    );
  }
  const deps = { store: parts.store, clock: parts.clock, randomId: () => mark, owner: parts.owner ?? null };
  return (await raiseGeneration(deps, machine, expected, change)).manifest.generation;
}
