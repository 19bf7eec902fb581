/**
 * A note on disk while hooks may hold their applications back: who quiesces, and which hooks. Written by the process that quiesces before it calls the
 * first one, removed by it when nothing is left to undo. One that remains tells the agent's next start what to undo.
 */
import { closeSync, fsyncSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { z } from 'zod';
import { readProcesses } from '../hooks/process-tree.js';

const noteSchema = z.strictObject({
  version: z.literal(1),
  pid: z.int(),
  /** With the pid: that process and no later one. */
  startTicks: z.number(),
  /** Of the task: processes of its hooks are known by it. */
  id: z.string(),
  hooks: z.array(z.string()),
});
export type QuiesceNote = z.infer<typeof noteSchema>;

export function writeNote(path: string, id: string, hooks: readonly { readonly name: string }[]): void {
  const startTicks = readProcesses().find(({ pid }) => pid === process.pid)?.startTicks ?? 0;
  const note: QuiesceNote = { version: 1, pid: process.pid, startTicks, id, hooks: hooks.map(({ name }) => name) };
  const fd = openSync(path, 'w', 0o600);
  writeSync(fd, `${JSON.stringify(note)}\n`);
  fsyncSync(fd);
  closeSync(fd);
}

export const removeNote = (path: string): void => rmSync(path, { force: true });

/** Null: nothing is left to undo. `all`: it can't be read, so each hook may have been called. */
export function readNote(path: string): QuiesceNote | 'all' | null {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    return null;
  }
  try {
    return noteSchema.parse(JSON.parse(text));
  } catch {
    return 'all';
  }
}

/** Whether the process that wrote the note still is, and undoes things itself. */
export const isAtWork = ({ pid, startTicks }: QuiesceNote): boolean =>
  readProcesses().some((entry) => entry.pid === pid && entry.startTicks === startTicks);
