/**
 * Which disks are protected: `<stateDir>/disks.json`, written whole and durably at each change.
 * Owns that file; the daemon reads it at its start and when told to reload. Who changes it holds its lock (protection-lock.ts).
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { makeFolderDurably, replaceFileDurably } from '../shared/durable-file.js';
import { AfterimageError, corrupt, errnoOf, messageOf } from '../shared/errors.js';
import { isDiskId, type DiskId } from '../shared/units.js';
import { keptIdentitySchema } from './disks/identity.js';

const diskSchema = z.strictObject({
  id: z.custom<DiskId>((v) => typeof v === 'string' && isDiskId(v), 'not a disk id'),
  /** Path at the time; the disk is found by its id. */
  path: z.string(),
  /** Fixed when protection began. */
  blockBytes: z.number().int(),
});
const fileSchema = z.strictObject({
  version: z.literal(1),
  disks: z.array(diskSchema),
  /** UUIDs that we gave to disks without a number of their own; kept for ever, so that a disk that returns is known. */
  kept: z.array(keptIdentitySchema),
});
export type ProtectedEntry = z.infer<typeof diskSchema>;
export type ProtectionList = Omit<z.infer<typeof fileSchema>, 'version'>;

const pathOf = (stateDir: string): string => join(stateDir, 'disks.json');

export async function loadProtection(stateDir: string): Promise<ProtectionList> {
  const path = pathOf(stateDir);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return { disks: [], kept: [] };
    throw new AfterimageError(`${path} can't be read: ${messageOf(error)}`, {
      code: 'state-dir',
      kind: 'io',
      hint: 'Run as root.',
    });
  }
  try {
    const { disks, kept } = fileSchema.parse(JSON.parse(text));
    return { disks, kept };
  } catch (error) {
    throw corrupt(
      'protection-list',
      `${path} is damaged: ${messageOf(error)}`,
      'Remove it and protect the disks again: what was replicated is compared, not sent anew.',
    );
  }
}

export async function saveProtection(stateDir: string, list: ProtectionList): Promise<void> {
  await makeFolderDurably(stateDir, 0o700);
  await replaceFileDurably(pathOf(stateDir), `${JSON.stringify({ version: 1, ...list }, null, 2)}\n`, { mode: 0o600 });
}
