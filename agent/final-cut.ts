/**
 * The agent's part of a planned failover: shuts the workload down by the operator's commands, takes cuts until one finds that nothing was written
 * after it, hands that point over. And the way back: lets the workload run again when nothing came of it.
 *
 * A note on disk says that the workload was shut down; it is there before the first command runs and goes when the workload runs again. Phase
 * `stopping`: the receiver has no last point from us, so nobody can have switched by plan: the workload is resumed as soon as anything goes wrong. With the
 * session gone it waits a moment for a receiver's word, as the loss may be noticed late, when the machine was failed over without us: then it stays down; without
 * any word it is resumed (`failover: resumeAfter`). Phase `handed-over` (written before the receiver hears of the point): it may run elsewhere by now. Then
 * only a receiver that lets this machine replicate, and holds no failover under way, has it resumed: after a crash, a lost connection or a refusal it
 * stays down. Two of it would cost what one wrote.
 */
import type { Logger } from 'pino';
import { z } from 'zod';
import type { Clock } from '../shared/clock.js';
import { AfterimageError, corrupt, messageOf } from '../shared/errors.js';
import { failpoint } from '../shared/failpoints.js';
import { FINAL_CUT_QUIET_MS, FINAL_CUT_TRIES_MAX } from '../shared/limits.js';
import { formatDuration } from '../shared/units.js';
import type { AgentMessage } from '../shared/wire/messages.js';
import type { AgentConfig } from './config.js';
import { finalCutGround, type FinalCutGround } from './final-cut-ground.js';
import type { Order } from './session/session.js';
import type { AgentStatus } from './status.js';

const noteSchema = z.strictObject({
  version: z.literal(1),
  phase: z.enum(['stopping', 'handed-over']),
  /** For people. */
  atMs: z.number(),
});
type Note = z.infer<typeof noteSchema>;

/** What a final cut does with the disks. */
export interface CutWork {
  /** Why no final cut can be had now; null when it can. */
  readonly whyNot: () => string | null;
  /** Commits a point; resolves to its number. */
  readonly cycle: () => Promise<number>;
  /** Writes what filesystems hold back. */
  readonly flush: () => Promise<void>;
  /** What was written since the last point; null when nothing. */
  readonly written: () => Promise<string | null>;
}

export interface FinalCutDeps {
  readonly config: AgentConfig;
  readonly clock: Clock;
  readonly log: Logger;
  readonly status: AgentStatus;
}

const NO_HOOK = 'Set `failover: { preShutdown: […], resume: […] }` in agent.yaml, or stop the workload yourself.';

export class FinalCut {
  readonly #deps: FinalCutDeps;
  readonly #ground: FinalCutGround;
  #note: Note | null = null;
  /** Ends the wait for a receiver's word. */
  #waiting: AbortController | null = null;
  /** A receiver said that the machine runs elsewhere, or is to. */
  #isElsewhere = false;
  #resuming: Promise<void> | null = null;

  private constructor(deps: FinalCutDeps, ground: FinalCutGround) {
    this.#deps = deps;
    this.#ground = ground;
  }

  static async open(deps: FinalCutDeps, ground = finalCutGround(deps.config.stateDir)): Promise<FinalCut> {
    const cut = new FinalCut(deps, ground);
    cut.#note = await cut.#load();
    cut.#show();
    return cut;
  }

  /** The workload was shut down and has not been resumed. */
  get isStopped(): boolean {
    return this.#note !== null;
  }

  /** A receiver has said what holds. `isElsewhere`: the machine runs in the recovery site. */
  answered(isElsewhere: boolean): void {
    this.#waiting?.abort();
    this.#waiting = null;
    this.#isElsewhere = isElsewhere;
    this.#show();
  }

  /** There is no session: a workload that was shut down for nothing is let run, unless a receiver says otherwise soon. */
  unanswered(): void {
    if (this.#waiting !== null || this.#isElsewhere || this.#note?.phase !== 'stopping') return;
    this.#waiting = new AbortController();
    void this.#resumeUnlessTold(this.#waiting).catch((error: unknown) => {
      this.#deps.log.error({ err: error }, `the workload could not be resumed: ${messageOf(error)}`);
    });
  }

  /** The agent stops: nothing is waited for any more. */
  close(): void {
    this.#waiting?.abort();
  }

  async #resumeUnlessTold(waiting: AbortController): Promise<void> {
    const { resumeAfter } = this.#deps.config.failover;
    await this.#deps.clock.sleep(resumeAfter, waiting.signal);
    if (waiting.signal.aborted) return;
    this.#waiting = null;
    await this.resume(`no receiver has answered for ${formatDuration(resumeAfter)}`);
  }

  /** Carries an order out. True: the point was handed over, and no more points are to be made. Throws only what ends the session. */
  async run(
    order: Extract<Order, { type: 'final-cut' }>,
    work: CutWork,
    say: (message: AgentMessage) => Promise<void>,
    signal: AbortSignal,
    stopping: AbortSignal,
  ): Promise<boolean> {
    const { request } = order;
    const step = async (name: string, detail: string): Promise<void> => {
      this.#deps.log.info({ step: name, detail }, 'final cut');
      await say({ type: 'final-cut-step', request, step: name, detail: detail.slice(0, 2000) });
    };
    try {
      await this.#resuming;
      const whyNot = work.whyNot();
      if (whyNot !== null) throw notHad(whyNot);
      await this.#stop(order.hookTimeoutMs, step, signal);
      const point = await this.#prove(work, step, signal);
      failpoint('agent.final-cut.proven');
      if (this.#note !== null) await this.#save('handed-over');
      failpoint('agent.final-cut.handed-over');
      await say({ type: 'final-cut-done', request, ok: true, point, reason: '' });
      return true;
    } catch (error) {
      // The agent is being stopped: the note tells its next process.
      if (stopping.aborted) throw error;
      const reason = messageOf(error);
      this.#deps.log.warn({ reason }, 'final cut given up');
      // With the session gone others may know better: unanswered().
      for (const lost of [error, signal.reason as unknown])
        if (lost instanceof AfterimageError && lost.kind === 'disconnected') throw lost;
      if (this.#note?.phase === 'stopping') await this.resume(reason);
      // A session that has ended is noticed where it matters.
      await say({ type: 'final-cut-done', request, ok: false, point: 0, reason: reason.slice(0, 2000) }).catch(
        () => undefined,
      );
      return false;
    }
  }

  /** Lets the workload run again, if it was shut down. One that can't be started is shown, and tried again at the next welcome. Never rejects for that. */
  resume(why: string): Promise<void> {
    this.#resuming ??= this.#resume(why).finally(() => (this.#resuming = null));
    return this.#resuming;
  }

  async #resume(why: string): Promise<void> {
    if (this.#note === null) return;
    const { config, log, status } = this.#deps;
    const { resume, timeout } = config.failover;
    log.info({ reason: why, commands: resume.length }, 'the workload is let run again');
    const result = await this.#ground.runHook(resume, timeout, new AbortController().signal);
    if (!result.ok) {
      log.error({ output: result.output }, `the workload could not be resumed: ${result.reason}`);
      status.finalCut(`the workload was shut down and could not be resumed: ${result.reason}. Start it by hand.`);
      return;
    }
    await this.#ground.note.remove();
    this.#note = null;
    this.#show();
  }

  async #stop(
    hookTimeoutMs: number,
    step: (name: string, detail: string) => Promise<void>,
    signal: AbortSignal,
  ): Promise<void> {
    const { preShutdown, timeout } = this.#deps.config.failover;
    if (this.#note?.phase === 'handed-over') {
      await step('pre-shutdown hook', 'has run already: the workload is down since an earlier final cut');
      return;
    }
    if (preShutdown.length === 0) {
      await step('pre-shutdown hook', 'none is configured: proof that nothing is written must do');
      return;
    }
    await step('pre-shutdown hook', preShutdown.join('; '));
    await this.#save('stopping');
    failpoint('agent.final-cut.noted');
    const result = await this.#ground.runHook(preShutdown, Math.min(timeout, hookTimeoutMs), signal);
    failpoint('agent.final-cut.stopped');
    // Told in any case: the receiver takes the time of each step from the message that ends it.
    await step('pre-shutdown hook', [result.ok ? 'done' : 'failed', ...result.output].join('\n'));
    if (!result.ok) throw notHad(`the pre-shutdown hook: ${result.reason}`);
  }

  async #prove(
    work: CutWork,
    step: (name: string, detail: string) => Promise<void>,
    signal: AbortSignal,
  ): Promise<number> {
    let written = '';
    for (let tries = 1; tries <= FINAL_CUT_TRIES_MAX; tries++) {
      signal.throwIfAborted();
      await work.flush();
      const point = await work.cycle();
      await step('last cut', `point ${point}`);
      await work.flush();
      await this.#deps.clock.sleep(FINAL_CUT_QUIET_MS, signal);
      signal.throwIfAborted();
      await work.flush();
      const found = await work.written();
      if (found === null) {
        await step(
          'proof that nothing is written',
          `nothing was written for ${FINAL_CUT_QUIET_MS / 1000} s after point ${point}`,
        );
        return point;
      }
      written = found;
      await step('proof that nothing is written', `${found} after point ${point}`);
    }
    const hint =
      this.#deps.config.failover.preShutdown.length === 0 ? ` No pre-shutdown hook is configured. ${NO_HOOK}` : '';
    throw notHad(`the disks are still being written: ${written}.${hint}`);
  }

  async #save(phase: Note['phase']): Promise<void> {
    const note: Note = { version: 1, phase, atMs: this.#deps.clock.nowMs() };
    await this.#ground.note.keep(`${JSON.stringify(note)}\n`);
    this.#note = note;
    this.#show();
  }

  async #load(): Promise<Note | null> {
    const { note } = this.#ground;
    const text = await note.load();
    if (text === null) return null;
    try {
      return noteSchema.parse(JSON.parse(text));
    } catch (error) {
      throw corrupt(
        'final-cut-note',
        `${note.path} is damaged: ${messageOf(error)}`,
        'It says that the workload was shut down for a planned failover. See whether it runs elsewhere, then remove the file.',
      );
    }
  }

  #show(): void {
    this.#deps.status.finalCut(
      this.#note === null
        ? null
        : this.#note.phase === 'stopping' && !this.#isElsewhere
          ? 'the workload is shut down for a planned failover'
          : 'the workload was shut down for a planned failover; it is resumed when the receiver lets this machine replicate again',
    );
  }
}

const notHad = (reason: string): AfterimageError =>
  new AfterimageError(reason, { code: 'final-cut-failed', kind: 'refused' });
