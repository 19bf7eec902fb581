/**
 * What failover leaves behind for people and for later: ended jobs and results of boot checks, each an object of its own, written once.
 * On a crash: written again under the same name, which then exists already.
 */
import { z } from 'zod';
import { RECOVERY_BYTES_MAX } from '../../shared/limits.js';
import { isUuid, type MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { checkName, checksPrefix, jobName, jobsPrefix } from './names.js';
import { bootResultSchema, jobSchema, RECOVERY_VERSION, type BootResult, type Job } from './recovery.js';
import { openSealedJson, sealJson } from './sealed-json.js';
import { createWithCopy, namesOfEither, readEither } from './second-copies.js';

const jobObjectSchema = z.strictObject({ version: z.literal(RECOVERY_VERSION), job: jobSchema });

export const bootRecordSchema = z.strictObject({
  version: z.literal(RECOVERY_VERSION),
  point: z.number().int().nonnegative(),
  instance: z.string().refine(isUuid, 'not a UUID'),
  kind: z.enum(['test', 'failover']),
  receiverName: z.string(),
  result: bootResultSchema,
  /** From the command to the end of the check. */
  rtoMs: z.number().int().nonnegative().nullable(),
});
export type BootRecord = Omit<z.infer<typeof bootRecordSchema>, 'version'> & { readonly result: BootResult };

export async function writeJob(store: ObjectStore, machine: MachineId, job: Job): Promise<void> {
  await createWithCopy(store, jobName(machine, job.startedAtMs, job.id), sealJson({ version: RECOVERY_VERSION, job }));
}

/** Ended jobs, oldest first. */
export async function* listJobs(store: ObjectStore, machine: MachineId): AsyncGenerator<Job> {
  for (const name of await namesOfEither(store, jobsPrefix(machine))) {
    const found = await readEither(store, name, RECOVERY_BYTES_MAX, (bytes) =>
      openSealedJson(bytes, jobObjectSchema, RECOVERY_VERSION, name),
    );
    if (found !== null) yield found.job;
  }
}

export async function writeCheck(store: ObjectStore, machine: MachineId, record: BootRecord): Promise<void> {
  const name = checkName(machine, record.point, record.instance);
  await createWithCopy(store, name, sealJson({ version: RECOVERY_VERSION, ...record }));
}

/** All boot checks of a machine, by point. */
export async function listChecks(store: ObjectStore, machine: MachineId): Promise<BootRecord[]> {
  const found: BootRecord[] = [];
  for (const name of await namesOfEither(store, checksPrefix(machine))) {
    const read = await readEither(store, name, RECOVERY_BYTES_MAX, (bytes) =>
      openSealedJson(bytes, bootRecordSchema, RECOVERY_VERSION, name),
    );
    if (read === null) continue;
    const { version: _, ...record } = read;
    found.push(record);
  }
  return found;
}
