/**
 * Read-only view of one machine's catalog at its highest manifest. Everything is checked on the way in: seal, version, number, machine,
 * and the checksums of the pages and lists that the manifest names. History pages are read on demand and not kept, so memory is bounded
 * however long the history is. Holds no lock and no state in the store; a view stays valid until its layers are collected.
 */
import type { z } from 'zod';
import { AfterimageError, corrupt } from '../../shared/errors.js';
import type { DiskId, MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import type { ScrubNote } from './scrub-note.js';
import { damageOf, isOpen, type DamageItem } from './damage.js';
import { loadDamage, loadScrubNote } from './damage-io.js';
import type { DiskEntry, History, LayerRef, Manifest, pointDiskSchema, RecoveryPoint } from './manifest.js';
import { readBoundary, readHighestManifest, readHistoryPage, readLayerList, readManifest } from './manifest-io.js';
import { manifestPrefix, numberOfName } from './names.js';
import { describeSelector, type PointSelector } from './point-selector.js';
import { isSameRun, throughShortcuts } from './shortcuts.js';
import { disksNamed, hasAll, lackingDisks, lackingText, lacksDisks, missing, unpointedDisks } from './whole-machine.js';

export type PointDisk = z.infer<typeof pointDiskSchema>;

/** All layers of a disk that may matter at a point; the read plan picks from them. */
export interface LayersAtPoint {
  readonly bases: readonly LayerRef[];
  readonly deltas: readonly LayerRef[];
}

/** A manifest can be collected between listing and reading when a receiver commits quickly: look again so many times. */
const HEAD_TRIES = 5;
/** History pages read at once where many are needed: hides the store's latency, some ten KiB each. */
const PAGES_IN_FLIGHT = 8;

/** The manifest that counts; null for a machine without one (enrolled, nothing replicated yet). */
export async function loadHead(store: ObjectStore, machine: MachineId): Promise<Manifest | null> {
  for (let i = 0; i < HEAD_TRIES; i++) {
    const manifest = await readHighestManifest(store, machine).catch((error: unknown) => {
      if (error instanceof AfterimageError && error.code === 'manifest-missing') return undefined;
      throw error;
    });
    if (manifest === undefined) continue;
    if (manifest === null) return null;
    checkManifest(manifest);
    const boundary = await readBoundary(store, machine);
    if (boundary < manifest.number) return manifest;
    throw corrupt(
      'manifest-behind-boundary',
      `manifest ${manifest.number} of machine ${machine} was given up: its boundary is at ${boundary}`,
      'A newer manifest is missing from the store: bring it back from a copy of the store.',
    );
  }
  throw new AfterimageError(`the manifest of machine ${machine} changes faster than it can be read`, {
    code: 'manifest-moving',
    kind: 'io',
    hint: 'Try again.',
  });
}

/** Says what a manifest promises beyond its schema. */
function checkManifest(manifest: Manifest): void {
  const bad = (what: string): never => {
    throw corrupt(
      'manifest-invalid',
      `manifest ${manifest.number} of machine ${manifest.machine.id} is not valid: ${what}`,
    );
  };
  let before = 0;
  for (const page of manifest.pages) {
    if (page.firstPoint <= before || page.lastPoint < page.firstPoint) bad(`history page ${page.name} is out of order`);
    before = page.lastPoint;
  }
  for (const point of manifest.tail.points) {
    if (point.number <= before) bad(`point ${point.number} is out of order`);
    before = point.number;
  }
  if (before > manifest.lastPoint) bad(`point ${before} is after its last point ${manifest.lastPoint}`);
}

/** Older manifests that are looked at when the highest can't be read. */
const OLDER_TRIES = 100;

export class MachineReader {
  readonly manifest: Manifest;
  readonly #store: ObjectStore;
  /** Why this view is not that of the newest manifest; null when it is. */
  readonly #behind: AfterimageError | null;
  #items: Promise<readonly DamageItem[]> | null = null;
  /** What whoever takes a point by this view has to be told: points that were passed over, what could not be looked up. */
  readonly concerns: string[] = [];

  constructor(store: ObjectStore, manifest: Manifest, behind: AfterimageError | null = null) {
    this.#store = store;
    this.manifest = manifest;
    this.#behind = behind;
    if (behind !== null) {
      this.concerns.push(
        `${behind.message}; this is what manifest ${manifest.number} of ${new Date(manifest.writtenAtMs).toISOString()} lists`,
      );
    }
  }

  /** Throws kind `not-found` for a machine without a manifest. */
  static async open(store: ObjectStore, machine: MachineId): Promise<MachineReader> {
    const manifest = await loadHead(store, machine);
    if (manifest !== null) return new MachineReader(store, manifest);
    const note = await loadScrubNote(store, machine);
    if (note !== null) throw allLost(machine, note);
    throw new AfterimageError(`machine ${machine} has no recovery point yet`, {
      code: 'machine-empty',
      kind: 'not-found',
      hint: 'Its first copy is not complete; see the state of its agent.',
    });
  }

  /**
   * For restores: where the newest manifest is damaged, the newest that can be read is taken, and the view says so. Such a view gives points by
   * number alone, since it can't know which is the latest.
   */
  static async openReadable(store: ObjectStore, machine: MachineId): Promise<MachineReader> {
    try {
      return await MachineReader.open(store, machine);
    } catch (error) {
      if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') throw error;
      const older = await newestReadable(store, machine);
      if (older === null) throw error;
      return new MachineReader(store, older, error);
    }
  }

  /** All points, oldest first. */
  async *points(): AsyncGenerator<RecoveryPoint> {
    for (const page of this.manifest.pages) yield* (await readHistoryPage(this.#store, page)).points;
    yield* this.manifest.tail.points;
  }

  /** All points, newest first: what is asked for is mostly near the end. */
  async *pointsNewestFirst(): AsyncGenerator<RecoveryPoint> {
    yield* [...this.manifest.tail.points].reverse();
    for (const page of [...this.manifest.pages].reverse())
      yield* [...(await readHistoryPage(this.#store, page)).points].reverse();
  }

  /**
   * A point that is known to be damaged is found by its number alone: the newest of a kind, or of a time, is the newest that is whole. Points that were
   * passed over are named in `concerns`.
   */
  async findPoint(selector: PointSelector): Promise<RecoveryPoint> {
    const found = selector.by === 'number' ? await this.#pointNumbered(selector.number) : await this.#newest(selector);
    if (found !== undefined) return found;
    throw new AfterimageError(`machine ${this.manifest.machine.name} has no point ${describeSelector(selector)}`, {
      code: 'point-unknown',
      kind: 'usage',
      hint: `See \`afterimage points ${this.manifest.machine.name}\`.`,
    });
  }

  /**
   * The same for whoever wants the whole machine. `without`: disks that may be missing, by id or device. Throws kind `usage`, code `point-lacks-disk`, for
   * a point that lacks another and was not named by its number. Disks that no point has yet are named in `concerns`.
   */
  async findWhole(selector: PointSelector, without: readonly string[]): Promise<RecoveryPoint> {
    const mayLack = disksNamed(this.manifest, without);
    const point = await this.findPoint(selector);
    const unpointed = unpointedDisks(this.manifest);
    if (unpointed.length > 0)
      this.concerns.push(`no point has ${lackingText(unpointed)} yet: the first copy is not complete, or was given up`);
    const disks = missing(this.manifest, point, selector, mayLack);
    if (disks.length === 0) return point;
    const damage = await this.#damage();
    let complete: number | null = null;
    for await (const older of this.pointsNewestFirst()) {
      if (older.number >= point.number || !fits(older, selector) || damageOf(damage, older.number) !== undefined)
        continue;
      if (!hasAll(this.manifest, older, disks)) continue;
      complete = older.number;
      break;
    }
    throw lacksDisks(point, disks, complete);
  }

  /** Points and deltas, oldest first, page by page. */
  async *history(): AsyncGenerator<History> {
    for (const page of this.manifest.pages) yield await readHistoryPage(this.#store, page);
    yield this.manifest.tail;
  }

  /** Base layers of a disk, whatever their point. */
  basesOf(disk: DiskId): Promise<readonly LayerRef[]> {
    return this.#bases(disk);
  }

  async hasPoint(number: number): Promise<boolean> {
    return (await this.#pointNumbered(number)) !== undefined;
  }

  /** What is known to be damaged that a point needs; undefined: nothing. */
  async damageAt(point: number): Promise<DamageItem | undefined> {
    return damageOf(await this.#damage(), point);
  }

  /** The entry of a disk in a point. */
  diskOf(point: RecoveryPoint, disk: DiskId): PointDisk {
    const found = point.disks.find((d) => d.disk === disk);
    if (found !== undefined) return found;
    throw new AfterimageError(`point ${point.number} has no disk ${disk}`, {
      code: 'disk-unknown',
      kind: 'usage',
      hint: `Its disks: ${point.disks.map((d) => d.disk).join(', ') || 'none'}.`,
    });
  }

  /** The last point that has a disk: where its chain ends. Null when that is not listed any more. */
  async endOf(disk: DiskId): Promise<{ readonly point: RecoveryPoint; readonly at: PointDisk } | null> {
    const point = await this.#pointNumbered(this.entryOf(disk)?.lastPoint ?? 0);
    const at = point?.disks.find((d) => d.disk === disk);
    return point === undefined || at === undefined ? null : { point, at };
  }

  /** Layers that a disk's content at a point is read from. */
  async layersFor(disk: DiskId, point: number): Promise<LayersAtPoint> {
    const bases = (await this.#bases(disk)).filter((b) => b.lastPoint <= point);
    const deltas: LayerRef[] = [];
    const take = (history: History): void => {
      for (const entry of history.deltas) {
        if (entry.disk !== disk || entry.layer.lastPoint > point) continue;
        (entry.layer.kind === 'base' ? bases : deltas).push(entry.layer);
      }
    };
    const pages = this.manifest.pages.filter((p) => p.firstPoint <= point);
    for (let i = 0; i < pages.length; i += PAGES_IN_FLIGHT) {
      const some = pages.slice(i, i + PAGES_IN_FLIGHT);
      for (const page of await Promise.all(some.map((p) => readHistoryPage(this.#store, p)))) take(page);
    }
    take(this.manifest.tail);
    return { bases, deltas: throughShortcuts(deltas, await this.#shortcuts(disk), point) };
  }

  entryOf(disk: DiskId): DiskEntry | undefined {
    return this.manifest.disks.find((d) => d.id === disk);
  }

  async #bases(disk: DiskId): Promise<LayerRef[]> {
    const ref = this.entryOf(disk)?.bases ?? null;
    return ref === null ? [] : readLayerList(this.#store, ref);
  }

  /** Those that aren't known to be damaged. A list that is broken costs speed, nothing else: the scrub tells of it, and upkeep makes a new one. */
  async #shortcuts(disk: DiskId): Promise<readonly LayerRef[]> {
    const ref = this.entryOf(disk)?.shortcuts;
    if (ref === undefined) return [];
    const shortcuts = await readLayerList(this.#store, ref).catch((error: unknown) => {
      if (error instanceof AfterimageError && error.kind === 'corrupt') return [];
      throw error;
    });
    if (shortcuts.length === 0) return [];
    const bad = (await this.#damage()).filter((item) => isOpen(item) && item.disk === disk);
    return shortcuts.filter((one) => !bad.some(({ layer }) => layer !== null && isSameRun(layer, one)));
  }

  async #pointNumbered(number: number): Promise<RecoveryPoint | undefined> {
    const page = this.manifest.pages.find((p) => p.firstPoint <= number && number <= p.lastPoint);
    const points = page === undefined ? this.manifest.tail.points : (await readHistoryPage(this.#store, page)).points;
    return points.find((p) => p.number === number);
  }

  async #newest(selector: Exclude<PointSelector, { by: 'number' }>): Promise<RecoveryPoint | undefined> {
    if (this.#behind !== null) throw notTheNewest(this.#behind);
    await this.#mustBeNewest();
    if (selector.by === 'newest') return (await this.pointsNewestFirst().next()).value as RecoveryPoint | undefined;
    const damage = await this.#damage();
    let passedOver: { readonly newest: number; readonly item: DamageItem; oldest: number } | undefined;
    for await (const point of this.pointsNewestFirst()) {
      if (!fits(point, selector)) continue;
      const item = damageOf(damage, point.number);
      if (item !== undefined) {
        passedOver ??= { newest: point.number, item, oldest: point.number };
        passedOver.oldest = point.number;
        continue;
      }
      if (passedOver !== undefined) {
        const { newest, oldest } = passedOver;
        const which = newest === oldest ? `point ${newest} is` : `points ${oldest} to ${newest} are`;
        this.concerns.push(`${which} passed over, since something is damaged that is needed: ${passedOver.item.what}`);
      }
      this.concerns.push(...this.#lacking(point));
      return point;
    }
    if (passedOver === undefined) return undefined;
    throw corrupt(
      'points-damaged',
      `every point ${describeSelector(selector)} of machine ${this.manifest.machine.name} is damaged: ${passedOver.item.what}`,
      'See `afterimage damage`; a damaged point is taken when it is asked for by number, as far as it can be read.',
    );
  }

  /** A machine that is started from it would miss them. */
  #lacking(point: RecoveryPoint): string[] {
    return lackingDisks(this.manifest, point).map(
      (disk) =>
        `point ${point.number} lacks ${lackingText([disk])}, which point ${disk.lastPoint} has: ${point.reason}. Choose one that has it by number if it is needed`,
    );
  }

  /** A scrub that saw a newer manifest is the witness that this one is not the truth. */
  async #mustBeNewest(): Promise<void> {
    const note = await this.#lookUp('notes of the scrub', () => loadScrubNote(this.#store, this.manifest.machine.id));
    const { number, lastPoint } = this.manifest;
    if (note === null || (note.head.manifest <= number && note.head.lastPoint <= lastPoint)) return;
    throw notTheNewest(
      corrupt(
        'manifest-lost',
        `manifest ${note.head.manifest} of machine ${this.manifest.machine.name} was seen on ${new Date(note.writtenAtMs).toISOString()}, the highest now is ${number}: newer ones are missing`,
      ),
    );
  }

  #damage(): Promise<readonly DamageItem[]> {
    const load = (): ReturnType<typeof loadDamage> => loadDamage(this.#store, this.manifest.machine.id);
    // Asked for once: a view is of one moment.
    this.#items ??= this.#lookUp('list of what is damaged', load).then((damage) => damage?.items ?? []);
    return this.#items;
  }

  /** What helps to choose must not stand in the way of a recovery when it is broken itself: whatever is read is proven anyway. */
  async #lookUp<T>(what: string, load: () => Promise<T | null>): Promise<T | null> {
    try {
      return await load();
    } catch (error) {
      if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') throw error;
      this.concerns.push(`the ${what} can not be read, so what it says is not known: ${error.message}`);
      return null;
    }
  }
}

function fits(point: RecoveryPoint, selector: PointSelector): boolean {
  if (selector.by === 'time') return point.cutAtMs <= selector.atMs;
  return selector.by !== 'latest' || selector.levels.includes(point.consistency);
}

/** A machine without a manifest, of which a scrub has seen one. */
export const allLost = (machine: MachineId, note: ScrubNote): AfterimageError =>
  corrupt(
    'manifest-lost',
    `machine ${machine} has no manifest, and had manifest ${note.head.manifest} with points up to ${note.head.lastPoint} on ${new Date(note.writtenAtMs).toISOString()}`,
    'Bring its manifests back from a copy of the store.',
  );

const notTheNewest = (why: AfterimageError): AfterimageError =>
  new AfterimageError(`the latest point can not be told: ${why.message}`, {
    code: why.code,
    kind: 'corrupt',
    hint: 'Bring the manifest back from a copy of the store, or give an older point by its number: see `afterimage points`.',
  });

/** The newest manifest that can be read below a broken one; null when there is none. */
async function newestReadable(store: ObjectStore, machine: MachineId): Promise<Manifest | null> {
  const numbers: number[] = [];
  for await (const { name } of store.list(manifestPrefix(machine))) numbers.push(numberOfName(name));
  for (const number of numbers.reverse().slice(0, OLDER_TRIES)) {
    try {
      const manifest = await readManifest(store, machine, number);
      checkManifest(manifest);
      return manifest;
    } catch (error) {
      if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') throw error;
    }
  }
  return null;
}
