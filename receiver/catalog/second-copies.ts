/**
 * Second copies of small objects: the same bytes once more, below `copies/` (`machines/<m>/copies/<rest of the name>`, `copies/<name>` for what belongs
 * to no machine). An object and its copy are one: it is there when either is, and it is read from whichever is whole, so that neither rot nor a loss of
 * one of them takes away what only this object knows, nor lets an older number count in its place.
 *
 * What has one: pages and lists (proven by the checksum in the manifest), the newest manifest as upkeep saw it, and all records (proven by their seal and
 * by what they say that they are). The object itself is made first, and its creation alone commits; a copy that is missing (a crash between the two, an
 * older receiver) is made up for by the scrub. Older receivers never look below `copies/`.
 */
import { AfterimageError } from '../../shared/errors.js';
import type { CreateResult, ObjectStore } from '../store/store.js';
import { machineOfName, machinePrefix } from './names.js';

/** The folder of the copies: of the store, and of each machine. */
export const COPIES = 'copies/';

/** Of an object or a folder. */
export function copyName(name: string): string {
  const machine = machineOfName(name);
  const prefix = machine === null ? '' : machinePrefix(machine);
  return `${prefix}${COPIES}${name.slice(prefix.length)}`;
}

/** What this is a copy of; null for what is none. */
export function originalOf(name: string): string | null {
  const machine = machineOfName(name);
  const prefix = machine === null ? '' : machinePrefix(machine);
  return name.startsWith(`${prefix}${COPIES}`) ? `${prefix}${name.slice(prefix.length + COPIES.length)}` : null;
}

/** The object of which the same is known: its copy, or what it is a copy of. */
export const twinOf = (name: string): string => originalOf(name) ?? copyName(name);

const isCorrupt = (error: unknown): boolean => error instanceof AfterimageError && error.kind === 'corrupt';

/**
 * An object as `open` finds it whole, itself or its copy. Null when neither is there; when one is there and none is whole, what is wrong is thrown. What a
 * newer program wrote is no damage: the copy isn't asked.
 */
export async function readEither<T>(
  store: ObjectStore,
  name: string,
  bytesMax: number,
  open: (bytes: Buffer) => T,
): Promise<T | null> {
  const read = async (from: string): Promise<T | null> => {
    const bytes = await store.get(from, bytesMax);
    return bytes === null ? null : open(bytes);
  };
  try {
    const found = await read(name);
    if (found !== null) return found;
  } catch (error) {
    if (!isCorrupt(error)) throw error;
    const copy = await read(copyName(name)).catch((other: unknown) => {
      if (isCorrupt(other)) return null;
      throw other;
    });
    if (copy === null) throw error;
    return copy;
  }
  return read(copyName(name));
}

async function namesIn(store: ObjectStore, folder: string): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of store.list(folder)) names.push(name);
  return names;
}

/** Names of the objects of a folder that are there themselves or as a copy, ascending. */
export async function namesOfEither(store: ObjectStore, folder: string): Promise<string[]> {
  const [own, copies] = await Promise.all([namesIn(store, folder), namesIn(store, copyName(folder))]);
  return [...new Set([...own, ...copies.flatMap((name) => originalOf(name) ?? [])])].sort();
}

/** The last of them; null for none. */
export const highestOfEither = async (store: ObjectStore, folder: string): Promise<string | null> =>
  (await namesOfEither(store, folder)).at(-1) ?? null;

/** Creates an object unless its name is taken, then its copy. */
export async function createWithCopy(store: ObjectStore, name: string, bytes: Buffer): Promise<CreateResult> {
  const result = await store.createIfAbsent(name, bytes);
  if (result === 'created') await createCopy(store, name, bytes);
  return result;
}

/** The object stands, which is what its writer is asked for; a copy that can't be made now is made by the scrub. */
export async function createCopy(store: ObjectStore, name: string, bytes: Buffer): Promise<void> {
  await store.createIfAbsent(copyName(name), bytes).catch((error: unknown) => {
    if (!(error instanceof AfterimageError)) throw error;
  });
}
