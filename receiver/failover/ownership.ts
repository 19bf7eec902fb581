/**
 * Whether the receiver that has a machine's copy lives: it is asked by an object in the store and answers by another.
 * No clock decides what is right: an answer in time spares a live receiver; without one the machine is taken over by raising its generation, which
 * fences the other whatever it does. Time only decides how long an operator waits.
 */
import type { MachineId } from '../../shared/units.js';
import { ANSWER_POLL_MS, CHALLENGE_MS, CHALLENGES_ANSWERED_MAX } from '../../shared/limits.js';
import { lastChallenge, readAnswer, readChallenge, writeAnswer, writeChallenge } from '../catalog/challenge.js';
import type { FailoverParts, FailoverSettings } from './parts.js';
import { cancelled } from '../volume/plan-point.js';

type Deps = Pick<FailoverParts, 'store' | 'clock'>;
type Self = Pick<FailoverSettings, 'receiver' | 'receiverName'>;

/** The name of the receiver when it answers, null when it doesn't. */
export async function askOwner(
  { store, clock }: Deps,
  self: Self,
  machine: MachineId,
  owner: string,
  signal: AbortSignal,
): Promise<string | null> {
  const challenge = { from: self.receiver, to: owner, writtenAtMs: clock.nowMs() };
  const number = await writeChallenge(store, machine, challenge);
  const deadlineMs = clock.monotonicMs() + CHALLENGE_MS;
  for (;;) {
    const answer = await readAnswer(store, machine, number);
    if (answer?.from === owner) return answer.name;
    if (clock.monotonicMs() >= deadlineMs) return null;
    await clock.sleep(ANSWER_POLL_MS, signal);
    if (signal.aborted) throw cancelled('asking another receiver whether it lives');
  }
}

/** The answering side: remembers up to which challenge it has looked. */
export class Answerer {
  readonly #deps: Deps;
  readonly #self: Self;
  readonly #seen = new Map<MachineId, number>();

  constructor(deps: Deps, self: Self) {
    this.#deps = deps;
    this.#self = self;
  }

  /** One listing when nobody asks. Several may ask at once, also somebody else: each waits for the answer to its own. */
  async answer(machine: MachineId): Promise<void> {
    const { store, clock } = this.#deps;
    const newest = await lastChallenge(store, machine);
    const { receiver: from, receiverName: name } = this.#self;
    const seen = Math.max(this.#seen.get(machine) ?? 0, newest - CHALLENGES_ANSWERED_MAX);
    for (let number = seen + 1; number <= newest; number++) {
      const challenge = await readChallenge(store, machine, number);
      if (challenge?.to === from) await writeAnswer(store, machine, number, { from, name, writtenAtMs: clock.nowMs() });
    }
    this.#seen.set(machine, newest);
  }
}
