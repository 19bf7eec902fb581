/**
 * A note on disk while filesystems may be frozen: by which guard, and which. Written before the freeze, removed after the thaw. One that remains tells that
 * agent and guard ended at once, so that neither thawed: the next agent does it, before it writes anything to any file.
 */
import { closeSync, constants, fsyncSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock } from '../../shared/clock.js';
import { messageOf } from '../../shared/errors.js';
import { GUARD_GRACE_MS } from '../../shared/limits.js';
import type { Logger } from '../../shared/log.js';
import { thawNow } from './freeze-ioctl.js';
import { readProcesses } from './hooks/process-tree.js';
import { readMounts } from './mountinfo.js';
import type { MountedFilesystem } from './mounts.js';

const noteSchema = z.strictObject({
  version: z.literal(1),
  /** A freeze doesn't outlive its boot. */
  bootId: z.string(),
  pid: z.int(),
  /** With the pid: that guard and no later process. */
  startTicks: z.number(),
  filesystems: z.array(z.strictObject({ device: z.string(), fsType: z.string() })),
});
type FrozenNote = z.infer<typeof noteSchema>;

const POLL_MS = 50;

export const frozenNotePath = (stateDir: string): string => join(stateDir, 'frozen.json');

const bootId = (): string => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
const startOf = (pid: number): number | undefined => readProcesses().find((entry) => entry.pid === pid)?.startTicks;

export function noteFreeze(path: string, guardPid: number, filesystems: readonly MountedFilesystem[]): void {
  const note: FrozenNote = {
    version: 1,
    bootId: bootId(),
    pid: guardPid,
    startTicks: startOf(guardPid) ?? 0,
    filesystems: filesystems.map(({ device, fsType }) => ({ device, fsType })),
  };
  const fd = openSync(path, 'w', 0o600);
  try {
    writeSync(fd, `${JSON.stringify(note)}\n`);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

export const forgetFreeze = (path: string): void => rmSync(path, { force: true });

/** `guardLimitMs`: a guard that is still there thaws by itself within this; then it is stopped for good, and its work taken over. */
export async function thawLeftovers(path: string, guardLimitMs: number, clock: Clock, log: Logger): Promise<void> {
  const note = readNote(path);
  if (note === null) {
    forgetFreeze(path);
    return;
  }
  const isAtWork = (): boolean => startOf(note.pid) === note.startTicks;
  if (note.bootId === bootId()) {
    const endMs = clock.monotonicMs() + guardLimitMs + GUARD_GRACE_MS;
    while (isAtWork() && clock.monotonicMs() < endMs) await clock.sleep(POLL_MS);
    if (isAtWork()) process.kill(note.pid, 'SIGKILL');
    for (const filesystem of note.filesystems) thaw(filesystem, log);
  }
  forgetFreeze(path);
}

/** Null: nothing was frozen. One that can't be read was not written to its end: the freeze comes after that. */
function readNote(path: string): FrozenNote | null {
  try {
    return noteSchema.parse(JSON.parse(readFileSync(path, 'utf8')));
  } catch {
    return null;
  }
}

/** By any place where it is mounted: the agent's view of mounts is another after its restart. */
function thaw({ device, fsType }: FrozenNote['filesystems'][number], log: Logger): void {
  for (const mount of readMounts()) {
    if (mount.device !== device || mount.fsType !== fsType) continue;
    try {
      const fd = openSync(mount.path, constants.O_RDONLY | constants.O_DIRECTORY);
      const result = thawNow(fd);
      closeSync(fd);
      if (result === 'was-not-frozen') return;
      if (result === 'thawed') {
        log.warn({ path: mount.path }, 'agent and thaw guard had ended while this filesystem was frozen: it is thawed');
        return;
      }
    } catch (error) {
      log.debug({ path: mount.path, reason: messageOf(error) }, 'not to be opened here');
    }
  }
  log.error({ device, fsType }, 'a filesystem may still be frozen: run fsfreeze -u on its mount point');
}
