/**
 * How an operator names a recovery point: by number, by time, or as the latest of a kind (the terms are Site Recovery's). Pure.
 */
import { usageError } from '../../shared/errors.js';
import type { Consistency } from './manifest.js';

export type PointSelector =
  | { readonly by: 'number'; readonly number: number }
  /** The newest point whose cut is not after this time. */
  | { readonly by: 'time'; readonly atMs: number }
  /** The newest point with one of these levels. */
  | { readonly by: 'latest'; readonly levels: readonly Consistency[] }
  /** The newest point that is listed, whole or not: for who looks at all of them. */
  | { readonly by: 'newest' };

const ALL: readonly Consistency[] = ['crash', 'filesystem', 'application'];
const LATEST: Readonly<Record<string, readonly Consistency[]>> = {
  latest: ALL,
  // What has been committed is all that can be restored; nothing waits to be processed.
  'latest-processed': ALL,
  'latest-crash-consistent': ['crash'],
  'latest-filesystem-consistent': ['filesystem', 'application'],
  'latest-app-consistent': ['application'],
  'latest-app': ['application'],
};

const HINT =
  'Give a number, "latest", "latest-filesystem-consistent", "latest-app-consistent", or a time as 2026-03-01T14:30 (local) or 2026-03-01T14:30:00Z.';
const TIME = /^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,3})?)?(Z|[+-]\d{2}:?\d{2})?)?$/;

export function parsePointSelector(text: string): PointSelector {
  if (/^\d{1,15}$/.test(text)) {
    const number = Number(text);
    if (number < 1) throw usageError('points are numbered from 1', HINT);
    return { by: 'number', number };
  }
  const levels = Object.hasOwn(LATEST, text) ? LATEST[text] : undefined;
  if (levels !== undefined) return { by: 'latest', levels };
  if (!TIME.test(text)) throw usageError(`"${text}" does not name a point`, HINT);
  // A date alone means that day's first instant here, not in Greenwich.
  const atMs = Date.parse(text.length === 10 ? `${text}T00:00` : text.replace(' ', 'T'));
  if (Number.isNaN(atMs)) throw usageError(`"${text}" is not a time`, HINT);
  return { by: 'time', atMs };
}

export function describeSelector(selector: PointSelector): string {
  if (selector.by === 'number') return String(selector.number);
  if (selector.by === 'time') return `at or before ${new Date(selector.atMs).toISOString()}`;
  if (selector.by === 'newest') return 'at all';
  return `of consistency ${selector.levels.join(' or ')}`;
}
