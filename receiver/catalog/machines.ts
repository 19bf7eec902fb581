/**
 * Which machines a store holds, and how an operator's word for one is understood. Read-only.
 */
import { AfterimageError, messageOf, usageError } from '../../shared/errors.js';
import { asMachineId, isUuid, type MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { loadScrubNote } from './damage-io.js';
import { loadIdentity } from './identity-io.js';
import type { Manifest } from './manifest.js';
import { MACHINES_PREFIX } from './names.js';
import { allLost, loadHead } from './reader.js';

export interface MachineSummary {
  readonly id: MachineId;
  /** The id where no name can be read. */
  readonly name: string;
  /** Null when nothing was committed yet, or when it can't be read: then `problem` says why. */
  readonly manifest: Manifest | null;
  readonly problem: string | null;
}

async function summaryOf(store: ObjectStore, id: MachineId): Promise<MachineSummary> {
  try {
    const manifest = await loadHead(store, id);
    if (manifest !== null) return { id, name: manifest.machine.name, manifest, problem: null };
    const note = await loadScrubNote(store, id);
    if (note !== null) throw allLost(id, note);
    return { id, name: await enrolledName(store, id), manifest: null, problem: null };
  } catch (error) {
    // One broken machine must not hide the others.
    if (!(error instanceof AfterimageError)) throw error;
    // A machine whose manifest is broken is still found by its name.
    const name = await enrolledName(store, id).catch(() => id);
    return { id, name, manifest: null, problem: messageOf(error) };
  }
}

async function enrolledName(store: ObjectStore, id: MachineId): Promise<string> {
  return (await loadIdentity(store, id))?.name ?? id;
}

/** All machines, by name. */
export async function listMachines(store: ObjectStore): Promise<MachineSummary[]> {
  const found: MachineSummary[] = [];
  for (const folder of await store.listFolders(MACHINES_PREFIX)) {
    if (isUuid(folder)) found.push(await summaryOf(store, asMachineId(folder)));
  }
  return found.sort((a, b) => a.name.localeCompare(b.name) || (a.id < b.id ? -1 : 1));
}

/** The machine that a word means: its id, its name, or the beginning of its id, if only one fits. */
export async function resolveMachine(store: ObjectStore, word: string): Promise<MachineId> {
  const id = word.toLowerCase();
  if (isUuid(id) && (await store.listFolders(MACHINES_PREFIX)).includes(id)) return asMachineId(id);
  return pickMachine(word, await listMachines(store), store.url);
}

/** The same among machines that are known already; `where` is for the message. Pure. */
export function pickMachine(
  word: string,
  machines: readonly { readonly id: MachineId; readonly name: string }[],
  where: string,
): MachineId {
  const lower = word.toLowerCase();
  const whole = machines.find((m) => m.id === lower);
  if (whole !== undefined) return whole.id;
  const named = machines.filter((m) => m.name === word);
  const begins = /^[0-9a-f-]{4,}$/.test(lower) ? machines.filter((m) => m.id.startsWith(lower)) : [];
  // A name is meant before an id's beginning: people type names.
  const fits = named.length > 0 ? named : begins;
  const [only] = fits;
  if (only !== undefined && fits.length === 1) return only.id;
  if (fits.length > 1) {
    const ids = fits.map((m) => m.id).join(', ');
    throw usageError(`"${word}" fits ${fits.length} machines: ${ids}`, 'Give the whole id.');
  }
  throw new AfterimageError(`there is no machine "${word}" in ${where}`, {
    code: 'machine-unknown',
    kind: 'usage',
    hint: 'See `afterimage machines`; give a name, an id or at least 4 characters of its beginning.',
  });
}
