/**
 * One pass of the scrub over a machine: every object that counts is read once, what is bad is marked. Reads, and writes only its own notes and the list of
 * what is damaged: it needs no ownership, and two at once do no harm.
 *
 * A finding counts when it was made twice, the second time from the manifest as it is then: an object that was merged away meanwhile is none.
 * On a crash: the next pass goes on from the last note, and reads at most SCRUB_NOTE_INTERVAL_MS worth of objects again.
 */
import type { Clock } from '../../shared/clock.js';
import { checksum64, digestToText } from '../../shared/blocks/hash.js';
import { messageOf, type AfterimageError } from '../../shared/errors.js';
import {
  FORMAT_BYTES_MAX,
  SCRUB_NOTES_KEPT,
  SCRUB_HEAD_MS,
  SCRUB_NOTE_INTERVAL_MS,
} from '../../shared/limits-scrub.js';
import type { MachineId } from '../../shared/units.js';
import { isOpen, withFinding, withState, type DamageItem, type Finding } from '../catalog/damage.js';
import { lastScrubNote, loadDamage, updateDamage, writeScrubNote } from '../catalog/damage-io.js';
import type { Manifest } from '../catalog/manifest.js';
import { readBoundary } from '../catalog/manifest-io.js';
import { manifestName, manifestPrefix, scrubName } from '../catalog/names.js';
import { allLost, loadHead } from '../catalog/reader.js';
import { SCRUB_NOTE_VERSION, type ScrubNote } from '../catalog/scrub-note.js';
import { copyName, createCopy } from '../catalog/second-copies.js';
import { FORMAT_COPY_NAME, FORMAT_NAME } from '../store/format.js';
import type { ObjectStore } from '../store/store.js';
import { concernOfLayer, isCorrupt } from './scrub-concern.js';
import { badExtents, checkLayer } from './scrub-layer.js';
import type { Pace } from './scrub-pace.js';
import {
  badManifests,
  checkManifests,
  checkRecords,
  copyDamaged,
  manifestNumbers,
  plainFinding,
  type Records,
} from './scrub-records.js';
import { walkObjects, type ScrubTarget } from './scrub-walk.js';

export interface ScrubDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly pace: Pace;
  readonly signal: AbortSignal;
  /** After each object. */
  readonly onProgress?: ((progress: ScrubProgress) => void) | undefined;
  /** Once for each thing that is found to be bad, new or not. */
  readonly onFinding?: (finding: Finding) => void;
}

export interface ScrubProgress {
  readonly readBytes: number;
  readonly objects: number;
}

export interface PassOptions {
  /** Begin anew instead of going on where the last note says. */
  readonly fromStart?: boolean;
}

export interface PassResult extends ScrubProgress {
  readonly findings: readonly Finding[];
  /** The list as it is afterwards. */
  readonly items: readonly DamageItem[];
}

export async function scrubPass(deps: ScrubDeps, machine: MachineId, options: PassOptions = {}): Promise<PassResult> {
  return new Pass(deps, machine, await openNote(deps.store, machine)).run(options);
}

interface Opened {
  readonly note: ScrubNote | null;
  /** Of the newest note, readable or not. */
  readonly number: number;
  readonly problems: readonly Finding[];
}

/** Where the newest note is broken, an older one is the witness: it has seen less, and what it has seen counts. */
async function openNote(store: ObjectStore, machine: MachineId): Promise<Opened> {
  const { number, note, bad } = await lastScrubNote(store, machine);
  const problems = bad.map(({ name, error }) => plainFinding('record', name, error.code, error.message));
  return { number, note, problems };
}

class Pass {
  readonly #deps: ScrubDeps;
  readonly #machine: MachineId;
  #note: ScrubNote | null;
  #lastNote: number;
  readonly #noteProblems: readonly Finding[];
  #notedAtMs: number;
  #cursor: string | null = null;
  #startedAtMs: number;
  #readBytes = 0;
  #objects = 0;
  #records: Records;
  readonly #findings: Finding[] = [];
  /** Objects that the list names as bad. */
  #open = new Map<string, Finding['kind']>();

  constructor(deps: ScrubDeps, machine: MachineId, { note, number, problems }: Opened) {
    this.#deps = deps;
    this.#machine = machine;
    this.#note = note;
    this.#lastNote = number;
    this.#noteProblems = problems;
    this.#notedAtMs = deps.clock.monotonicMs();
    this.#startedAtMs = deps.clock.nowMs();
    this.#records = note?.records ?? [];
  }

  async run(options: PassOptions): Promise<PassResult> {
    const { store } = this.#deps;
    // A list that can't be read is found as a record below; it is then begun anew with the next number.
    const known = await loadDamage(store, this.#machine).catch((error: unknown) => {
      if (isCorrupt(error)) return null;
      throw error;
    });
    this.#open = new Map((known?.items ?? []).filter(isOpen).map((item) => [item.object, item.kind]));
    const head = await this.#head();
    if (head === null) return this.#withoutHead();
    const before = this.#note?.pass;
    if (options.fromStart !== true && before?.cursor != null) {
      this.#cursor = before.cursor;
      this.#startedAtMs = before.startedAtMs;
      this.#readBytes = before.readBytes;
      this.#objects = before.objects;
    } else await this.#smallObjects(head);
    try {
      while (!(await this.#some())) continue;
    } catch (error) {
      // Cancelled, or the store failed: what was read need not be read again.
      await this.#writeNote(false).catch(() => undefined);
      throw error;
    }
    await this.#closeGone();
    await this.#writeNote(true);
    return this.#result();
  }

  /** Nothing says what else counts; but which manifest is the newest that can be read is worth knowing. */
  async #withoutHead(): Promise<PassResult> {
    const { store, pace } = this.#deps;
    const older = (await manifestNumbers(store, this.#machine)).slice(0, -1);
    if (this.#findings.length > 0) {
      for (const finding of await badManifests(store, this.#machine, older, pace)) await this.#found(finding);
    }
    return this.#result();
  }

  async #result(): Promise<PassResult> {
    const items = (await loadDamage(this.#deps.store, this.#machine).catch(() => null))?.items ?? [];
    return { findings: this.#findings, items, readBytes: this.#readBytes, objects: this.#objects };
  }

  /** The manifest that counts. One that can't be read is the worst finding of all: nothing else can be looked at. */
  async #head(): Promise<Manifest | null> {
    try {
      const head = await loadHead(this.#deps.store, this.#machine);
      if (head === null && this.#note !== null) throw allLost(this.#machine, this.#note);
      return head;
    } catch (error) {
      if (!isCorrupt(error)) throw error;
      const { code } = error as AfterimageError;
      const seen = this.#note?.head.manifest;
      let name = seen === undefined ? manifestPrefix(this.#machine) : manifestName(this.#machine, seen);
      for await (const object of this.#deps.store.list(manifestPrefix(this.#machine))) name = object.name;
      const all = [{ first: 1, last: null, firstCutAtMs: null, lastCutAtMs: null }];
      await this.#found(plainFinding('manifest', name, code, messageOf(error), all));
      return null;
    }
  }

  async #smallObjects(head: Manifest): Promise<void> {
    const { store, pace } = this.#deps;
    for (const problem of this.#noteProblems) await this.#found(problem);
    for (const finding of await checkManifests(store, head, this.#note, pace)) await this.#found(finding);
    const { findings, records, readBytes, lackCopy } = await checkRecords(
      store,
      this.#machine,
      withoutFormat(this.#records),
      pace,
    );
    this.#readBytes += readBytes;
    this.#objects += records.length;
    for (const finding of findings) await this.#found(finding);
    for (const [name, bytes] of lackCopy) await createCopy(store, name, bytes);
    this.#records = [...(await this.#format()), ...records];
    const bad = new Set(this.#findings.map((finding) => finding.object));
    for (const [name, kind] of this.#open) {
      if ((kind === 'record' || kind === 'manifest') && !bad.has(name)) await this.#whole(kind, name);
    }
  }

  /** What the store's bytes mean must never change. */
  async #format(): Promise<Records> {
    const { store } = this.#deps;
    const was = this.#records.find(([name]) => name === FORMAT_NAME)?.[1];
    const own = await formatBytes(store, FORMAT_NAME);
    const copy = await formatBytes(store, FORMAT_COPY_NAME);
    const checksum = own === null ? '' : digestToText(checksum64(own));
    // Nobody has seen one: then it is not for the scrub to say that there should be one.
    if (own === null && copy === null && was === undefined) return [];
    if (own === null || (was ?? checksum) !== checksum) {
      const what = own === null ? 'is missing from the store' : 'is not what it was';
      await this.#found(plainFinding('record', FORMAT_NAME, 'record-damaged', `object ${FORMAT_NAME} ${what}`));
    } else if (copy === null) await createCopy(store, FORMAT_NAME, own);
    else if (!copy.equals(own)) await this.#found(copyDamaged('record', FORMAT_NAME, 'it is not what the object is'));
    return checksum === '' && was === undefined ? [] : [[FORMAT_NAME, was ?? checksum]];
  }

  /** Objects from the cursor on, until the manifest is so old that a newer one should be asked. True at the end of the pass. */
  async #some(): Promise<boolean> {
    const { store, clock, pace } = this.#deps;
    const head = await this.#head();
    if (head === null) return true;
    const readAtMs = clock.monotonicMs();
    for await (const target of walkObjects(store, head, this.#cursor)) {
      // Also where nothing is read: a pass over a thousand empty pages is heard, too.
      await pace(0);
      const finding = await this.#check(head, target);
      if (finding !== null && (await this.#confirm(target))) await this.#found(finding);
      if (finding === null) await this.#wholeAgain(target);
      this.#cursor = target.key;
      this.#objects++;
      this.#deps.onProgress?.({ readBytes: this.#readBytes, objects: this.#objects });
      const nowMs = clock.monotonicMs();
      if (nowMs - this.#notedAtMs >= SCRUB_NOTE_INTERVAL_MS) await this.#writeNote(false);
      if (nowMs - readAtMs >= SCRUB_HEAD_MS) return false;
    }
    return true;
  }

  async #check(head: Manifest, target: ScrubTarget): Promise<Finding | null> {
    if (target.kind !== 'layer') {
      if (target.problem === null) {
        if (target.lacksCopy !== null) await createCopy(this.#deps.store, target.name, target.lacksCopy);
        if (target.copyProblem === null) return null;
        return { ...copyDamaged(target.kind, target.name, target.copyProblem.what), disk: target.disk };
      }
      const { code } = target.problem;
      const helped = target.isReadable ? '; its second copy is whole, and is read in its place' : '';
      const what = `${target.problem.what}${helped}`;
      const from = target.page?.firstPoint ?? 1;
      // Staged layers belong to no point yet, and without shortcuts each point is read all the same.
      const isExtra = target.key.endsWith('/staged') || target.key.endsWith('/shortcuts');
      const points =
        isExtra || target.isReadable ? [] : [{ first: from, last: null, firstCutAtMs: null, lastCutAtMs: null }];
      return { ...plainFinding(target.kind, target.name, code, what, points), disk: target.disk };
    }
    const entry = head.disks.find((d) => d.id === target.disk);
    if (entry === undefined) return null;
    const { store, pace } = this.#deps;
    const owner = { machine: this.#machine, disk: target.disk, blockBytes: entry.blockBytes };
    const report = await checkLayer({ store, owner, layer: target.layer, pace });
    this.#readBytes += report.readBytes;
    const [first, ...more] = report.problems;
    if (first === undefined) return null;
    const extents = badExtents(report);
    const { points } = await concernOfLayer(store, head, { disk: target.disk, layer: target.layer, extents });
    const what = more.length === 0 ? first.what : `${first.what} (and ${more.length} more)`;
    const { disk, layer, name: object } = target;
    return { kind: 'layer', object, code: first.code, what, disk, layer, extents, points };
  }

  /** Whether the object still counts, and still is bad. */
  async #confirm(target: ScrubTarget): Promise<boolean> {
    const head = await this.#head();
    if (head === null) return false;
    for await (const again of walkObjects(this.#deps.store, head, this.#cursor)) {
      if (again.name === target.name) return (await this.#check(head, again)) !== null;
      if (again.key > target.key) return false;
    }
    return false;
  }

  async #found(finding: Finding): Promise<void> {
    this.#findings.push(finding);
    this.#open.set(finding.object, finding.kind);
    await updateDamage(this.#deps, this.#machine, (items, nowMs) => withFinding(items, finding, nowMs));
    this.#deps.onFinding?.(finding);
  }

  async #whole(kind: Finding['kind'], object: string): Promise<void> {
    this.#open.delete(object);
    const state = { state: 'repaired', reason: 'it was read again, and is whole' } as const;
    await updateDamage(this.#deps, this.#machine, (items, nowMs) => withState(items, { object, kind }, state, nowMs));
  }

  async #wholeAgain({ kind, name }: ScrubTarget): Promise<void> {
    for (const one of kind === 'layer' ? [name] : [name, copyName(name)])
      if (this.#open.has(one)) await this.#whole(kind, one);
  }

  /** Bad objects that nothing refers to any more need nobody's attention. */
  async #closeGone(): Promise<void> {
    if (this.#open.size === 0) return;
    const head = await this.#head();
    if (head === null) return;
    const referred = new Set<string>();
    for await (const target of walkObjects(this.#deps.store, head, null))
      referred.add(target.name).add(copyName(target.name));
    const state = { state: 'gone', reason: 'nothing refers to it any more' } as const;
    await updateDamage(this.#deps, this.#machine, (items, nowMs) =>
      items
        .filter((i) => isOpen(i) && ['layer', 'page', 'list'].includes(i.kind) && !referred.has(i.object))
        .reduce<readonly DamageItem[]>((changed, item) => withState(changed, item, state, nowMs), items),
    );
  }

  async #writeNote(isComplete: boolean): Promise<void> {
    const { store, clock } = this.#deps;
    const head = await loadHead(store, this.#machine);
    if (head === null) return;
    this.#notedAtMs = clock.monotonicMs();
    const before = this.#note;
    // The witness never forgets what it saw: a lost manifest is a finding of every pass until somebody puts things right.
    const seen = {
      manifest: head.number,
      epoch: head.epoch,
      lastPoint: head.lastPoint,
      boundary: await readBoundary(store, this.#machine),
    };
    const isBack = before !== null && (before.head.manifest > seen.manifest || before.head.lastPoint > seen.lastPoint);
    const note: ScrubNote = {
      version: SCRUB_NOTE_VERSION,
      number: this.#lastNote + 1,
      machine: this.#machine,
      writtenAtMs: clock.nowMs(),
      pass: {
        startedAtMs: this.#startedAtMs,
        cursor: isComplete ? null : this.#cursor,
        readBytes: this.#readBytes,
        objects: this.#objects,
      },
      completedAtMs: isComplete ? clock.nowMs() : (before?.completedAtMs ?? null),
      provenAtMs: before?.provenAtMs ?? null,
      head: isBack ? before.head : seen,
      records: this.#records,
    };
    if (await writeScrubNote(store, note)) {
      this.#note = note;
      this.#lastNote = note.number;
      // Older notes say nothing more. Where nothing may be deleted they stay.
      const old = note.number - SCRUB_NOTES_KEPT;
      if (old > 0) await store.deleteMany([scrubName(this.#machine, old)]).catch(() => undefined);
    } else ({ note: this.#note, number: this.#lastNote } = await openNote(store, this.#machine));
  }
}

async function formatBytes(store: ObjectStore, name: string): Promise<Buffer | null> {
  return store.get(name, FORMAT_BYTES_MAX).catch((error: unknown) => {
    // Larger than any: as good as none.
    if (isCorrupt(error)) return null;
    throw error;
  });
}

const withoutFormat = (records: Records): Records => records.filter(([name]) => name !== FORMAT_NAME);
