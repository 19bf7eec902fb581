/**
 * The folder in which `afterimage serve` keeps what is local: one folder per disk, and `serve.json`, which says what for. Thrown away at the end unless
 * it is to be kept. After a crash of the host or the process a folder to be kept is whole; one to be thrown away is removed by the next start.
 */
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { makeFolderDurably, replaceFileDurably } from '../../shared/durable-file.js';
import { AfterimageError, errnoOf, messageOf, usageError } from '../../shared/errors.js';
import { Volume } from '../volume/volume.js';

const KEPT_FOLDER = '/var/lib/afterimage/serve';
/** On disk, not in memory as /tmp often is: a volume's writes can be large. */
const SCRATCH_FOLDER = '/var/tmp';
const SCRATCH_PREFIX = 'afterimage-serve-';
const RECORD = 'serve.json';
const FOLDER_MODE = 0o700;
const FILE_MODE = 0o600;

const recordSchema = z.strictObject({
  version: z.literal(1),
  machine: z.string(),
  point: z.number().int().positive(),
  keep: z.boolean(),
});
type ServeRecord = z.infer<typeof recordSchema>;

export interface ServeState {
  readonly folder: string;
  /** A volume's own folder. */
  diskFolder(disk: string): string;
  /** Writes of an earlier run are there. */
  readonly continued: boolean;
  /** Removes it, unless it is to be kept. No volume is open in it. */
  end(): Promise<void>;
}

export interface ServeStateOptions {
  readonly machine: string;
  readonly point: number;
  readonly keep: boolean;
  /** As the operator named it. */
  readonly folder: string | undefined;
}

export async function openServeState(options: ServeStateOptions): Promise<ServeState> {
  const { machine, point, keep } = options;
  await removeLeftovers();
  const named = options.folder ?? (keep ? join(KEPT_FOLDER, `${machine}-${point}`) : undefined);
  const folder = named === undefined ? await mkdtemp(join(SCRATCH_FOLDER, SCRATCH_PREFIX)) : resolve(named);
  await makeFolderDurably(folder, FOLDER_MODE);
  const wanted: ServeRecord = { version: 1, machine, point, keep };
  const found = await readRecord(folder);
  if (found === null) await mustBeEmpty(folder);
  else if (found.keep) mustBeTheSame(folder, found, wanted);
  else await destroyVolumes(folder);
  await replaceFileDurably(join(folder, RECORD), `${JSON.stringify(wanted)}\n`, { mode: FILE_MODE });
  return {
    folder,
    diskFolder: (disk) => join(folder, disk),
    continued: found?.keep === true,
    end: async () => {
      if (!keep) await destroyState(folder);
    },
  };
}

async function readRecord(folder: string): Promise<ServeRecord | null> {
  const path = join(folder, RECORD);
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  });
  if (text === null) return null;
  try {
    return recordSchema.parse(JSON.parse(text));
  } catch (error) {
    throw usageError(`${path} is not a record of ours: ${messageOf(error)}`, 'Give another folder with --state.');
  }
}

async function mustBeEmpty(folder: string): Promise<void> {
  if ((await readdir(folder)).length === 0) return;
  throw usageError(`${folder} holds something else`, 'Give an empty or a new folder with --state.');
}

function mustBeTheSame(folder: string, found: ServeRecord, wanted: ServeRecord): void {
  if (found.machine !== wanted.machine || found.point !== wanted.point) {
    throw usageError(
      `${folder} keeps writes over point ${found.point} of machine ${found.machine}`,
      `Go on with --point ${found.point}, give another folder with --state, or remove this one.`,
    );
  }
  if (!wanted.keep) {
    throw usageError(
      `${folder} keeps writes of an earlier run`,
      'Go on with --writable --keep, or give another folder with --state.',
    );
  }
}

async function diskFolders(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  return entries.filter((e) => e.isDirectory()).map((e) => join(folder, e.name));
}

/** Refused (code `volume-in-use`) while another process has one open. */
async function destroyVolumes(folder: string): Promise<void> {
  for (const disk of await diskFolders(folder)) await Volume.destroy(disk);
}

async function destroyState(folder: string): Promise<void> {
  await destroyVolumes(folder);
  await rm(folder, { recursive: true, force: true });
}

/** What killed processes left to be thrown away. That of living ones is locked; without volumes it may be of one that is just starting. */
async function removeLeftovers(): Promise<void> {
  await mkdir(SCRATCH_FOLDER, { recursive: true });
  for (const name of await readdir(SCRATCH_FOLDER)) {
    if (!name.startsWith(SCRATCH_PREFIX)) continue;
    const folder = join(SCRATCH_FOLDER, name);
    try {
      const record = await readRecord(folder);
      if (record?.keep === false && (await diskFolders(folder)).length > 0) await destroyState(folder);
    } catch (error) {
      // Somebody else's, in use, or gone meanwhile: not ours to remove, and no reason not to start.
      if (!(error instanceof AfterimageError) && errnoOf(error) === undefined) throw error;
    }
  }
}
