/**
 * Reading and replacing the policy of a machine: numbered, immutable objects (`machines/<m>/policy/<n>`), the highest counts, the older ones are the
 * history. The text is kept as people write it, normalised, so that `head -1` shows it. A machine without one has the receiver's default.
 * On a crash: the new number is there or it isn't.
 */
import { z } from 'zod';
import type { Clock } from '../../shared/clock.js';
import { durationText } from '../../shared/config/parse-values.js';
import { AfterimageError, corrupt } from '../../shared/errors.js';
import { POLICY_BYTES_MAX, POLICY_RECHECK_MS } from '../../shared/limits-retention.js';
import type { MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { createNumbered } from './numbered.js';
import { numberOfName, policyName, policyPrefix } from './names.js';
import { policySchema, type MachinePolicy, type RetentionTier } from './policy.js';
import { openSealedJson, sealJson } from './sealed-json.js';
import { highestOfEither, readEither } from './second-copies.js';

export const POLICY_VERSION = 1;

const count = z.number().int().nonnegative();

const policyObjectSchema = z.strictObject({
  version: z.literal(POLICY_VERSION),
  number: count.min(1),
  /** Absent in those of the first version that wrote any. */
  machine: z.string().optional(),
  writtenAtMs: count,
  policy: policySchema,
});

export interface StoredPolicy {
  readonly number: number;
  readonly writtenAtMs: number;
  readonly policy: MachinePolicy;
}

async function highest(store: ObjectStore, machine: MachineId): Promise<number> {
  const last = await highestOfEither(store, policyPrefix(machine));
  return last === null ? 0 : numberOfName(last);
}

async function readPolicy(store: ObjectStore, machine: MachineId, number: number): Promise<StoredPolicy> {
  const name = policyName(machine, number);
  const stored = await readEither(store, name, POLICY_BYTES_MAX, (bytes) => {
    const found = openSealedJson(bytes, policyObjectSchema, POLICY_VERSION, name);
    const { number: its, machine: whose = machine } = found;
    if (its === number && whose === machine) return found;
    throw corrupt('policy-misplaced', `object ${name} holds policy ${its} of machine ${whose}`);
  });
  if (stored !== null) return stored;
  throw corrupt('policy-missing', `object ${name} is not in the store`);
}

/** The machine's own policy; null: it has none. Throws when it can't be read: then nothing may be dropped by another. */
export async function loadPolicy(store: ObjectStore, machine: MachineId): Promise<StoredPolicy | null> {
  const number = await highest(store, machine);
  return number === 0 ? null : readPolicy(store, machine, number);
}

/** Writes the next number. Of two at once one loses: code `policy-moved`, nothing of it was written. */
export async function savePolicy(
  deps: { readonly store: ObjectStore; readonly clock: Clock },
  machine: MachineId,
  policy: MachinePolicy,
): Promise<number> {
  const number = (await highest(deps.store, machine)) + 1;
  const object = {
    version: POLICY_VERSION,
    number,
    machine,
    writtenAtMs: deps.clock.nowMs(),
    policy: policyText(policy),
  };
  if (await createNumbered(deps.store, policyName(machine, number), sealJson(object))) return number;
  throw new AfterimageError(`the policy of machine ${machine} was changed by somebody else at the same time`, {
    code: 'policy-moved',
    kind: 'refused',
    hint: 'Look at it and try again.',
  });
}

/** What people write, of what programs use: the inverse of the schema. */
export function policyText(policy: MachinePolicy): z.input<typeof policySchema> {
  const { intervalMs, applicationIntervalMs, retention } = policy;
  const tier = ({ everyMs, upToMs }: RetentionTier) => ({
    every: everyMs === 0 ? 'all' : durationText(everyMs),
    upTo: durationText(upToMs),
  });
  return {
    ...(intervalMs === null ? {} : { interval: durationText(intervalMs) }),
    ...(applicationIntervalMs === null ? {} : { applicationInterval: durationText(applicationIntervalMs) }),
    retention: retention.tiers.map(tier),
    ...(retention.applicationTiers.length === 0 ? {} : { applicationRetention: retention.applicationTiers.map(tier) }),
  };
}

interface Cached {
  readonly number: number;
  readonly policy: MachinePolicy;
  readonly readAtMs: number;
}

/** Policies of many machines for a process that asks often: looked up again once in POLICY_RECHECK_MS, at two listings each. */
export class Policies {
  readonly #store: ObjectStore;
  readonly #clock: Clock;
  readonly #default: MachinePolicy;
  readonly #cached = new Map<MachineId, Cached>();

  constructor(store: ObjectStore, clock: Clock, whereNone: MachinePolicy) {
    this.#store = store;
    this.#clock = clock;
    this.#default = whereNone;
  }

  async of(machine: MachineId): Promise<MachinePolicy> {
    const nowMs = this.#clock.monotonicMs();
    const before = this.#cached.get(machine);
    if (before !== undefined && nowMs - before.readAtMs < POLICY_RECHECK_MS) return before.policy;
    const number = await highest(this.#store, machine);
    const policy = await this.#policyOf(machine, number, before);
    this.#cached.set(machine, { number, policy, readAtMs: nowMs });
    return policy;
  }

  async #policyOf(machine: MachineId, number: number, before: Cached | undefined): Promise<MachinePolicy> {
    if (number === 0) return this.#default;
    if (before?.number === number) return before.policy;
    return (await readPolicy(this.#store, machine, number)).policy;
  }
}
