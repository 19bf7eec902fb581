/**
 * Challenges and answers: the objects by which one receiver learns whether another lives. Reading and writing only.
 */
import { z } from 'zod';
import { RECOVERY_BYTES_MAX } from '../../shared/limits.js';
import { isUuid, type MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { answerName, challengeName, challengePrefix, numberOfName } from './names.js';
import { RECOVERY_VERSION } from './recovery.js';
import { openSealedJson, sealJson } from './sealed-json.js';

const uuid = z.string().refine(isUuid, 'not a UUID');
const challengeSchema = z.strictObject({
  version: z.literal(RECOVERY_VERSION),
  /** The receiver that asks, and the one that shall answer. */
  from: uuid,
  to: uuid,
  writtenAtMs: z.number().int().nonnegative(),
});
export type Challenge = Omit<z.infer<typeof challengeSchema>, 'version'>;

const answerSchema = z.strictObject({
  version: z.literal(RECOVERY_VERSION),
  from: uuid,
  name: z.string(),
  writtenAtMs: z.number().int().nonnegative(),
});
export type Answer = Omit<z.infer<typeof answerSchema>, 'version'>;

/** Number of the newest challenge; 0 when there was none. */
export async function lastChallenge(store: ObjectStore, machine: MachineId): Promise<number> {
  let last = 0;
  for await (const { name } of store.list(challengePrefix(machine))) last = numberOfName(name);
  return last;
}

/** Writes the next challenge and returns its number. */
export async function writeChallenge(store: ObjectStore, machine: MachineId, challenge: Challenge): Promise<number> {
  for (let number = (await lastChallenge(store, machine)) + 1; ; number++) {
    const bytes = sealJson({ version: RECOVERY_VERSION, ...challenge });
    if ((await store.createIfAbsent(challengeName(machine, number), bytes)) === 'created') return number;
  }
}

export async function readChallenge(store: ObjectStore, machine: MachineId, number: number): Promise<Challenge | null> {
  const name = challengeName(machine, number);
  const bytes = await store.get(name, RECOVERY_BYTES_MAX);
  return bytes === null ? null : openSealedJson(bytes, challengeSchema, RECOVERY_VERSION, name);
}

export async function writeAnswer(
  store: ObjectStore,
  machine: MachineId,
  number: number,
  answer: Answer,
): Promise<void> {
  await store.createIfAbsent(answerName(machine, number), sealJson({ version: RECOVERY_VERSION, ...answer }));
}

export async function readAnswer(store: ObjectStore, machine: MachineId, number: number): Promise<Answer | null> {
  const name = answerName(machine, number);
  const bytes = await store.get(name, RECOVERY_BYTES_MAX);
  return bytes === null ? null : openSealedJson(bytes, answerSchema, RECOVERY_VERSION, name);
}
