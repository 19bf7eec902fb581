/**
 * Requests to a store's server: each has a time limit, is tried again while that may help, and waits its turn when the server asks for fewer.
 * Owns the pace; holds nothing that a crash could lose. What an error means is the adapter's to say (`classify`).
 */
import type { Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import {
  STORE_BACKOFF_MAX_MS,
  STORE_BACKOFF_MIN_MS,
  STORE_BYTES_PER_SECOND_MIN,
  STORE_PACE_MAX_MS,
  STORE_PACE_MIN_MS,
  STORE_REQUEST_TIMEOUT_MS,
  STORE_RETRY_MS,
  STORE_THROTTLED_RETRY_MS,
} from '../../shared/limits-store.js';
import type { RequestKind, RequestWatch } from './watch.js';

/** `busy`: the server asks for fewer requests. `again`: the next try may succeed. `final`: it will not. */
export interface Verdict {
  readonly outcome: 'busy' | 'again' | 'final';
  readonly error: AfterimageError;
}

export interface RequestTiming {
  readonly timeoutMs: number;
  readonly retryMs: number;
  readonly busyRetryMs: number;
}
export const REQUEST_TIMING: RequestTiming = {
  timeoutMs: STORE_REQUEST_TIMEOUT_MS,
  retryMs: STORE_RETRY_MS,
  busyRetryMs: STORE_THROTTLED_RETRY_MS,
};

export interface Request {
  readonly kind: RequestKind;
  /** For messages: "reading machines/…". */
  readonly what: string;
  /** Bytes that go over the line, for the time limit. */
  readonly bytes?: number;
  /** Instead of the usual time for tries. */
  readonly retryMs?: number;
}

export interface RequestsOptions {
  readonly clock: Clock;
  /** 0 ≤ x < 1: spreads the tries of many clients. */
  readonly random: () => number;
  readonly classify: (what: string, error: unknown) => Verdict;
  readonly timing?: RequestTiming;
  readonly watch?: RequestWatch | undefined;
}

export const noAnswer = (what: string, afterMs: number): AfterimageError =>
  new AfterimageError(`${what}: no answer within ${Math.round(afterMs / 1000)} s`, {
    code: 'store-unavailable',
    kind: 'io',
    hint: 'See that the store’s server runs and can be reached from here.',
  });

/** Pause before try `n` (2 upwards): somewhere between nothing and a bound that doubles. */
export const backoffMs = (n: number, random: () => number): number =>
  random() * Math.min(STORE_BACKOFF_MAX_MS, STORE_BACKOFF_MIN_MS * 2 ** (n - 1));

export class Requests {
  readonly #options: RequestsOptions;
  readonly #timing: RequestTiming;
  /** Time between the starts of two requests; 0 unless the server throttles. */
  #gapMs = 0;
  #nextStartMs = 0;

  constructor(options: RequestsOptions) {
    this.#options = options;
    this.#timing = options.timing ?? REQUEST_TIMING;
  }

  /** `attempt` must end soon after its signal is aborted; an answer that says "no" (absent, taken) is a result, not an error. */
  async run<T>(request: Request, attempt: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const { clock, random } = this.#options;
    const startMs = clock.monotonicMs();
    const retryMs = request.retryMs ?? this.#timing.retryMs;
    for (let n = 1; ; n++) {
      await this.#turn();
      const tried = await this.#try(request, attempt);
      if ('result' in tried) return tried.result;
      const { outcome, error } = tried.verdict;
      if (outcome === 'final') throw error;
      const pauseMs = backoffMs(n + 1, random);
      const limitMs = outcome === 'busy' ? Math.max(retryMs, this.#timing.busyRetryMs) : retryMs;
      // One that took long to fail gets a second try all the same.
      if (n > 1 && clock.monotonicMs() - startMs + pauseMs > limitMs) throw error;
      await clock.sleep(pauseMs);
    }
  }

  /** Now, or when it is this request's turn after those that came before it. */
  async #turn(): Promise<void> {
    if (this.#gapMs === 0) return;
    const nowMs = this.#options.clock.monotonicMs();
    const startMs = Math.max(nowMs, this.#nextStartMs);
    this.#nextStartMs = startMs + this.#gapMs;
    if (startMs > nowMs) await this.#options.clock.sleep(startMs - nowMs);
  }

  async #try<T>(
    request: Request,
    attempt: (signal: AbortSignal) => Promise<T>,
  ): Promise<{ readonly result: T } | { readonly verdict: Verdict }> {
    const { clock, classify, watch } = this.#options;
    const startMs = clock.monotonicMs();
    const timeoutMs = this.#timing.timeoutMs + ((request.bytes ?? 0) / STORE_BYTES_PER_SECOND_MIN) * 1000;
    const ended = new AbortController();
    const given = new AbortController();
    void clock.sleep(timeoutMs, ended.signal).then(() => {
      if (!ended.signal.aborted) given.abort();
    });
    const report = (outcome: 'ok' | 'busy' | 'failed'): void =>
      watch?.request({ kind: request.kind, outcome, ms: clock.monotonicMs() - startMs });
    try {
      const result = await attempt(given.signal);
      report('ok');
      this.#ease();
      return { result };
    } catch (thrown) {
      const verdict: Verdict = given.signal.aborted
        ? { outcome: 'again', error: noAnswer(request.what, timeoutMs) }
        : classify(request.what, thrown);
      report(verdict.outcome === 'busy' ? 'busy' : 'failed');
      if (verdict.outcome === 'busy') this.#slowDown();
      return { verdict };
    } finally {
      ended.abort();
    }
  }

  #slowDown(): void {
    this.#gapMs = Math.min(STORE_PACE_MAX_MS, Math.max(STORE_PACE_MIN_MS, this.#gapMs * 2));
  }

  /** A twentieth less for each request that was taken; at full speed again below the smallest gap. */
  #ease(): void {
    this.#gapMs *= 0.95;
    if (this.#gapMs < STORE_PACE_MIN_MS / 2) this.#gapMs = 0;
  }
}
