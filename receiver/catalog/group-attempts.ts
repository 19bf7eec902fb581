/**
 * How attempts at points of a group went, for people: `group-attempts/<group>/<started>-<point>`, written once when an attempt has ended. Whether a group's
 * point is whole is told by the members' manifests alone; this says why one isn't, and when one was tried last. The oldest go.
 */
import { z } from 'zod';
import { AfterimageError } from '../../shared/errors.js';
import { GROUP_ATTEMPT_BYTES_MAX, GROUP_ATTEMPTS_KEPT, GROUP_MEMBERS_MAX } from '../../shared/limits-groups.js';
import type { ScheduleHistory } from '../../shared/schedule-due.js';
import { isUuid } from '../../shared/units.js';
import { groupNameSchema } from '../../shared/wire/group-record.js';
import { labelSchema } from '../../shared/wire/quiesce-record.js';
import type { ObjectStore } from '../store/store.js';
import { attemptName, attemptsPrefix } from './names.js';
import { openSealedJson, sealJson } from './sealed-json.js';

export const ATTEMPT_VERSION = 1;
const count = z.number().int().nonnegative();
const uuid = z.string().refine(isUuid, 'not a UUID');

export const attemptSchema = z.strictObject({
  version: z.literal(ATTEMPT_VERSION),
  /** Of the group's point. */
  point: uuid,
  group: uuid,
  name: groupNameSchema,
  label: labelSchema.nullable(),
  by: z.enum(['operator', 'schedule']),
  startedAtMs: count,
  endedAtMs: count,
  /** False: not all members were there to be asked, so nobody was. */
  asked: z.boolean(),
  /** Why there is no point; '' when there is. */
  reason: z.string().max(1000),
  members: z
    .array(z.strictObject({ machine: uuid, name: z.string().max(300), point: count.nullable() }))
    .max(GROUP_MEMBERS_MAX),
  /** Null: not all have cut. */
  skewMs: z.number().nonnegative().nullable(),
  frozenMs: z.number().nonnegative().nullable(),
});
export type Attempt = z.infer<typeof attemptSchema>;

/** Keeps it, and lets the oldest go. */
export async function keepAttempt(store: ObjectStore, attempt: Attempt): Promise<void> {
  // Taken: by an earlier try of the same.
  await store.createIfAbsent(attemptName(attempt.group, attempt.startedAtMs, attempt.point), sealJson(attempt));
  const names = await attemptNames(store, attempt.group);
  const old = names.slice(0, Math.max(0, names.length - GROUP_ATTEMPTS_KEPT));
  if (old.length > 0) await store.deleteMany(old);
}

/** Oldest first. */
export async function attemptNames(store: ObjectStore, group: string): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of store.list(attemptsPrefix(group))) names.push(name);
  return names;
}

/** What a schedule has to know of the attempts before, newest first. Those for which nobody was asked held nobody back, and don't count as failures. */
export function historyOf(attempts: readonly Attempt[]): ScheduleHistory {
  const asked = attempts.filter((attempt) => attempt.asked && attempt.by === 'schedule');
  const made = asked.findIndex(({ reason }) => reason === '');
  return { lastTryAtMs: attempts[0]?.startedAtMs ?? null, failuresInARow: made === -1 ? asked.length : made };
}

/** The newest `limit`, newest first. One that is gone meanwhile, or damaged, is passed over: it decides nothing. */
export async function listAttempts(store: ObjectStore, group: string, limit = GROUP_ATTEMPTS_KEPT): Promise<Attempt[]> {
  const names = (await attemptNames(store, group)).reverse().slice(0, limit);
  const found = await Promise.all(names.map((name) => readAttempt(store, name)));
  return found.flatMap((attempt) => attempt ?? []);
}

async function readAttempt(store: ObjectStore, name: string): Promise<Attempt | null> {
  try {
    const bytes = await store.get(name, GROUP_ATTEMPT_BYTES_MAX);
    return bytes === null ? null : openSealedJson(bytes, attemptSchema, ATTEMPT_VERSION, name);
  } catch (error) {
    if (error instanceof AfterimageError && ['corrupt', 'unsupported'].includes(error.kind)) return null;
    throw error;
  }
}
