/**
 * What a guest's supervisor and the receiver tell each other: small files in the instance's folder, whole or absent. They, and /proc, are all that
 * is known of a guest after a restart of the receiver.
 *
 * `launch.json`: receiver → supervisor, what to run. `supervisor.json`: who runs. `ended.json`: how it ended; gone again at the next start.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { replaceFileDurably } from '../../../shared/durable-file.js';
import { AfterimageError, errnoOf } from '../../../shared/errors.js';
import { argumentsOf, isAlive, processId, processIdSchema, type ProcessId } from './process-identity.js';
import { guestFiles } from './qemu-arguments.js';

const VERSION = 1;

const launchSchema = z.strictObject({
  version: z.literal(VERSION),
  instance: z.string(),
  program: z.string(),
  arguments: z.array(z.string()),
});

const supervisorSchema = z.strictObject({
  version: z.literal(VERSION),
  supervisor: processIdSchema,
  /** Null until QEMU was started. */
  guest: processIdSchema.nullable(),
  startedAtMs: z.number().nullable(),
  /** QEMU has opened its disks and answers. */
  ready: z.boolean(),
});

const endedSchema = z.strictObject({
  version: z.literal(VERSION),
  atMs: z.number(),
  startedAtMs: z.number().nullable(),
  exitCode: z.number().nullable(),
  signal: z.string().nullable(),
  /** The guest powered itself off, so its filesystems were closed in order. */
  poweredOff: z.boolean(),
  detail: z.string(),
});

type Body<T> = Omit<T, 'version'>;
export type LaunchFile = Body<z.infer<typeof launchSchema>>;
export type SupervisorFile = Body<z.infer<typeof supervisorSchema>>;
export type EndedFile = Body<z.infer<typeof endedSchema>>;

interface StateFile<T> {
  read(folder: string): Promise<T | null>;
  write(folder: string, body: Body<T>): Promise<void>;
  remove(folder: string): Promise<void>;
}

function stateFile<T>(name: string, schema: z.ZodType<T>): StateFile<T> {
  return {
    read: async (folder) => {
      const path = join(folder, name);
      let text: string;
      try {
        text = await readFile(path, 'utf8');
      } catch (error) {
        if (errnoOf(error) === 'ENOENT') return null;
        throw error;
      }
      try {
        return schema.parse(JSON.parse(text));
      } catch (cause) {
        throw new AfterimageError(`${path} is not what a guest's supervisor writes`, {
          code: 'guest-state-unreadable',
          kind: 'corrupt',
          hint: 'Look for a process qemu-system with this folder in its arguments; when there is none, remove the file.',
          cause,
        });
      }
    },
    write: (folder, body) =>
      replaceFileDurably(join(folder, name), `${JSON.stringify({ version: VERSION, ...body })}\n`, { mode: 0o600 }),
    remove: (folder) => rm(join(folder, name), { force: true }),
  };
}

export const launchFile = stateFile('launch.json', launchSchema);
export const supervisorFile = stateFile('supervisor.json', supervisorSchema);
export const endedFile = stateFile('ended.json', endedSchema);

/** Whether these are the arguments of an instance's QEMU. */
export const isGuestOf = (folder: string, args: readonly string[]): boolean =>
  args.includes('-pidfile') && args.includes(guestFiles(folder).pid);

/** ... or of its supervisor. */
export const isSupervisorOf = (folder: string, args: readonly string[]): boolean =>
  args.includes(folder) && args.some((arg) => arg.endsWith('/guest-supervisor.js'));

/**
 * The running QEMU of an instance: as its supervisor wrote, else by QEMU's own pid file (the supervisor was killed before it could write).
 */
export async function runningGuest(folder: string): Promise<ProcessId | null> {
  const known = (await supervisorFile.read(folder))?.guest ?? null;
  if (known !== null && isAlive(known)) return known;
  const path = guestFiles(folder).pid;
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return '';
    throw error;
  });
  const pid = Number(text);
  if (!Number.isInteger(pid) || pid <= 0 || !isGuestOf(folder, argumentsOf(pid))) return null;
  return processId(pid);
}
