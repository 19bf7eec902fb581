/**
 * A note in the instance's folder of when it was started, for providers whose guest runs elsewhere.
 */
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { makeFolderDurably, replaceFileDurably } from '../../../shared/durable-file.js';
import { errnoOf } from '../../../shared/errors.js';

const noteSchema = z.strictObject({ startedAtMs: z.number() });
const pathOf = (folder: string): string => join(folder, 'started.json');

export async function writeStarted(folder: string, startedAtMs: number): Promise<void> {
  await makeFolderDurably(folder, 0o700);
  await replaceFileDurably(pathOf(folder), `${JSON.stringify({ startedAtMs })}\n`, { mode: 0o600 });
}

/** Null when it was not started, or ended since. */
export async function readStarted(folder: string): Promise<number | null> {
  try {
    return noteSchema.parse(JSON.parse(await readFile(pathOf(folder), 'utf8'))).startedAtMs;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  }
}

export const removeStarted = (folder: string): Promise<void> => rm(pathOf(folder), { force: true });
export const removeFolder = (folder: string): Promise<void> => rm(folder, { recursive: true, force: true });
export async function makeFolder(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
}
