/**
 * Checks the small objects of a machine: manifests, boundary, and the records that are kept for ever (who it is, where it stands with failover, its
 * jobs, …). Each is whole by its own seal. That none has vanished or taken another's place is known from the notes of an earlier scrub: immutable
 * objects look tomorrow as they do today.
 */
import { z } from 'zod';
import { checksum64, digestToText } from '../../shared/blocks/hash.js';
import { AfterimageError, corrupt, messageOf } from '../../shared/errors.js';
import { MANIFEST_BYTES_MAX } from '../../shared/limits.js';
import { DAMAGE_BYTES_MAX, SCRUB_MANIFESTS_MAX, SCRUB_RECORDS_MAX } from '../../shared/limits-scrub.js';
import type { MachineId } from '../../shared/units.js';
import type { Finding } from '../catalog/damage.js';
import type { Manifest } from '../catalog/manifest.js';
import { openManifest, readBoundary } from '../catalog/manifest-io.js';
import { parsePinName } from '../catalog/pins.js';
import { GROUPS_PREFIX, machinePrefix, manifestName, manifestPrefix, numberOfName } from '../catalog/names.js';
import { openSealedJson } from '../catalog/sealed-json.js';
import { copyName, originalOf } from '../catalog/second-copies.js';
import type { ScrubNote } from '../catalog/scrub-note.js';
import type { ObjectStore } from '../store/store.js';
import { isCorrupt } from './scrub-concern.js';

interface Family {
  readonly folder: string;
  /** They count from 1 without a gap. */
  readonly isNumbered: boolean;
  /** Nothing ever deletes them, and each has a second copy. Of others nobody can tell whether one that is gone should be there. */
  readonly isKept: boolean;
}

const FAMILIES: readonly Family[] = (
  [
    { folder: 'identity/', isNumbered: true },
    { folder: 'revoked/', isNumbered: false },
    { folder: 'recovery/', isNumbered: true },
    { folder: 'launch/', isNumbered: true },
    { folder: 'keys/', isNumbered: true },
    { folder: 'policy/', isNumbered: true },
    { folder: 'holds/', isNumbered: true },
    { folder: 'damage/', isNumbered: true },
    { folder: 'jobs/', isNumbered: false },
    { folder: 'checks/', isNumbered: false },
    { folder: 'challenge/', isNumbered: true },
    { folder: 'answer/', isNumbered: false },
    { folder: 'boundary/', isNumbered: false, isKept: false },
    { folder: 'pins/', isNumbered: false, isKept: false },
  ] as const
).map((family) => ({ isKept: true, ...family }));

/** Of the whole store; each machine's scrub looks at them. */
const STORE_FAMILIES: readonly Family[] = [{ folder: GROUPS_PREFIX, isNumbered: true, isKept: true }];

/** Whether a note's record is of the store, and not of its machine. */
const isOfStore = (short: string): boolean => STORE_FAMILIES.some(({ folder }) => short.startsWith(folder));

export type Records = ScrubNote['records'];

export const plainFinding = (
  kind: Finding['kind'],
  object: string,
  code: string,
  what: string,
  points: Finding['points'] = [],
): Finding => ({ kind, object, code, what, disk: null, layer: null, extents: null, points });

export interface RecordCheck {
  readonly findings: readonly Finding[];
  readonly records: Records;
  readonly readBytes: number;
  /** Whole ones that have no second copy yet, and what that would be. */
  readonly lackCopy: readonly (readonly [string, Buffer])[];
}

/** All records of a machine, and those of the store. */
export async function checkRecords(
  store: ObjectStore,
  machine: MachineId,
  before: Records,
  pace: (bytes: number) => Promise<void>,
): Promise<RecordCheck> {
  const prefix = machinePrefix(machine);
  const own = before.filter(([short]) => !isOfStore(short));
  const common = before.filter(([short]) => isOfStore(short));
  const results = [
    await checkFamilies(store, { machine, prefix, families: FAMILIES }, own, pace),
    await checkFamilies(store, { machine, prefix: '', families: STORE_FAMILIES }, common, pace),
  ];
  return {
    findings: results.flatMap(({ findings }) => findings),
    records: results.flatMap(({ records }) => records).slice(0, SCRUB_RECORDS_MAX),
    readBytes: results.reduce((sum, { readBytes }) => sum + readBytes, 0),
    lackCopy: results.flatMap(({ lackCopy }) => lackCopy),
  };
}

interface Scope {
  readonly machine: MachineId;
  /** Before the names in the note. */
  readonly prefix: string;
  readonly families: readonly Family[];
}

/**
 * Records and their second copies. `before`: those of the last note. What was noted and is bad now stays noted as it was, so that a copy
 * is proven by it.
 */
async function checkFamilies(
  store: ObjectStore,
  { machine, prefix, families }: Scope,
  before: Records,
  pace: (bytes: number) => Promise<void>,
): Promise<RecordCheck> {
  const noted = new Map(before);
  const findings: Finding[] = [];
  const records: [string, string][] = [];
  const lackCopy: (readonly [string, Buffer])[] = [];
  let readBytes = 0;
  const read = async (name: string, sizeBytes: number): Promise<Read> => {
    await pace(sizeBytes);
    const bytes = await store.get(name, DAMAGE_BYTES_MAX).catch((error: unknown) => {
      if (isCorrupt(error)) return 'too-large' as const;
      throw error;
    });
    readBytes += bytes === null || bytes === 'too-large' ? 0 : bytes.length;
    return { isMissing: bytes === null, bytes: bytes === 'too-large' ? null : bytes };
  };
  for (const { folder, isNumbered, isKept } of families) {
    const there = await sizesIn(store, `${prefix}${folder}`);
    const copies = isKept ? await sizesIn(store, copyName(`${prefix}${folder}`)) : new Map<string, number>();
    const copied = new Set([...copies.keys()].flatMap((name) => originalOf(name) ?? []));
    const all = [...new Set([...there.keys(), ...copied])].sort();
    let last = 0;
    for (const name of all) {
      const short = name.slice(prefix.length);
      if (isNumbered) {
        const number = numberOr(name, last);
        for (let n = last + 1; n < number; n++) {
          const gone = `${short.slice(0, folder.length)}${String(n).padStart(12, '0')}`;
          if (!noted.has(gone)) findings.push(missing(`${prefix}${gone}`, 'later ones of its kind are there'));
        }
        last = number;
      }
      // Also where only its copy was listed: it may have been made in between.
      const own = await read(name, there.get(name) ?? 0);
      const copy = copied.has(name) ? await read(copyName(name), copies.get(copyName(name)) ?? 0) : null;
      // Pins and boundaries go at any time: it was removed since it was listed.
      if (own.isMissing && copy === null && !isKept) continue;
      const was = noted.get(short);
      noted.delete(short);
      const problem = problemOf(name, own.bytes, machine, was);
      const isCopyWhole = copy !== null && problemOf(name, copy.bytes, machine, was) === null;
      const helped = isCopyWhole ? '; its second copy is whole, and is read in its place' : '';
      if (own.isMissing)
        findings.push(
          missing(name, `${copy === null ? 'it was listed just now' : 'its second copy is there'}${helped}`),
        );
      else if (problem !== null)
        findings.push(plainFinding('record', name, 'record-damaged', `object ${name}: ${problem}${helped}`));
      else if (copy !== null && own.bytes?.equals(copy.bytes ?? Buffer.alloc(0)) !== true)
        findings.push(copyDamaged('record', name, 'it is not what the object is'));
      else if (copy === null && isKept && own.bytes !== null) lackCopy.push([name, own.bytes]);
      const known = problem === null ? own.bytes : isCopyWhole ? copy.bytes : null;
      if (isKept && (known !== null || was !== undefined)) records.push([short, was ?? checksumOf(known)]);
    }
  }
  for (const [short, checksum] of noted) {
    findings.push(missing(`${prefix}${short}`, 'an earlier scrub has read it'));
    records.push([short, checksum]);
  }
  return { findings, records, readBytes, lackCopy };
}

interface Read {
  readonly isMissing: boolean;
  /** Null also for what is larger than any such object. */
  readonly bytes: Buffer | null;
}

async function sizesIn(store: ObjectStore, folder: string): Promise<Map<string, number>> {
  const found = new Map<string, number>();
  for await (const { name, sizeBytes } of store.list(folder)) found.set(name, sizeBytes);
  return found;
}

const checksumOf = (bytes: Buffer | null): string => (bytes === null ? '' : digestToText(checksum64(bytes)));

/** What is wrong with the bytes of a record, be they its own or those of its copy. `noted`: the checksum that an earlier scrub saw. */
export function problemOf(
  name: string,
  bytes: Buffer | null,
  machine: MachineId,
  noted: string | undefined,
): string | null {
  if (noted !== undefined && noted !== checksumOf(bytes)) return 'it is not what it was';
  return whyBad(name, bytes, machine);
}

export const copyDamaged = (kind: Finding['kind'], name: string, why: string): Finding =>
  plainFinding(
    kind,
    copyName(name),
    'copy-damaged',
    `second copy ${copyName(name)}: ${why}; the object itself is whole`,
  );

const missing = (name: string, why: string): Finding =>
  plainFinding('record', name, 'record-missing', `object ${name} is missing from the store: ${why}`);

const numberOr = (name: string, otherwise: number): number => {
  try {
    return numberOfName(name);
  } catch {
    // Not ours; nothing follows from its name.
    return otherwise;
  }
};

/** What records carry inside of their names must be that. */
const insideSchema = z.looseObject({
  number: z.number().optional(),
  machine: z.unknown().optional(),
  id: z.unknown().optional(),
  sequence: z.unknown().optional(),
});

function whyBad(name: string, bytes: Buffer | null, machine: MachineId): string | null {
  if (bytes === null) return 'it is larger than any such object, or vanished just now';
  try {
    const inside = openSealedJson(bytes, insideSchema, Number.MAX_SAFE_INTEGER, name);
    const pin = parsePinName(machine, name);
    if (pin !== null && (inside.id !== pin.id || inside.sequence !== pin.sequence)) return 'it holds another pin';
    const number = /\/(\d+)$/.exec(name)?.[1];
    if (number !== undefined && inside.number !== undefined && inside.number !== Number(number)) {
      return `it holds number ${inside.number}`;
    }
    if (typeof inside.machine === 'string' && inside.machine !== machine) return `it is of machine ${inside.machine}`;
    return null;
  } catch (error) {
    if (error instanceof AfterimageError) return messageOf(error);
    throw error;
  }
}

/** The manifests that are there, newest first, against the head and against what an earlier scrub has seen. */
export async function checkManifests(
  store: ObjectStore,
  head: Manifest,
  note: ScrubNote | null,
  pace: (bytes: number) => Promise<void>,
): Promise<Finding[]> {
  const machine = head.machine.id;
  const findings: Finding[] = [];
  const boundary = await readBoundary(store, machine);
  const found = await manifestNumbers(store, machine);
  const there = new Set(found);
  for (let n = boundary + 1; n < head.number; n++) {
    if (there.has(n)) continue;
    const name = manifestName(machine, n);
    findings.push(
      plainFinding(
        'manifest',
        name,
        'manifest-missing',
        `manifest ${name} is missing; a later one holds all that it held`,
      ),
    );
  }
  // A newer one that came since is looked at by the next pass. The head itself is looked at as well: it may have been read from its copy.
  const older = found.filter((number) => number < head.number);
  findings.push(...(await badManifests(store, machine, [...older, head.number], pace)));
  const back = rolledBack(head, boundary, note);
  return back === null ? findings : [back, ...findings];
}

/** Numbers of the manifests that are there, ascending. */
export async function manifestNumbers(store: ObjectStore, machine: MachineId): Promise<number[]> {
  const found: number[] = [];
  for await (const { name } of store.list(manifestPrefix(machine))) found.push(numberOfName(name));
  return found;
}

/** Which of these manifests (given ascending) can't be read; the newest are looked at. */
export async function badManifests(
  store: ObjectStore,
  machine: MachineId,
  numbers: readonly number[],
  pace: (bytes: number) => Promise<void>,
): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const number of numbers.slice(-SCRUB_MANIFESTS_MAX).reverse()) {
    await pace(0);
    try {
      // Itself: that its copy is whole helps readers, and does not make it so.
      const bytes = await store.get(manifestName(machine, number), MANIFEST_BYTES_MAX);
      if (bytes === null)
        throw corrupt('manifest-missing', `manifest ${manifestName(machine, number)} is not in the store`);
      openManifest(bytes, machine, number);
    } catch (error) {
      if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') throw error;
      // One that was collected just now lies below the boundary.
      if (error.code === 'manifest-missing' && (await readBoundary(store, machine)) >= number) continue;
      findings.push(plainFinding('manifest', manifestName(machine, number), error.code, messageOf(error)));
    }
  }
  return findings;
}

/** The newest manifest of an earlier scrub is gone, and nothing newer is there: what counts now is an older truth. */
export function rolledBack(head: Manifest, boundary: number, note: ScrubNote | null): Finding | null {
  if (note === null) return null;
  const machine = head.machine.id;
  const seen = new Date(note.writtenAtMs).toISOString();
  if (note.head.manifest > head.number || note.head.lastPoint > head.lastPoint) {
    const lost = note.head.lastPoint > head.lastPoint ? { first: head.lastPoint + 1, last: note.head.lastPoint } : null;
    const points = lost === null ? [] : [{ ...lost, firstCutAtMs: null, lastCutAtMs: null }];
    const text = lost === null ? 'no recovery point' : `points ${lost.first} to ${lost.last}`;
    return plainFinding(
      'manifest',
      manifestName(machine, note.head.manifest),
      'manifest-lost',
      `manifest ${note.head.manifest} was the newest on ${seen} and is missing: the highest is ${head.number}; with it went ${text}`,
      points,
    );
  }
  if (note.head.boundary <= boundary) return null;
  return plainFinding(
    'record',
    `${machinePrefix(machine)}boundary/${String(note.head.boundary).padStart(12, '0')}`,
    'record-missing',
    `the deletion boundary was at ${note.head.boundary} on ${seen}, now it is at ${boundary}`,
  );
}
