/**
 * Tells a session's agent how often points are to be made, when that isn't what it knows. A policy that can't be read leaves it as it is.
 */
import type { Logger } from 'pino';
import { messageOf } from '../../shared/errors.js';
import type { MachineId } from '../../shared/units.js';
import type { ReceiverMessage } from '../../shared/wire/messages.js';
import type { MachinePolicy } from '../catalog/policy.js';
import type { Policies } from '../catalog/policy-io.js';

export class PolicyLink {
  readonly #policies: Policies | undefined;
  readonly #machine: MachineId;
  readonly #send: (message: ReceiverMessage) => Promise<void>;
  readonly #log: Logger;
  /** An agent that was told nothing goes by its own configuration. */
  #told: Pick<MachinePolicy, 'intervalMs' | 'applicationIntervalMs'> = {
    intervalMs: null,
    applicationIntervalMs: null,
  };

  constructor(
    policies: Policies | undefined,
    machine: MachineId,
    send: (message: ReceiverMessage) => Promise<void>,
    log: Logger,
  ) {
    this.#policies = policies;
    this.#machine = machine;
    this.#send = send;
    this.#log = log;
  }

  async tell(): Promise<void> {
    const policy = await this.#policies?.of(this.#machine).catch((error: unknown) => {
      this.#log.warn(
        { err: error, machine: this.#machine },
        `the policy of the machine can not be read; its agent keeps its pace: ${messageOf(error)}`,
      );
      return undefined;
    });
    if (policy === undefined) return;
    const { intervalMs, applicationIntervalMs } = policy;
    if (this.#told.intervalMs === intervalMs && this.#told.applicationIntervalMs === applicationIntervalMs) return;
    this.#told = { intervalMs, applicationIntervalMs };
    await this.#send({ type: 'policy', intervalMs, applicationIntervalMs });
  }
}
