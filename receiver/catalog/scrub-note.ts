/**
 * What a scrub notes down now and then (`machines/<m>/scrub/<n>`, the highest counts): how far it is, and what it has seen. Schema only.
 *
 * What it has seen is a witness against things that vanish without leaving a hole: a manifest that was once the newest, a numbered record that was once
 * the highest. Without it an older truth would silently take their place.
 */
import { z } from 'zod';
import { isUuid, type MachineId } from '../../shared/units.js';

export const SCRUB_NOTE_VERSION = 1;

const count = z.number().int().nonnegative();
const machineId = z.custom<MachineId>((v) => typeof v === 'string' && isUuid(v), 'not a machine id');

export const scrubNoteSchema = z.strictObject({
  version: z.literal(SCRUB_NOTE_VERSION),
  number: count.min(1),
  machine: machineId,
  writtenAtMs: count,
  /** The pass that runs or ran last. `cursor`: what was read up to here; null when nothing is left to do in it. */
  pass: z.strictObject({ startedAtMs: count, cursor: z.string().nullable(), readBytes: count, objects: count }),
  /** End of the last whole pass and of the last proof of sampled points; null for none yet. */
  completedAtMs: count.nullable(),
  provenAtMs: count.nullable(),
  /** The newest manifest at the time. */
  head: z.strictObject({ manifest: count, epoch: count, lastPoint: count, boundary: count }),
  /** Small objects that are kept for ever: name below the machine's folder, and XXH64 of its bytes. */
  records: z.array(z.tuple([z.string(), z.string().regex(/^[0-9a-f]{16}$/)])),
});
export type ScrubNote = z.infer<typeof scrubNoteSchema>;
