/**
 * An application-consistent cut: applications are prepared, then the filesystems are frozen as for any stronger cut, with commits held back from just before
 * until just after. One object for one point; `record` tells what it cost and who said what.
 *
 * Thaw comes first, whatever failed; then applications run again. Hooks are called with `post` or `abort` while the point is already being sent.
 */
import type { Clock } from '../../shared/clock.js';
import { messageOf } from '../../shared/errors.js';
import type { Logger } from '../../shared/log.js';
import { boundedRecord, type QuiesceRecord } from '../../shared/wire/quiesce-record.js';
import type { Quiesce, QuiesceOutcome } from '../cycle/cut.js';
import type { HookCall } from './hooks/run-hook.js';
import type { ApplicationResult } from './runner/protocol.js';
import type { RunnerEnd, QuiesceRunner } from './runner/runner.js';

/** Of the process that quiesces, what a point uses. */
export type Quiescing = Pick<QuiesceRunner, 'prepare' | 'hold' | 'release' | 'end' | 'calls'>;

export interface PointQuiesceDeps {
  readonly freeze: Quiesce;
  /** Starts the process; throws when that fails. */
  readonly start: () => Promise<Quiescing>;
  readonly filesystems: readonly string[];
  readonly clock: Clock;
  readonly log: Logger;
}

/** Just before the freeze applications did not hold: nothing is frozen. */
class NotHeld extends Error {}

export class PointQuiesce implements Quiesce {
  readonly #deps: PointQuiesceDeps;
  #runner: Quiescing | null = null;
  #ending: Promise<RunnerEnd> | null = null;
  #startMs = 0;
  #totalMs = 0;
  #heldMs = 0;
  #applications: readonly ApplicationResult[] = [];

  constructor(deps: PointQuiesceDeps) {
    this.#deps = deps;
  }

  presync(): Promise<void> {
    return this.#deps.freeze.presync();
  }

  async withFrozen(
    beforeFreeze: () => Promise<void>,
    work: (deadline: AbortSignal) => Promise<void>,
  ): Promise<QuiesceOutcome> {
    this.#startMs = this.#deps.clock.monotonicMs();
    try {
      this.#runner = await this.#deps.start();
    } catch (error) {
      return notFrozen(messageOf(error));
    }
    const runner = this.#runner;
    const prepared = await runner.prepare();
    if (prepared.is !== 'prepared') return this.#failed(prepared);
    this.#applications = prepared.applications;
    try {
      return await this.#frozen(runner, beforeFreeze, work);
    } catch (error) {
      const end = await this.#end('abort');
      if (error instanceof NotHeld) return this.#failed(end);
      throw error;
    }
  }

  async #frozen(
    runner: Quiescing,
    beforeFreeze: () => Promise<void>,
    work: (deadline: AbortSignal) => Promise<void>,
  ): Promise<QuiesceOutcome> {
    const frozen = await this.#deps.freeze.withFrozen(async () => {
      await beforeFreeze();
      const held = await runner.hold();
      if (held.is !== 'held') throw new NotHeld();
      this.#applications = this.#applications.map(({ name, detail }) => {
        const more = held.applications.find((other) => other.name === name)?.detail ?? '';
        return { name, detail: more === '' ? detail : `${detail}; ${more}` };
      });
    }, work);
    const released = await runner.release();
    if (released.is === 'released') this.#heldMs = released.heldMs;
    const wereHeld = released.is === 'released' && released.inTime;
    void this.#end(frozen.held && wereHeld ? 'post' : 'abort');
    if (!frozen.held || wereHeld) return { ...frozen, level: wereHeld ? 'application' : 'filesystem' };
    const why = released.is === 'released' ? 'applications were let go before the thaw' : reasonOf(released);
    return { ...frozen, reason: why, level: 'filesystem' };
  }

  #end(as: 'post' | 'abort'): Promise<RunnerEnd> {
    this.#ending ??= (this.#runner as Quiescing).end(as).then((end) => {
      this.#totalMs = this.#deps.clock.monotonicMs() - this.#startMs;
      this.#tell(end);
      return end;
    });
    return this.#ending;
  }

  async #failed(end: RunnerEnd): Promise<QuiesceOutcome> {
    await this.#end('abort');
    return notFrozen(reasonOf(end));
  }

  /** Resolves when no application is held back any more. */
  async settled(): Promise<void> {
    await this.#ending;
  }

  /** What the point tells of it; waits until hooks were called for the last time. */
  async record(weaker: string): Promise<QuiesceRecord> {
    await this.settled();
    return boundedRecord({
      asked: 'application',
      weaker,
      totalMs: Math.round(this.#totalMs),
      heldMs: Math.round(this.#heldMs),
      filesystems: [...this.#deps.filesystems],
      applications: this.#applications.map(({ name, detail }) => ({ name, detail })),
      hooks: (this.#runner?.calls ?? []).map(({ hook, phase, failure, tookMs, output }) => ({
        name: hook,
        phase,
        failure,
        tookMs: Math.round(tookMs),
        output: [...output],
      })),
    });
  }

  /** Hooks that failed when they were to let their application go. */
  get stuck(): readonly HookCall[] {
    return (this.#runner?.calls ?? []).filter(({ phase, failure }) => phase !== 'pre' && failure !== null);
  }

  #tell(end: RunnerEnd): void {
    const { log } = this.#deps;
    for (const call of this.#runner?.calls ?? []) {
      const { hook, phase, failure, tookMs, output } = call;
      const facts = { hook, phase, tookMs: Math.round(tookMs), output };
      if (failure === null) log.info(facts, `hook ${hook} ${phase} done`);
      else if (phase === 'pre') log.warn(facts, `hook ${hook} ${phase}: ${failure}`);
      else log.error(facts, `hook ${hook} ${phase}: ${failure}; see whether its application runs`);
    }
    if (end.is === 'lost' && !end.undone)
      log.error('hooks could not be called to let applications go: call them with `abort` by hand');
    else if (end.is === 'ended' && end.killed > 0)
      log.warn({ processes: end.killed }, 'hooks left processes behind that `post` did not end; they were killed');
  }
}

const reasonOf = (end: RunnerEnd): string =>
  end.is === 'lost' ? `the process that quiesces died (${end.exit})` : end.reason === '' ? 'it was ended' : end.reason;

const notFrozen = (reason: string): QuiesceOutcome => ({
  freezeMs: 0,
  held: false,
  reason,
  level: 'filesystem',
  mayFreeze: true,
});
