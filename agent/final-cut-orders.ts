/**
 * A receiver's orders for a planned failover, over one session: the final cut, and the way back. Knows whether points are held up since the last one was
 * handed over. Lives as long as a session; what outlives it is in final-cut.ts.
 */
import type { Clock } from '../shared/clock.js';
import { AfterimageError } from '../shared/errors.js';
import { HOLD_RECHECK_MS } from '../shared/limits.js';
import type { CutWork } from './final-cut.js';
import type { FinalCutting } from './machine-parts.js';
import type { Order, ReceiverSession } from './session/session.js';

type FinalCutOrder = Extract<Order, { type: 'final-cut' }>;

export interface FinalCutOrdersDeps {
  readonly finalCut: FinalCutting;
  readonly clock: Clock;
  readonly say: ReceiverSession['say'];
  readonly stop: AbortSignal;
}

export class FinalCutOrders {
  readonly #deps: FinalCutOrdersDeps;
  /** Asked for and not begun yet. */
  #asked: FinalCutOrder | null = null;
  /** Ends a final cut that is under way. */
  #end = new AbortController();
  /** The workload is to run again; answered when it does. */
  #resumes: number[] = [];
  /** A last point was handed over: no more of them until an order, or another session, says otherwise. */
  #paused = false;
  #pausedAtMs = 0;

  constructor(deps: FinalCutOrdersDeps) {
    this.#deps = deps;
  }

  get isPaused(): boolean {
    return this.#paused;
  }

  /** The order to resume may have missed this session (it was being opened, or another receiver gave it): a new welcome says what holds now. */
  get mustAskAgain(): boolean {
    return this.#paused && this.#deps.clock.monotonicMs() - this.#pausedAtMs >= HOLD_RECHECK_MS;
  }

  /** Amid a planned failover the receiver says what comes next: it may have our last point. */
  async welcomed(holdWorkload: boolean): Promise<void> {
    const { finalCut } = this.#deps;
    if (!finalCut.isStopped) return;
    if (holdWorkload) this.#pause(true);
    else await finalCut.resume('the receiver lets this machine replicate');
  }

  heard(order: Extract<Order, { type: 'final-cut' | 'final-cut-resume' }>): void {
    if (order.type === 'final-cut') {
      this.#asked = order;
      return;
    }
    this.#resumes.push(order.request);
    this.#asked = null;
    this.#end.abort(
      new AfterimageError('the receiver gave the final cut up', { code: 'cancelled', kind: 'cancelled' }),
    );
  }

  /** The session is over. */
  sessionEnded(why: Error): void {
    this.#end.abort(why);
  }

  /** Carries out what was ordered; true when there was something. */
  async next(work: () => CutWork): Promise<boolean> {
    const { finalCut, say, stop } = this.#deps;
    const cut = this.#asked;
    if (cut !== null) {
      this.#asked = null;
      const signal = AbortSignal.any([this.#end.signal, stop]);
      this.#pause(await finalCut.run(cut, work(), say, signal, stop));
      return true;
    }
    if (this.#resumes.length === 0) return false;
    const requests = this.#resumes.splice(0);
    this.#end = new AbortController();
    await finalCut.resume('the receiver gave the planned failover up');
    this.#pause(false);
    for (const request of requests) await say({ type: 'home-resumed', request });
    return true;
  }

  #pause(isPaused: boolean): void {
    this.#paused = isPaused;
    this.#pausedAtMs = this.#deps.clock.monotonicMs();
  }
}
