/**
 * Notes of disks in `<stateDir>/reboot/`, a file each, whole and durable or absent. A note counts once: it is removed, durably, before anything is
 * done about it, so that no crash and no second boot can find it again.
 */
import { readdir, readFile, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { makeFolderDurably, replaceFileDurably, syncFolder } from '../../shared/durable-file.js';
import { errnoOf } from '../../shared/errors.js';
import { NOTE_BYTES_MAX } from '../../shared/limits-service.js';
import type { DiskId } from '../../shared/units.js';
import { decodeNote, encodeNote, type Note } from './note.js';

const SUFFIX = '.note';

export const notesFolder = (stateDir: string): string => join(stateDir, 'reboot');
export const notePath = (stateDir: string, disk: DiskId): string => join(notesFolder(stateDir), `${disk}${SUFFIX}`);

export async function writeNote(stateDir: string, note: Note): Promise<void> {
  await makeFolderDurably(notesFolder(stateDir), 0o700);
  await replaceFileDurably(notePath(stateDir, note.disk), encodeNote(note), { mode: 0o600 });
}

/** All that are whole; when this returns, none is left. Throws, and nothing may be believed, when that isn't certain. */
export async function takeNotes(stateDir: string): Promise<Note[]> {
  const folder = notesFolder(stateDir);
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  }
  const notes: Note[] = [];
  for (const name of names) {
    const path = join(folder, name);
    if (name.endsWith(SUFFIX) && (await stat(path)).size <= NOTE_BYTES_MAX) {
      const note = decodeNote(await readFile(path, 'utf8'));
      if (note !== null) notes.push(note);
    }
    await unlink(path);
  }
  if (names.length > 0) await syncFolder(folder);
  return notes;
}
