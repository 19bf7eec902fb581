/**
 * When a request to a store is tried again, for how long, and how the pace follows a server that asks for fewer: with a clock of the test's own.
 */
import { describe, expect, it } from 'vitest';
import { AfterimageError } from '../../shared/errors.js';
import { STORE_PACE_MAX_MS } from '../../shared/limits-store.js';
import type { Clock } from '../../shared/clock.js';
import { REQUEST_TIMING, Requests, type Verdict } from '../../receiver/store/requests.js';
import { networkCode, judge } from '../../receiver/store/server-errors.js';
import { RequestCounts } from '../../receiver/store/watch.js';

/** Time passes only when somebody sleeps; sleepers wake in order. */
class TestClock implements Clock {
  now = 0;
  readonly #sleepers: { readonly at: number; readonly wake: () => void }[] = [];

  nowMs = (): number => this.now;
  monotonicMs = (): number => this.now;

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const sleeper = { at: this.now + ms, wake: resolve };
      this.#sleepers.push(sleeper);
      signal?.addEventListener('abort', () => {
        this.#sleepers.splice(this.#sleepers.indexOf(sleeper), 1);
        resolve();
      });
    });
  }

  /** Lets time pass until the work has ended. */
  async until<T>(work: Promise<T>): Promise<T> {
    let ended = false;
    const done = work.finally(() => {
      ended = true;
    });
    done.catch(() => undefined);
    while (!ended) {
      for (let i = 0; i < 20; i++) await Promise.resolve();
      const next = this.#sleepers.sort((a, b) => a.at - b.at).shift();
      if (ended || next === undefined) break;
      this.now = Math.max(this.now, next.at);
      next.wake();
    }
    return done;
  }
}

const verdict = (outcome: Verdict['outcome']): Verdict => ({
  outcome,
  error: new AfterimageError(outcome, { code: outcome, kind: 'io' }),
});
const world = (): { clock: TestClock; requests: Requests; counts: RequestCounts } => {
  const clock = new TestClock();
  const counts = new RequestCounts();
  const classify = (_: string, error: unknown): Verdict => verdict((error as Error).message as Verdict['outcome']);
  return { clock, counts, requests: new Requests({ clock, random: () => 0.5, classify, watch: counts }) };
};
const fails = (outcome: Verdict['outcome']) => (): Promise<never> => Promise.reject(new Error(outcome));

describe('requests to a store', () => {
  it('are tried again until it helps, or for so long', async () => {
    const { clock, requests, counts } = world();
    let tries = 0;
    const third = (): Promise<number> => (++tries < 3 ? Promise.reject(new Error('again')) : Promise.resolve(tries));
    expect(await clock.until(requests.run({ kind: 'get', what: 'x' }, third))).toBe(3);
    expect(counts).toMatchObject({ total: 3, failed: 2 });
    const startMs = clock.now;
    await expect(clock.until(requests.run({ kind: 'get', what: 'x' }, fails('again')))).rejects.toThrow('again');
    expect(clock.now - startMs).toBeLessThanOrEqual(REQUEST_TIMING.retryMs);
    expect(clock.now - startMs).toBeGreaterThan(REQUEST_TIMING.retryMs / 2);
    expect(counts.total).toBeLessThan(100);
  });

  it('that can not succeed are tried once', async () => {
    const { clock, requests, counts } = world();
    await expect(clock.until(requests.run({ kind: 'get', what: 'x' }, fails('final')))).rejects.toThrow('final');
    expect(counts.total).toBe(1);
    expect(clock.now).toBe(0);
  });

  it('without an answer are given up, told to stop, and tried again', async () => {
    const { clock, requests } = world();
    let stopped = 0;
    const hang = (signal: AbortSignal): Promise<never> =>
      new Promise((_, reject) => {
        signal.addEventListener('abort', () => {
          stopped++;
          reject(new Error('final'));
        });
      });
    await expect(clock.until(requests.run({ kind: 'get', what: 'x' }, hang))).rejects.toMatchObject({
      code: 'store-unavailable',
    });
    expect(stopped).toBeGreaterThan(1);
    expect(clock.now).toBeLessThanOrEqual(REQUEST_TIMING.retryMs + REQUEST_TIMING.timeoutMs);
  });

  it('wait for a busy server longer than for one that fails', async () => {
    const { clock, requests } = world();
    await expect(clock.until(requests.run({ kind: 'get', what: 'x' }, fails('busy')))).rejects.toThrow('busy');
    expect(clock.now).toBeGreaterThan(REQUEST_TIMING.retryMs);
    expect(clock.now).toBeLessThanOrEqual(REQUEST_TIMING.busyRetryMs + STORE_PACE_MAX_MS);
  });

  it('keep a distance after a busy answer, and none again later', async () => {
    const { clock, requests } = world();
    let busy = 4;
    const answer = (): Promise<number> => (busy-- > 0 ? Promise.reject(new Error('busy')) : Promise.resolve(clock.now));
    const starts: number[] = [];
    for (let i = 0; i < 100; i++) starts.push(await clock.until(requests.run({ kind: 'get', what: 'x' }, answer)));
    const gaps = starts.slice(1).map((at, i) => at - (starts[i] ?? 0));
    expect(gaps[0]).toBeGreaterThan(50);
    expect(gaps[20]).toBeLessThan(gaps[0] ?? 0);
    expect(gaps[98]).toBe(0);
  });
});

describe('errors of a server', () => {
  const at = (code: string, status?: number): string => judge('x', { code, status, message: 'm' }).outcome;

  it('are told apart by what helps', () => {
    for (const [code, status] of [
      ['SlowDown', 503],
      ['x', 503],
      ['x', 429],
      ['ServerBusy', 503],
    ] as const) {
      expect(at(code, status)).toBe('busy');
    }
    for (const status of [500, 502, 504, 408, undefined]) expect(at('x', status)).toBe('again');
    expect(at('ConditionalRequestConflict', 409)).toBe('again');
    expect(at('ECONNREFUSED')).toBe('again');
    for (const status of [400, 401, 403, 404, 405, 501]) expect(at('x', status)).toBe('final');
    expect(at('SELF_SIGNED_CERT_IN_CHAIN')).toBe('final');
    expect(judge('x', { code: 'CERT_HAS_EXPIRED', status: undefined, message: '' }).error.hint).toContain('ca=');
    expect(judge('x', { code: 'NoSuchBucket', status: 404, message: '' }).error.exitCode).toBe(2);
    expect(judge('x', { code: 'AccessDenied', status: 403, message: '' }).error.code).toBe('store-denied');
  });

  it('are found inside of what wraps them', () => {
    const inner = Object.assign(new Error('x'), { code: 'ECONNRESET' });
    expect(networkCode(new Error('outer', { cause: inner }))).toBe('ECONNRESET');
    expect(networkCode(new Error('none'))).toBeUndefined();
  });
});
