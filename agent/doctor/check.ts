/**
 * What a check of `doctor` says. `fail`: the agent can't do its work; `warn`: it can, but not as it should. Either says what to do.
 */
export type Verdict = 'ok' | 'warn' | 'fail';

export interface Check {
  /** What was looked at, a word or two; stable, for programs. */
  readonly name: string;
  readonly verdict: Verdict;
  readonly message: string;
  /** What to do; null when all is well. */
  readonly todo: string | null;
}

export const ok = (name: string, message: string): Check => ({ name, verdict: 'ok', message, todo: null });
export const warn = (name: string, message: string, todo: string): Check => ({ name, verdict: 'warn', message, todo });
export const fail = (name: string, message: string, todo: string): Check => ({ name, verdict: 'fail', message, todo });

/** Nothing fails. */
export const isFine = (checks: readonly Check[]): boolean => checks.every(({ verdict }) => verdict !== 'fail');
