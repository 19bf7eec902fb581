/**
 * Reads and writes recovery objects, launch settings and boot results. No decisions here.
 * On a crash: an object exists whole or not at all; who wrote it is recognised by its writeId.
 */
import { z } from 'zod';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, corrupt } from '../../shared/errors.js';
import { RECOVERY_BYTES_MAX } from '../../shared/limits.js';
import type { MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { launchSettingsSchema, type LaunchSettings } from './launch.js';
import { launchName, launchPrefix, machineOfName, numberOfName, recoveryName, recoveryPrefix } from './names.js';
import { RECOVERY_VERSION, recoverySchema, type Recovery } from './recovery.js';
import { openSealedJson, sealJson } from './sealed-json.js';
import { createWithCopy, highestOfEither, readEither } from './second-copies.js';

const launchObjectSchema = z.strictObject({
  version: z.literal(RECOVERY_VERSION),
  number: z.number().int().min(1),
  writtenAtMs: z.number().int().nonnegative(),
  settings: launchSettingsSchema,
});

async function highest(store: ObjectStore, prefix: string): Promise<number> {
  const last = await highestOfEither(store, prefix);
  return last === null ? 0 : numberOfName(last);
}

async function read<T extends { readonly number: number }>(
  store: ObjectStore,
  name: string,
  schema: z.ZodType<T>,
  machineOf: (found: T) => MachineId | null = () => null,
): Promise<T> {
  const read = await readEither(store, name, RECOVERY_BYTES_MAX, (bytes) => {
    const found = openSealedJson(bytes, schema, RECOVERY_VERSION, name);
    const machine = machineOf(found);
    if (found.number === numberOfName(name) && (machine === null || machine === machineOfName(name))) return found;
    throw corrupt('recovery-misplaced', `object ${name} holds step ${found.number} of machine ${machine ?? 'unknown'}`);
  });
  if (read !== null) return read;
  throw corrupt('recovery-missing', `object ${name} is not in the store`);
}

/** The newest; null for a machine that was never failed over or tested. */
export async function loadRecovery(store: ObjectStore, machine: MachineId): Promise<Recovery | null> {
  const number = await highest(store, recoveryPrefix(machine));
  if (number === 0) return null;
  return read(store, recoveryName(machine, number), recoverySchema, (found) => found.machine);
}

export interface RecoveryDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly randomId: () => string;
}

/**
 * Writes the step after `previous` (null: the first). Throws kind `fenced`, code `recovery-moved`, when somebody else has written it: read again, decide again.
 */
export async function writeRecovery(
  deps: RecoveryDeps,
  previous: Recovery | null,
  next: Omit<Recovery, 'version' | 'number' | 'writeId' | 'writtenAtMs'>,
): Promise<Recovery> {
  const recovery: Recovery = {
    ...next,
    version: RECOVERY_VERSION,
    number: (previous?.number ?? 0) + 1,
    writeId: deps.randomId(),
    writtenAtMs: deps.clock.nowMs(),
  };
  const name = recoveryName(recovery.machine, recovery.number);
  if ((await createWithCopy(deps.store, name, sealReadable(recovery))) === 'created') return recovery;
  // A retry inside the store's adapter may have met its own success.
  const there = await read(deps.store, name, recoverySchema);
  if (there.writeId === recovery.writeId) return recovery;
  throw new AfterimageError(`machine ${recovery.machine}: another operation came first`, {
    code: 'recovery-moved',
    kind: 'fenced',
    hint: 'See `afterimage status` for what is going on, then decide again.',
  });
}

/** A step that nobody could read back would be the end of all operations of its machine: it is refused instead. */
function sealReadable(recovery: Recovery): Buffer {
  const bytes = sealJson(recovery);
  const { error } = recoverySchema.safeParse(recovery);
  const what =
    error?.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; ') ??
    (bytes.length > RECOVERY_BYTES_MAX ? `${bytes.length} bytes, ${RECOVERY_BYTES_MAX} at most` : null);
  if (what === null) return bytes;
  throw new AfterimageError(
    `a step of machine ${recovery.machine} is not written, since it could not be read: ${what}`,
    {
      code: 'recovery-unreadable',
      kind: 'internal',
    },
  );
}

/** Empty settings for a machine without any. */
export async function loadLaunchSettings(store: ObjectStore, machine: MachineId): Promise<LaunchSettings> {
  const number = await highest(store, launchPrefix(machine));
  if (number === 0) return {};
  return (await read(store, launchName(machine, number), launchObjectSchema)).settings;
}

export async function saveLaunchSettings(
  deps: RecoveryDeps,
  machine: MachineId,
  settings: LaunchSettings,
): Promise<void> {
  const number = (await highest(deps.store, launchPrefix(machine))) + 1;
  const object = { version: RECOVERY_VERSION, number, writtenAtMs: deps.clock.nowMs(), settings };
  if ((await createWithCopy(deps.store, launchName(machine, number), sealJson(object))) === 'created') return;
  throw new AfterimageError(`launch settings of machine ${machine} were changed by somebody else at the same time`, {
    code: 'launch-moved',
    kind: 'refused',
    hint: 'Look at them and try again.',
  });
}
