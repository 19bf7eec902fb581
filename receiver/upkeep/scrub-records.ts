/**
 * Checks the small objects of a machine: manifests, boundary, and the records that are kept for ever (who it is, where it stands with failover, its
 * jobs, …). Each is whole by its own seal. That none has vanished or taken another's place is known from the notes of an earlier scrub: immutable
 * objects look tomorrow as they do today.
 */
import { z } from 'zod';
import { checksum64, digestToText } from '../../shared/blocks/hash.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { DAMAGE_BYTES_MAX, SCRUB_MANIFESTS_MAX, SCRUB_RECORDS_MAX } from '../../shared/limits-scrub.js';
import type { MachineId } from '../../shared/units.js';
import type { Finding } from '../catalog/damage.js';
import type { Manifest } from '../catalog/manifest.js';
import { readBoundary, readManifest } from '../catalog/manifest-io.js';
import { parsePinName } from '../catalog/pins.js';
import { machinePrefix, manifestName, manifestPrefix, numberOfName } from '../catalog/names.js';
import { openSealedJson } from '../catalog/sealed-json.js';
import type { ScrubNote } from '../catalog/scrub-note.js';
import type { ObjectStore } from '../store/store.js';
import { isCorrupt } from './scrub-concern.js';

interface Family {
  readonly folder: string;
  /** They count from 1 without a gap. */
  readonly isNumbered: boolean;
  /** Nothing ever deletes them. Of others nobody can tell whether one that is gone should be there. */
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
}

/** All records of a machine. `before`: those of the last note. What was noted and is bad now stays noted as it was. */
export async function checkRecords(
  store: ObjectStore,
  machine: MachineId,
  before: Records,
  pace: (bytes: number) => Promise<void>,
): Promise<RecordCheck> {
  const prefix = machinePrefix(machine);
  const noted = new Map(before);
  const findings: Finding[] = [];
  const records: [string, string][] = [];
  let readBytes = 0;
  for (const { folder, isNumbered, isKept } of FAMILIES) {
    let last = 0;
    for await (const { name, sizeBytes } of store.list(`${prefix}${folder}`)) {
      const short = name.slice(prefix.length);
      if (isNumbered) {
        const number = numberOr(name, last);
        for (let n = last + 1; n < number; n++) {
          const gone = `${short.slice(0, folder.length)}${String(n).padStart(12, '0')}`;
          if (!noted.has(gone)) findings.push(missing(`${prefix}${gone}`, 'later ones of its kind are there'));
        }
        last = number;
      }
      await pace(sizeBytes);
      const read = await store.get(name, DAMAGE_BYTES_MAX).catch((error: unknown) => {
        if (isCorrupt(error)) return 'too-large' as const;
        throw error;
      });
      // Pins and boundaries go at any time: it was removed since it was listed.
      if (read === null && !isKept) continue;
      const bytes = read === 'too-large' ? null : read;
      readBytes += bytes?.length ?? 0;
      const checksum = bytes === null ? '' : digestToText(checksum64(bytes));
      const was = noted.get(short);
      noted.delete(short);
      const problem = was !== undefined && was !== checksum ? 'it is not what it was' : whyBad(name, bytes, machine);
      if (problem !== null) findings.push(plainFinding('record', name, 'record-damaged', `object ${name}: ${problem}`));
      if (isKept && (problem === null || was !== undefined)) records.push([short, was ?? checksum]);
    }
  }
  for (const [short, checksum] of noted) {
    findings.push(missing(`${prefix}${short}`, 'an earlier scrub has read it'));
    records.push([short, checksum]);
  }
  return { findings, records: records.slice(0, SCRUB_RECORDS_MAX), readBytes };
}

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
  // A newer one that came since is looked at by the next pass.
  const older = found.filter((number) => number < head.number);
  findings.push(...(await badManifests(store, machine, older, pace)));
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
      await readManifest(store, machine, number);
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
