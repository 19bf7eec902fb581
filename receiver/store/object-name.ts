/**
 * Which names an object may have, for all backends alike. A name that passes can't leave the store's root, can't hit a
 * backend's own files (a part never starts with a dot) and needs no escaping in a path, a URL or a shell.
 */
import { AfterimageError } from '../../shared/errors.js';

const PART = /^[A-Za-z0-9_-][A-Za-z0-9._-]*$/;
/** S3 and Azure end at 1,024 bytes; a part is a file name. */
const NAME_LENGTH_MAX = 900;
const PART_LENGTH_MAX = 200;

export const isNamePart = (part: string): boolean => part.length <= PART_LENGTH_MAX && PART.test(part);

const badName = (name: string): AfterimageError =>
  new AfterimageError(`object name ${JSON.stringify(name)} is not allowed`, {
    code: 'object-name',
    kind: 'usage',
    hint: 'Names are parts of A-Z a-z 0-9 . _ - that do not start with a dot, joined by slashes.',
  });

/** Throws unless `name` is the name of an object. */
export function checkName(name: string): void {
  if (!isObjectName(name)) throw badName(name);
}

/** Throws unless `prefix` is empty (the root) or a folder: a name that ends in a slash. */
export function checkPrefix(prefix: string): void {
  if (prefix === '') return;
  if (!prefix.endsWith('/')) throw badName(prefix);
  checkName(prefix.slice(0, -1));
}

/** Where a listing of `prefix` begins: null when no name in it can be greater than `after`; '' for its beginning. */
export function startAfter(prefix: string, after: string | undefined): string | null {
  if (after === undefined) return '';
  checkName(after);
  if (after.startsWith(prefix)) return after;
  return after < prefix ? '' : null;
}

/** Whether a name found in a store can be one of ours; others are left alone. */
export const isObjectName = (name: string): boolean =>
  name.length <= NAME_LENGTH_MAX && name.split('/').every(isNamePart);
