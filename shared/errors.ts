/**
 * The error type of the whole system: what happened, to what, what to do next.
 * Errors are returned (thrown) where they arise and logged once, where they are handled.
 */

/** `usage`: bad input, exit code 2 and nothing was changed. `refused`: a safety rule said no. Others: exit code 1. */
export type ErrorKind =
  | 'usage'
  | 'refused'
  | 'not-found'
  | 'corrupt'
  | 'io'
  | 'unsupported'
  | 'fenced'
  | 'disconnected'
  | 'cancelled'
  | 'internal';

export interface ErrorDetails {
  /** Stable identifier for programs, e.g. `layer-truncated`. */
  readonly code: string;
  readonly kind: ErrorKind;
  /** What to do next, for a person. */
  readonly hint?: string;
  readonly cause?: unknown;
}

export class AfterimageError extends Error {
  readonly code: string;
  readonly kind: ErrorKind;
  readonly hint: string | undefined;

  constructor(message: string, details: ErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'AfterimageError';
    this.code = details.code;
    this.kind = details.kind;
    this.hint = details.hint;
  }

  get exitCode(): number {
    return this.kind === 'usage' ? 2 : 1;
  }
}

export const usageError = (message: string, hint?: string): AfterimageError =>
  new AfterimageError(message, { code: 'usage', kind: 'usage', ...(hint === undefined ? {} : { hint }) });

export const corrupt = (code: string, message: string, hint?: string): AfterimageError =>
  new AfterimageError(message, { code, kind: 'corrupt', ...(hint === undefined ? {} : { hint }) });

/** What to do about something damaged that points need. */
export const DAMAGE_HINT =
  'Take another point: `afterimage verify MACHINE` tries them. `afterimage scrub MACHINE --now` marks what is damaged; the receiver then mends what can be mended.';

/** Whole, and written by a newer program: nobody may take it for damage, and mend it. `what`: `layer x`. */
export const versionNewer = (what: string, version: number, known: number): AfterimageError =>
  new AfterimageError(`${what} has version ${version}, this program knows ${known}`, {
    code: 'version-newer',
    kind: 'unsupported',
    hint: 'Use the newer program that wrote it.',
  });

/** Text of anything thrown, with errno names kept. */
export function messageOf(error: unknown): string {
  if (error instanceof Error) return error.message;
  return String(error);
}

/** errno name (`ENOENT`) of a Node system error, if it is one. */
export function errnoOf(error: unknown): string | undefined {
  if (typeof error === 'object' && error !== null && 'code' in error) {
    const code = error.code;
    return typeof code === 'string' ? code : undefined;
  }
  return undefined;
}
