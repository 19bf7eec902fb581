/**
 * URLs of stores in buckets: `SCHEME://BUCKET/PREFIX?option=value&…`. Pure. A URL is shown in messages and status, so it never holds a secret, and
 * one that does is refused without being repeated.
 */
import { parseDuration } from '../../shared/config/parse-values.js';
import { usageError } from '../../shared/errors.js';
import { checkPrefix } from './object-name.js';

export interface BucketUrl {
  readonly scheme: string;
  readonly bucket: string;
  /** Empty, or ends in a slash. */
  readonly prefix: string;
  readonly options: ReadonlyMap<string, string>;
  /** The URL in its plainest form. */
  readonly text: string;
}

/** New objects can't be deleted, by anybody (`compliance`) or by ordinary credentials (`governance`), for so long. */
export interface LockRule {
  readonly mode: 'compliance' | 'governance';
  readonly forMs: number;
}

/** Longest prefix: with the longest name it must fit into what S3 and Azure take (1,024 bytes). */
const PREFIX_LENGTH_MAX = 120;

export function parseBucketUrl(url: string, options: readonly string[], hint: string): BucketUrl {
  const match = /^([a-z0-9]+):\/\/([^/?#]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/i.exec(url);
  // Not repeated: what stands where a bucket should may be a password.
  if (match === null) throw usageError('the store URL is malformed', hint);
  const [, scheme = '', bucket = '', path = '', query = ''] = match;
  if (bucket.includes('@')) {
    throw usageError(
      'a store URL must not hold credentials',
      'Leave them to the environment, or to a file that the URL names: credentials=/path.',
    );
  }
  if (!/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(bucket)) {
    throw usageError(`${JSON.stringify(bucket)} is not the name of a bucket or container`, hint);
  }
  const prefix = path === '' || path.endsWith('/') ? path : `${path}/`;
  if (prefix.length > PREFIX_LENGTH_MAX) throw usageError('the prefix in the store URL is too long', hint);
  checkPrefix(prefix);
  const found = new Map<string, string>();
  for (const [key, value] of new URLSearchParams(query)) {
    if (!options.includes(key)) {
      // The value is not repeated: it may be a secret that was put into the wrong place.
      throw usageError(`the store URL has the unknown option ${JSON.stringify(key)}`, `Known: ${options.join(', ')}.`);
    }
    if (found.has(key)) throw usageError(`the store URL has the option ${key} twice`, hint);
    if (value === '') throw usageError(`the option ${key} of the store URL is empty`, hint);
    found.set(key, value);
  }
  const shown = [...found].map(([key, value]) => `${key}=${encodeURI(value).replaceAll('&', '%26')}`).join('&');
  const text = `${scheme.toLowerCase()}://${bucket}/${prefix.slice(0, -1)}${shown === '' ? '' : `?${shown}`}`;
  return { scheme: scheme.toLowerCase(), bucket, prefix, options: found, text };
}

/** `https://host[:port][/path]`; plain http is for servers on this host or a trusted network. */
export function endpointOption(url: BucketUrl): string | undefined {
  const text = url.options.get('endpoint');
  if (text === undefined) return undefined;
  const parsed = URL.canParse(text) ? new URL(text) : null;
  if (parsed === null || !['http:', 'https:'].includes(parsed.protocol) || parsed.search !== '' || parsed.hash !== '') {
    throw usageError('the endpoint in the store URL is not an address', 'Give it as endpoint=https://host:port.');
  }
  if (parsed.username !== '' || parsed.password !== '') {
    throw usageError('the endpoint in the store URL must not hold credentials', 'Name a file: credentials=/path.');
  }
  return text.replace(/\/+$/, '');
}

export function pathOption(url: BucketUrl, key: string): string | undefined {
  const path = url.options.get(key);
  if (path !== undefined && !path.startsWith('/')) {
    throw usageError(`the option ${key} of the store URL is not an absolute path`, `Give it as ${key}=/path.`);
  }
  return path;
}

export function flagOption(url: BucketUrl, key: string): boolean | undefined {
  const value = url.options.get(key);
  if (value === undefined) return undefined;
  if (value !== 'true' && value !== 'false') {
    throw usageError(`the option ${key} of the store URL is neither true nor false`);
  }
  return value === 'true';
}

const LOCK_MS_MIN = 24 * 3_600_000;

/** `lock=compliance:30d`. */
export function lockOption(url: BucketUrl): LockRule | undefined {
  const value = url.options.get('lock');
  if (value === undefined) return undefined;
  const [mode = '', time = ''] = value.split(':');
  const forMs = parseDuration(time);
  if ((mode !== 'compliance' && mode !== 'governance') || forMs === null || forMs < LOCK_MS_MIN) {
    throw usageError(
      'the option lock of the store URL is not a lock',
      'Give it as lock=compliance:30d or lock=governance:30d, one day at least.',
    );
  }
  return { mode, forMs };
}
