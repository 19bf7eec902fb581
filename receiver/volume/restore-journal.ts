/**
 * What an interrupted restore had finished: which units of which plan, of which point, are durable on which target.
 * A text file: a first line that says what it is about, then a line per batch of units, each line sealed by its own checksum.
 * A line is appended only after the target was made durable. After a crash a torn last line is dropped; its units are done again.
 */
import { mkdir, open, rm, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { checksum64, digestFromText, digestToText } from '../../shared/blocks/hash.js';
import { errnoOf } from '../../shared/errors.js';
import { RESTORE_JOURNAL_BYTES_MAX } from '../../shared/limits.js';
import { syncFolder } from '../../shared/durable-file.js';

const subjectSchema = z.strictObject({
  version: z.literal(1),
  machine: z.string(),
  disk: z.string(),
  point: z.number().int(),
  /** The disk's digest at the point: a point of the same number on another chain is another point. */
  digest: z.string(),
  target: z.string(),
  plan: z.string(),
});
export type RestoreSubject = z.infer<typeof subjectSchema>;

const unitsSchema = z.strictObject({
  units: z.array(z.tuple([z.number().int().nonnegative(), z.string().regex(/^[0-9a-f]{16}$/)])),
});

export interface FoundJournal {
  readonly subject: RestoreSubject;
  /** Digest of each unit that is done. */
  readonly done: ReadonlyMap<number, bigint>;
  /** Length of what is whole; the rest is a torn line. */
  readonly validBytes: number;
}

const seal = (value: unknown): string => {
  const text = JSON.stringify(value);
  return `${text} #${digestToText(checksum64(Buffer.from(text, 'utf8')))}\n`;
};

function unseal(line: string): unknown {
  const match = /^(.*) #([0-9a-f]{16})$/.exec(line);
  const text = match?.[1];
  if (text === undefined || digestToText(checksum64(Buffer.from(text, 'utf8'))) !== match?.[2]) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

async function readText(path: string): Promise<string | undefined> {
  const handle = await open(path, 'r').catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  });
  if (handle === undefined) return undefined;
  try {
    return (await handle.stat()).size > RESTORE_JOURNAL_BYTES_MAX ? undefined : await handle.readFile('utf8');
  } finally {
    await handle.close();
  }
}

/** The journal at a path; undefined when there is none or it isn't one. */
export async function findJournal(path: string): Promise<FoundJournal | undefined> {
  const lines = ((await readText(path)) ?? '').split('\n');
  const subject = subjectSchema.safeParse(unseal(lines[0] ?? ''));
  if (!subject.success) return undefined;
  const done = new Map<number, bigint>();
  let validBytes = (lines[0] ?? '').length + 1;
  // What follows the last newline is torn, or empty.
  for (const line of lines.slice(1, -1)) {
    const batch = unitsSchema.safeParse(unseal(line));
    if (!batch.success) break;
    for (const [unit, digest] of batch.data.units) done.set(unit, digestFromText(digest));
    validBytes += line.length + 1;
  }
  return { subject: subject.data, done, validBytes };
}

export const removeJournal = async (path: string): Promise<void> => {
  await rm(path, { force: true });
  await syncFolder(dirname(path)).catch((error: unknown) => {
    // No folder: no journal either.
    if (errnoOf(error) !== 'ENOENT') throw error;
  });
};

export class RestoreJournal {
  readonly #handle: FileHandle;

  private constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  /** Begins a journal, durably. The target must be prepared already: from now on a next run would continue on it. */
  static async begin(path: string, subject: RestoreSubject): Promise<RestoreJournal> {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    const handle = await open(path, 'wx', 0o600);
    const journal = new RestoreJournal(handle);
    await journal.#append(seal(subject));
    await syncFolder(dirname(path));
    return journal;
  }

  static async continue(path: string, found: FoundJournal): Promise<RestoreJournal> {
    const handle = await open(path, 'a', 0o600);
    await handle.truncate(found.validBytes);
    return new RestoreJournal(handle);
  }

  /** Records units whose bytes are durable on the target. */
  async record(units: readonly (readonly [number, bigint])[]): Promise<void> {
    if (units.length === 0) return;
    await this.#append(seal({ units: units.map(([unit, digest]) => [unit, digestToText(digest)]) }));
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  async #append(line: string): Promise<void> {
    await this.#handle.appendFile(line, 'utf8');
    await this.#handle.datasync();
  }
}
