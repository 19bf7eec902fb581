/**
 * Challenges and answers: the objects by which one receiver learns whether another lives. Reading and writing only.
 */
import { z } from 'zod';
import { RECOVERY_BYTES_MAX } from '../../shared/limits.js';
import { corrupt } from '../../shared/errors.js';
import { isUuid, type MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { answerName, challengeName, challengePrefix, numberOfName } from './names.js';
import { RECOVERY_VERSION } from './recovery.js';
import { openSealedJson, sealJson } from './sealed-json.js';
import { createWithCopy, highestOfEither, readEither } from './second-copies.js';

const uuid = z.string().refine(isUuid, 'not a UUID');
/** Which of which machine it is, so that one in another's place is noticed. Absent in those of the first version that wrote any. */
const placeShape = {
  version: z.literal(RECOVERY_VERSION),
  machine: uuid.optional(),
  number: z.number().int().min(1).optional(),
};
type Place = z.infer<z.ZodObject<typeof placeShape>>;

const challengeSchema = z.strictObject({
  ...placeShape,
  /** The receiver that asks, and the one that shall answer. */
  from: uuid,
  to: uuid,
  writtenAtMs: z.number().int().nonnegative(),
});
export type Challenge = Omit<z.infer<typeof challengeSchema>, keyof Place>;

const answerSchema = z.strictObject({
  ...placeShape,
  from: uuid,
  name: z.string(),
  writtenAtMs: z.number().int().nonnegative(),
});
export type Answer = Omit<z.infer<typeof answerSchema>, keyof Place>;

/** Number of the newest challenge; 0 when there was none. */
export async function lastChallenge(store: ObjectStore, machine: MachineId): Promise<number> {
  const last = await highestOfEither(store, challengePrefix(machine));
  return last === null ? 0 : numberOfName(last);
}

/** Writes the next challenge and returns its number. */
export async function writeChallenge(store: ObjectStore, machine: MachineId, challenge: Challenge): Promise<number> {
  for (let number = (await lastChallenge(store, machine)) + 1; ; number++) {
    const bytes = sealJson({ version: RECOVERY_VERSION, machine, number, ...challenge });
    if ((await createWithCopy(store, challengeName(machine, number), bytes)) === 'created') return number;
  }
}

export async function readChallenge(store: ObjectStore, machine: MachineId, number: number): Promise<Challenge | null> {
  const name = challengeName(machine, number);
  return readEither(store, name, RECOVERY_BYTES_MAX, (bytes) =>
    inPlace(openSealedJson(bytes, challengeSchema, RECOVERY_VERSION, name), machine, number, name),
  );
}

export async function writeAnswer(
  store: ObjectStore,
  machine: MachineId,
  number: number,
  answer: Answer,
): Promise<void> {
  const bytes = sealJson({ version: RECOVERY_VERSION, machine, number, ...answer });
  await createWithCopy(store, answerName(machine, number), bytes);
}

export async function readAnswer(store: ObjectStore, machine: MachineId, number: number): Promise<Answer | null> {
  const name = answerName(machine, number);
  return readEither(store, name, RECOVERY_BYTES_MAX, (bytes) =>
    inPlace(openSealedJson(bytes, answerSchema, RECOVERY_VERSION, name), machine, number, name),
  );
}

function inPlace<T extends Place>(object: T, machine: MachineId, number: number, name: string): T {
  const { machine: of = machine, number: is = number } = object;
  if (of === machine && is === number) return object;
  throw corrupt('challenge-misplaced', `object ${name} is that of number ${is} of machine ${of}`);
}
