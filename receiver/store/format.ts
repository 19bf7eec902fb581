/**
 * The object `format`: what the bytes of a store mean. Created once, checked at every open, for people as well (plain JSON), and held once more in
 * `copies/format`, which is read where the object is lost or broken. A program that doesn't know what a store holds neither reads nor writes it: an object
 * that names another version is believed, whatever the copy says.
 */
import { z } from 'zod';
import { AfterimageError, corrupt } from '../../shared/errors.js';
import { CHUNK_PLAIN_BYTES_MAX, SEGMENT_BYTES } from '../../shared/limits.js';
import { FORMAT_BYTES_MAX } from '../../shared/limits-scrub.js';
import type { ObjectStore } from './store.js';

export const FORMAT_NAME = 'format';
export const FORMAT_COPY_NAME = 'copies/format';
export const FORMAT_VERSION = 1;

const formatSchema = z.strictObject({
  program: z.literal('afterimage'),
  version: z.literal(FORMAT_VERSION),
  hash: z.literal('xxh64'),
  limits: z.strictObject({
    segmentBytes: z.literal(SEGMENT_BYTES),
    chunkPlainBytesMax: z.number().int().positive().max(CHUNK_PLAIN_BYTES_MAX),
  }),
});

const CURRENT: z.infer<typeof formatSchema> = {
  program: 'afterimage',
  version: FORMAT_VERSION,
  hash: 'xxh64',
  limits: { segmentBytes: SEGMENT_BYTES, chunkPlainBytesMax: CHUNK_PLAIN_BYTES_MAX },
};

function parse(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    throw corrupt('store-format', `object ${FORMAT_NAME} of the store is not JSON`);
  }
}

/** The object of a store that this program makes. */
export const currentFormat = (): Buffer => Buffer.from(`${JSON.stringify(CURRENT, null, 2)}\n`, 'utf8');

/** Throws kind `corrupt` for what can't be an object of this name: its copy may say more. */
export function checkFormat(bytes: Buffer): void {
  const parsed = formatSchema.safeParse(parse(bytes));
  if (!parsed.success) throw corrupt('store-format', `object ${FORMAT_NAME}: ${z.prettifyError(parsed.error)}`);
}

const versionOf = (value: unknown): unknown =>
  typeof value === 'object' && value !== null && 'version' in value ? value.version : undefined;

function check(bytes: Buffer, url: string): void {
  const value = parse(bytes);
  const version = versionOf(value);
  if (typeof version === 'number' && version > FORMAT_VERSION) {
    throw new AfterimageError(`store ${url} has format version ${version}, this program knows ${FORMAT_VERSION}`, {
      code: 'version-newer',
      kind: 'unsupported',
      hint: 'Use the newer program that wrote it.',
    });
  }
  const parsed = formatSchema.safeParse(value);
  if (parsed.success) return;
  throw new AfterimageError(`store ${url} has a format that this program does not know`, {
    code: 'store-format',
    kind: 'unsupported',
    hint: `Look at its object "${FORMAT_NAME}": ${z.prettifyError(parsed.error)}`,
  });
}

/** A place with machines and without a format lost it, or is only partly there: to say anew what its bytes mean would be a guess. */
async function mustBeEmpty(store: ObjectStore): Promise<void> {
  const machines = await store.listFolders('machines/');
  if (machines.length === 0) return;
  throw corrupt(
    'store-format-lost',
    `store ${store.url} holds ${machines.length} machines, but its object "${FORMAT_NAME}" is missing`,
    'Bring the object back from a copy of the store; nothing was changed.',
  );
}

/** Checks the store's format; an empty place becomes a store when `create` is given, else it is refused. */
export async function ensureFormat(store: ObjectStore, create: boolean): Promise<void> {
  let bytes = (await readFormat(store)) ?? (await wholeCopy(store));
  if (bytes === null && create) {
    await mustBeEmpty(store);
    await store.createIfAbsent(FORMAT_NAME, currentFormat());
    await store.createIfAbsent(FORMAT_COPY_NAME, currentFormat());
    bytes = await readFormat(store);
  }
  if (bytes === null) {
    throw new AfterimageError(`${store.url} is not a store of Afterimage`, {
      code: 'store-missing',
      kind: 'usage',
      hint: 'Give the URL that the receiver uses; the receiver makes its store at its first start.',
    });
  }
  if (isBroken(bytes)) bytes = (await wholeCopy(store)) ?? bytes;
  check(bytes, store.url);
}

const readFormat = (store: ObjectStore): Promise<Buffer | null> => store.get(FORMAT_NAME, FORMAT_BYTES_MAX);

/** It does not even say of which version it is, or it says ours and isn't. */
function isBroken(bytes: Buffer): boolean {
  try {
    const version = versionOf(parse(bytes));
    if (version !== FORMAT_VERSION) return typeof version !== 'number';
    checkFormat(bytes);
    return false;
  } catch (error) {
    if (error instanceof AfterimageError && error.kind === 'corrupt') return true;
    throw error;
  }
}

/** Null where there is none that is whole. */
async function wholeCopy(store: ObjectStore): Promise<Buffer | null> {
  const bytes = await store.get(FORMAT_COPY_NAME, FORMAT_BYTES_MAX);
  return bytes === null || isBroken(bytes) || versionOf(parse(bytes)) !== FORMAT_VERSION ? null : bytes;
}
