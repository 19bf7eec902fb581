/**
 * What this host remembers of a copy, in the copy's own folder: enough to end its guest and to serve its volumes without asking the store who it was.
 * `copy.json` is there before anything else of the copy, and goes last.
 */
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { makeFolderDurably, replaceFileDurably, syncFolder } from '../../shared/durable-file.js';
import { AfterimageError, errnoOf, messageOf } from '../../shared/errors.js';
import { SOCKET_PATH_BYTES_MAX } from '../../shared/limits.js';
import { asMachineId, isUuid } from '../../shared/units.js';
import { descriptionSchema } from '../catalog/manifest.js';
import { instanceSchema } from '../catalog/recovery.js';
import type { LaunchSpec } from './compute/provider.js';

const copyFileSchema = z.strictObject({
  version: z.literal(1),
  machine: z.strictObject({ id: z.string().refine(isUuid), name: z.string() }),
  description: descriptionSchema.nullable(),
  instance: instanceSchema,
  /** `lost`: somebody else has the machine; kept for what was not replicated. `discarded`: to be removed. */
  fate: z.enum(['kept', 'lost', 'discarded']),
});
export type CopyFile = Omit<z.infer<typeof copyFileSchema>, 'version'>;

/** The records of the copies on this host, by the ids of the copies. */
export interface CopyRecords {
  save(file: CopyFile): Promise<void>;
  /** Saves it unless what stands there says the same. */
  keep(file: CopyFile): Promise<void>;
  /** Null when there is no such copy on this host. */
  load(instance: string): Promise<CopyFile | null>;
  list(): Promise<string[]>;
  /** With all else that this host has of the copy. */
  remove(instance: string): Promise<void>;
}

export const recordsIn = (root: string): CopyRecords => ({
  save: (file) => saveCopy(root, file),
  keep: (file) => keepCopy(root, file),
  load: (instance) => loadCopy(root, instance),
  list: () => listCopies(root),
  remove: (instance) => removeCopy(root, instance),
});

const FOLDER_MODE = 0o700;
const FILE_MODE = 0o600;
const NAME = 'copy.json';

export const copyFolder = (root: string, instance: string): string => join(root, instance);
export const socketPathOf = (root: string, instance: string): string => join(copyFolder(root, instance), 'nbd.sock');
export const volumeFolder = (root: string, instance: string, disk: string): string =>
  join(copyFolder(root, instance), 'volumes', disk);
/** The provider's own. */
export const guestFolder = (root: string, instance: string): string => join(copyFolder(root, instance), 'guest');

async function saveCopy(root: string, file: CopyFile): Promise<void> {
  const folder = copyFolder(root, file.instance.id);
  const socket = socketPathOf(root, file.instance.id);
  if (Buffer.byteLength(socket) >= SOCKET_PATH_BYTES_MAX) {
    throw new AfterimageError(`${socket} is too long for a socket (at most ${SOCKET_PATH_BYTES_MAX - 1} bytes)`, {
      code: 'socket-path',
      kind: 'usage',
      hint: 'Set failover.folder to a shorter path.',
    });
  }
  await makeFolderDurably(folder, FOLDER_MODE);
  await mkdir(guestFolder(root, file.instance.id), { recursive: true, mode: FOLDER_MODE });
  await replaceFileDurably(join(folder, NAME), JSON.stringify({ version: 1, ...file }, null, 2), { mode: FILE_MODE });
}

/** Saves it unless what stands there says the same: a host that is full must not lose a copy whose record it has. */
async function keepCopy(root: string, file: CopyFile): Promise<void> {
  const before = await loadCopy(root, file.instance.id);
  if (before === null || !isDeepStrictEqual(lasting(before), lasting(file))) await saveCopy(root, file);
}

/** Without what becomes known of it while it runs. */
const lasting = (file: CopyFile): unknown =>
  JSON.parse(JSON.stringify({ ...file, instance: { ...file.instance, bootCheck: null, rtoMs: null } }));

/** Null when there is no such copy on this host. */
async function loadCopy(root: string, instance: string): Promise<CopyFile | null> {
  const path = join(copyFolder(root, instance), NAME);
  try {
    const { version: _, ...file } = copyFileSchema.parse(JSON.parse(await readFile(path, 'utf8')));
    return file;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return null;
    throw new AfterimageError(`${path} can not be read: ${messageOf(error)}`, {
      code: 'copy-file',
      kind: 'io',
      hint: 'Its guest may still run; look for it, end it, and remove the folder.',
      cause: error,
    });
  }
}

/** Ids of all copies on this host; empty when there never was one. */
async function listCopies(root: string): Promise<string[]> {
  const entries = await readdir(root).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  });
  return entries.filter(isUuid).sort();
}

/** Removes all that this host has of a copy, its record last. */
async function removeCopy(root: string, instance: string): Promise<void> {
  const folder = copyFolder(root, instance);
  const entries = await readdir(folder).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  });
  for (const entry of entries) if (entry !== NAME) await rm(join(folder, entry), { recursive: true, force: true });
  await rm(folder, { recursive: true, force: true });
  if (entries.length > 0) await syncFolder(root);
}

export function specOf(root: string, file: CopyFile, nbdUri: (socketPath: string, name: string) => string): LaunchSpec {
  const { instance } = file;
  const socketPath = socketPathOf(root, instance.id);
  return {
    instance: instance.id,
    machine: { id: asMachineId(file.machine.id), name: file.machine.name },
    test: instance.kind === 'test',
    point: instance.point,
    description: file.description,
    settings: instance.settings,
    disks: instance.disks.map((d) => ({
      disk: d.disk,
      sizeBytes: d.sizeBytes,
      uri: nbdUri(socketPath, d.disk),
      socketPath,
      exportName: d.disk,
    })),
    folder: guestFolder(root, instance.id),
  };
}
