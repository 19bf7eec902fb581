/**
 * The header of a local image: whose blocks it holds, over which point, and which of its two maps can be believed. A folder without one holds nothing.
 *
 * Two slots, each a numbered and sealed line; the valid one with the higher number counts, and the other is overwritten in place. So a crash leaves the
 * old or the new header, and a full disk can't keep an image from being opened or closed.
 */
import { open, type FileHandle } from 'node:fs/promises';
import { z } from 'zod';
import { checksum64, digestToText } from '../../../shared/blocks/hash.js';
import { createFileDurably } from '../../../shared/durable-file.js';
import { AfterimageError, errnoOf, usageError } from '../../../shared/errors.js';
import { VOLUME_HEADER_SLOT_BYTES } from '../../../shared/limits.js';

const schema = z.strictObject({
  version: z.literal(1),
  /** Raised with each writing. */
  number: z.number().int().positive(),
  disk: z.string(),
  sizeBytes: z.number().int().positive(),
  blockBytes: z.number().int().positive(),
  /** Names the point that is read where nothing is local. */
  baseKey: z.string(),
  /** Boot of the host in which the live map was last in use. */
  bootId: z.string(),
  /** Closed in good order: both maps say the same. */
  clean: z.boolean(),
  /** Clients may have written since the last clean close: what is local, but not marked as written in the durable map, may differ from the point. */
  writes: z.boolean(),
});

export type ImageHeader = Omit<z.infer<typeof schema>, 'version' | 'number'>;
type Slot = z.infer<typeof schema>;

const FILE_MODE = 0o600;
const SLOTS = 2;

function sealed(slot: Slot): Buffer {
  const text = JSON.stringify(slot);
  const line = Buffer.from(`${text} #${digestToText(checksum64(Buffer.from(text, 'utf8')))}\n`, 'utf8');
  if (line.length > VOLUME_HEADER_SLOT_BYTES)
    throw usageError(`the name of a volume's point is too long: ${slot.baseKey}`);
  return Buffer.concat([line, Buffer.alloc(VOLUME_HEADER_SLOT_BYTES - line.length, '\n')]);
}

/** Undefined: torn, or never written. */
function unsealed(bytes: Buffer): Slot | undefined {
  const match = /^(.*) #([0-9a-f]{16})\n/.exec(bytes.toString('utf8'));
  const text = match?.[1];
  if (text === undefined || digestToText(checksum64(Buffer.from(text, 'utf8'))) !== match?.[2]) return undefined;
  // It was written as it stands: what doesn't fit the schema is of another version.
  return schema.parse(JSON.parse(text));
}

export class HeaderFile {
  readonly #handle: FileHandle;
  #number: number;

  private constructor(handle: FileHandle, number: number) {
    this.#handle = handle;
    this.#number = number;
  }

  /** Undefined: there is none. */
  static async open(path: string): Promise<{ file: HeaderFile; header: ImageHeader } | undefined> {
    let handle: FileHandle;
    try {
      handle = await open(path, 'r+');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw error;
    }
    try {
      const bytes = Buffer.alloc(SLOTS * VOLUME_HEADER_SLOT_BYTES);
      await handle.read(bytes, 0, bytes.length, 0);
      let newest: Slot | undefined;
      for (let i = 0; i < SLOTS; i++) {
        const slot = unsealed(bytes.subarray(i * VOLUME_HEADER_SLOT_BYTES, (i + 1) * VOLUME_HEADER_SLOT_BYTES));
        if (slot !== undefined && slot.number > (newest?.number ?? 0)) newest = slot;
      }
      if (newest === undefined) throw unreadable(path);
      const { version: _version, number, ...header } = newest;
      return { file: new HeaderFile(handle, number), header };
    } catch (error) {
      await handle.close();
      throw error instanceof AfterimageError ? error : unreadable(path, error);
    }
  }

  static async create(path: string, header: ImageHeader): Promise<HeaderFile> {
    const slot = sealed({ version: 1, number: 1, ...header });
    // Both slots, so that no later writing needs room.
    const empty = Buffer.alloc(VOLUME_HEADER_SLOT_BYTES, '\n');
    await createFileDurably(path, Buffer.concat([empty, slot]), { mode: FILE_MODE });
    return new HeaderFile(await open(path, 'r+'), 1);
  }

  /** Durable when it resolves; one at a time. */
  async save(header: ImageHeader): Promise<void> {
    const number = this.#number + 1;
    const slot = sealed({ version: 1, number, ...header });
    await this.#handle.write(slot, 0, slot.length, (number % SLOTS) * VOLUME_HEADER_SLOT_BYTES);
    await this.#handle.datasync();
    this.#number = number;
  }

  close(): Promise<void> {
    return this.#handle.close();
  }
}

const unreadable = (path: string, cause?: unknown): AfterimageError =>
  new AfterimageError(`header ${path} of a local image can not be read`, {
    code: 'volume-header',
    kind: 'corrupt',
    hint: 'The local image can not be used. Remove its folder: it is made again, but writes that only it holds are lost.',
    cause,
  });

export interface ExpectedImage {
  readonly disk: string;
  /** Null: whatever the image was made for. */
  readonly geometry: { readonly sizeBytes: number; readonly blockBytes: number } | null;
  /** Null: whatever it was made over. */
  readonly baseKey: string | null;
}

/** Throws (kind `refused`) when an image was made for something else. */
export function checkHeader(folder: string, header: ImageHeader, expected: ExpectedImage): void {
  const { geometry } = expected;
  const differing: string[] = [];
  const compare = (what: string, has: string | number, wanted: string | number): void => {
    if (has !== wanted) differing.push(`${what} ${has} instead of ${wanted}`);
  };
  compare('disk', header.disk, expected.disk);
  compare('size', header.sizeBytes, geometry?.sizeBytes ?? header.sizeBytes);
  compare('block size', header.blockBytes, geometry?.blockBytes ?? header.blockBytes);
  compare('base', header.baseKey, expected.baseKey ?? header.baseKey);
  if (differing.length === 0) return;
  throw new AfterimageError(`the local image in ${folder} is another one: ${differing.join(', ')}`, {
    code: 'volume-other-base',
    kind: 'refused',
    hint: 'Use a folder of its own for each volume, or remove this one if its writes are no longer needed.',
  });
}
