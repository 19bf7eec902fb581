/**
 * The object `format`: what the bytes of a store mean. Created once, checked at every open, for people as well (plain JSON).
 * A program that doesn't know what a store holds neither reads nor writes it.
 */
import { z } from 'zod';
import { AfterimageError, corrupt } from '../../shared/errors.js';
import { CHUNK_PLAIN_BYTES_MAX, SEGMENT_BYTES } from '../../shared/limits.js';
import { FORMAT_BYTES_MAX } from '../../shared/limits-scrub.js';
import type { ObjectStore } from './store.js';

export const FORMAT_NAME = 'format';
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

function check(bytes: Buffer, url: string): void {
  const value = parse(bytes);
  const version = typeof value === 'object' && value !== null && 'version' in value ? value.version : undefined;
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
  let bytes = await store.get(FORMAT_NAME, FORMAT_BYTES_MAX);
  if (bytes === null && create) {
    await mustBeEmpty(store);
    await store.createIfAbsent(FORMAT_NAME, Buffer.from(`${JSON.stringify(CURRENT, null, 2)}\n`, 'utf8'));
    bytes = await store.get(FORMAT_NAME, FORMAT_BYTES_MAX);
  }
  if (bytes === null) {
    throw new AfterimageError(`${store.url} is not a store of Afterimage`, {
      code: 'store-missing',
      kind: 'usage',
      hint: 'Give the URL that the receiver uses; the receiver makes its store at its first start.',
    });
  }
  check(bytes, store.url);
}
