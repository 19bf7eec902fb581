/**
 * Mends damaged small objects: an object and its second copy (catalog/second-copies.ts) are made from each other, the newest manifest from what its owner
 * remembers. Nothing is put down but what is proven: a page or list by the checksum in the manifest, a record by its seal, by what it says that it is, and
 * by the checksum that an earlier scrub noted, where it did.
 *
 * What is there and damaged has to go before its name can be taken again. Until it is back, readers have the other one: so the other is read and proven
 * right before, and only the owner does it. A store that lets nothing be deleted keeps the damaged one, which harms nobody while the other is whole.
 * On a crash in between: one of the two is missing, and the next scrub makes it again.
 */
import { checksum64, digestToText } from '../../shared/blocks/hash.js';
import { corrupt, messageOf } from '../../shared/errors.js';
import { LAYER_LIST_BYTES_MAX, MANIFEST_BYTES_MAX } from '../../shared/limits.js';
import { DAMAGE_BYTES_MAX, FORMAT_BYTES_MAX, PIN_DAMAGED_MS } from '../../shared/limits-scrub.js';
import type { DamageChange, DamageItem } from '../catalog/damage.js';
import { lastScrubNote } from '../catalog/damage-io.js';
import type { MachineId } from '../../shared/units.js';
import { openList, openManifest, openPage } from '../catalog/manifest-io.js';
import type { Manifest } from '../catalog/manifest.js';
import {
  boundaryPrefix,
  machinePrefix,
  manifestPrefix,
  numberOfName,
  pinsPrefix,
  scrubPrefix,
} from '../catalog/names.js';
import { parsePinName } from '../catalog/pins.js';
import { sealJson } from '../catalog/sealed-json.js';
import { copyName, originalOf, twinOf } from '../catalog/second-copies.js';
import { DeleteError } from '../store/delete-error.js';
import { checkFormat, currentFormat, FORMAT_NAME } from '../store/format.js';
import { isCorrupt } from './scrub-concern.js';
import { problemOf } from './scrub-records.js';
import type { RepairDeps } from './scrub-repair.js';

type SmallDeps = Pick<RepairDeps, 'store' | 'beneath' | 'owned' | 'clock'>;

/** How the bytes of an object are told to be whole; throws kind `corrupt` where they aren't. */
interface Proof {
  readonly bytesMax: number;
  readonly prove: (bytes: Buffer) => void;
  /** What this program knows that it is, whether or not there is a copy. */
  readonly known: Buffer | null;
}

/** What became of it. Throws what is not the fault of an object. */
export async function mendSmall(deps: SmallDeps, item: DamageItem): Promise<DamageChange> {
  const { beneath, owned } = deps;
  const machine = owned.manifest.machine.id;
  if (item.kind === 'manifest') return mendManifest(deps, item);
  if (item.object.startsWith(boundaryPrefix(machine))) return mendBoundary(deps, item);
  if (item.object.startsWith(pinsPrefix(machine))) return mendPin(deps, item);
  if (item.object.startsWith(scrubPrefix(machine))) return supersededNote(deps, item);
  const proof = await proofOf(deps, item);
  if (proof === null) return { state: 'gone', reason: 'nothing refers to it any more' };
  const own = await wholeOrNull(beneath, item.object, proof);
  if (own.whole !== null) return { state: 'repaired', reason: 'it was read again, and is whole' };
  const twin = await wholeOrNull(beneath, twinOf(item.object), proof);
  const whole = twin.whole ?? proof.known;
  if (whole === null)
    return {
      state: 'lost',
      reason: 'neither the object nor a second copy of it is whole: bring it back from a copy of the store',
    };
  if (own.isThere) {
    await owned.confirm();
    const kept = await removed(deps, item.object);
    if (kept !== null)
      return {
        state: 'found',
        reason: `${twinOf(item.object)} is whole and read in its place; it can't be replaced: ${kept}`,
      };
  }
  await deps.store.createIfAbsent(item.object, whole);
  const again = await wholeOrNull(beneath, item.object, proof);
  if (again.whole === null)
    return { state: 'found', reason: `it was made anew of ${twinOf(item.object)}, and is not whole again` };
  return { state: 'repaired', reason: `made anew of ${twinOf(item.object)}`, points: [] };
}

/**
 * Only the newest counts. Its owner knows what it holds, and says it once more under the next number. One that is gone and has a copy comes back: its
 * number is what an owner meets that slept in a commit.
 */
async function mendManifest({ owned, store, beneath }: SmallDeps, item: DamageItem): Promise<DamageChange> {
  const { machine, number } = owned.manifest;
  if (!item.object.startsWith(manifestPrefix(machine.id))) return { state: 'found', reason: 'its name has no number' };
  const bad = numberOfName(item.object);
  if (bad > number) return { state: 'lost', reason: `manifest ${number} is the newest that is left` };
  const copy = await beneath.get(copyName(item.object), MANIFEST_BYTES_MAX);
  if (copy !== null && isManifest(copy, machine.id, bad)) await store.createIfAbsent(item.object, copy);
  if (bad < number) return { state: 'gone', reason: `manifest ${number} holds all that counts` };
  const next = await owned.commit((current) => current);
  return {
    state: 'repaired',
    reason: `its owner wrote what it held once more, as manifest ${next.number}`,
    points: [],
  };
}

function isManifest(bytes: Buffer, machine: MachineId, number: number): boolean {
  try {
    openManifest(bytes, machine, number);
    return true;
  } catch (error) {
    if (isCorrupt(error)) return false;
    throw error;
  }
}

/** Only its name counts. That manifests up to it are gone was seen by the scrub that misses it. */
async function mendBoundary({ beneath, store, owned, clock }: SmallDeps, item: DamageItem): Promise<DamageChange> {
  if ((await beneath.head(item.object)) !== null)
    return { state: 'gone', reason: 'its name is all that counts, and that is there' };
  const { machine, number: newest, epoch } = owned.manifest;
  const number = numberOfName(item.object);
  if (number >= newest) return { state: 'lost', reason: `it lies above manifest ${newest}, the newest that is left` };
  await owned.confirm();
  const content = { version: 1, number, machine: machine.id, epoch, writtenAtMs: clock.nowMs() };
  await store.createIfAbsent(item.object, sealJson(content));
  return { state: 'repaired', reason: 'written again: an earlier scrub has seen it', points: [] };
}

/**
 * Nobody knows what it protects, so nothing is deleted while it is there. A holder that lives renews it under another name within minutes, and removes
 * this one; one that comes back later than that finds its pin gone, and plans anew.
 */
async function mendPin(deps: SmallDeps, item: DamageItem): Promise<DamageChange> {
  const { beneath, clock, owned } = deps;
  if ((await beneath.head(item.object)) === null)
    return { state: 'gone', reason: 'its holder has released or renewed it' };
  if (parsePinName(owned.manifest.machine.id, item.object) === null)
    return { state: 'found', reason: 'its name is not that of a pin: remove it when you know whose it is' };
  const leftMs = item.foundAtMs + PIN_DAMAGED_MS - clock.nowMs();
  if (leftMs > 0) return { state: 'found', reason: 'it is removed when its holder has not renewed it for a day' };
  await owned.confirm();
  const kept = await removed(deps, item.object);
  if (kept !== null) return { state: 'found', reason: kept };
  return { state: 'repaired', reason: 'removed: nobody has renewed it for a day' };
}

/** A note that can be read and comes after it says all that it said. */
async function supersededNote({ beneath, owned }: SmallDeps, item: DamageItem): Promise<DamageChange> {
  const { note } = await lastScrubNote(beneath, owned.manifest.machine.id);
  return note !== null && note.number > numberOfName(item.object)
    ? { state: 'gone', reason: `note ${note.number} counts in its place` }
    : { state: 'found', reason: 'the next note takes its place' };
}

/** Null: nothing says what it should be, since nothing refers to it. */
async function proofOf({ beneath, owned }: SmallDeps, item: DamageItem): Promise<Proof | null> {
  const { manifest } = owned;
  const name = originalOf(item.object) ?? item.object;
  if (item.kind === 'page' || item.kind === 'list') return proofOfNamed(manifest, name);
  const machine = manifest.machine.id;
  const { note } = await lastScrubNote(beneath, machine);
  if (name === FORMAT_NAME) return proofOfFormat(note?.records.find(([record]) => record === name)?.[1]);
  const short = name.startsWith(machinePrefix(machine)) ? name.slice(machinePrefix(machine).length) : name;
  const noted = note?.records.find(([record]) => record === short)?.[1];
  const prove = (bytes: Buffer): void => {
    const problem = problemOf(name, bytes, machine, noted);
    if (problem !== null) throw corrupt('record-damaged', problem);
  };
  return { bytesMax: DAMAGE_BYTES_MAX, prove, known: null };
}

/** What the bytes of the store mean is known to whoever has opened it; the note says that it was just this. */
function proofOfFormat(noted: string | undefined): Proof {
  const isNoted = (bytes: Buffer): boolean => digestToText(checksum64(bytes)) === noted;
  const prove = (bytes: Buffer): void => {
    checkFormat(bytes);
    if (noted !== undefined && !isNoted(bytes)) throw corrupt('record-damaged', 'it is not what it was');
  };
  const ours = currentFormat();
  return { bytesMax: FORMAT_BYTES_MAX, prove, known: isNoted(ours) ? ours : null };
}

function proofOfNamed(manifest: Manifest, name: string): Proof | null {
  const page = manifest.pages.find((one) => one.name === name);
  if (page !== undefined)
    return { bytesMax: MANIFEST_BYTES_MAX, prove: (bytes) => void openPage(bytes, page), known: null };
  const lists = manifest.disks.flatMap(({ bases, shortcuts, staged }) => [bases, shortcuts ?? null, staged]);
  const list = lists.find((one) => one?.name === name) ?? null;
  return list === null
    ? null
    : { bytesMax: LAYER_LIST_BYTES_MAX, prove: (bytes) => void openList(bytes, list), known: null };
}

async function wholeOrNull(
  store: SmallDeps['store'],
  name: string,
  { bytesMax, prove }: Proof,
): Promise<{ readonly isThere: boolean; readonly whole: Buffer | null }> {
  let isThere = true;
  try {
    const bytes = await store.get(name, bytesMax);
    isThere = bytes !== null;
    if (bytes !== null) prove(bytes);
    return { isThere, whole: bytes };
  } catch (error) {
    if (!isCorrupt(error)) throw error;
    return { isThere, whole: null };
  }
}

/** Why it is still there; null: it is gone. */
async function removed({ store }: SmallDeps, name: string): Promise<string | null> {
  try {
    await store.deleteMany([name]);
    return null;
  } catch (error) {
    if (error instanceof DeleteError) return messageOf(error);
    throw error;
  }
}
