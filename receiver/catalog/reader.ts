/**
 * Read-only view of one machine's catalog at its highest manifest. Everything is checked on the way in: seal, version, number, machine,
 * and the checksums of the pages and lists that the manifest names. History pages are read on demand and not kept, so memory is bounded
 * however long the history is. Holds no lock and no state in the store; a view stays valid until its layers are collected.
 */
import type { z } from 'zod';
import { AfterimageError, corrupt } from '../../shared/errors.js';
import type { DiskId, MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import type { DiskEntry, History, LayerRef, Manifest, pointDiskSchema, RecoveryPoint } from './manifest.js';
import { readBoundary, readHighestManifest, readHistoryPage, readLayerList } from './manifest-io.js';
import { describeSelector, type PointSelector } from './point-selector.js';

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

export class MachineReader {
  readonly manifest: Manifest;
  readonly #store: ObjectStore;

  constructor(store: ObjectStore, manifest: Manifest) {
    this.#store = store;
    this.manifest = manifest;
  }

  /** Throws kind `not-found` for a machine without a manifest. */
  static async open(store: ObjectStore, machine: MachineId): Promise<MachineReader> {
    const manifest = await loadHead(store, machine);
    if (manifest !== null) return new MachineReader(store, manifest);
    throw new AfterimageError(`machine ${machine} has no recovery point yet`, {
      code: 'machine-empty',
      kind: 'not-found',
      hint: 'Its first copy is not complete; see the state of its agent.',
    });
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

  async findPoint(selector: PointSelector): Promise<RecoveryPoint> {
    const found = selector.by === 'number' ? await this.#pointNumbered(selector.number) : await this.#newest(selector);
    if (found !== undefined) return found;
    throw new AfterimageError(`machine ${this.manifest.machine.name} has no point ${describeSelector(selector)}`, {
      code: 'point-unknown',
      kind: 'usage',
      hint: `See \`afterimage points ${this.manifest.machine.name}\`.`,
    });
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

  /** Layers that a disk's content at a point is made of. */
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
    return { bases, deltas };
  }

  entryOf(disk: DiskId): DiskEntry | undefined {
    return this.manifest.disks.find((d) => d.id === disk);
  }

  async #bases(disk: DiskId): Promise<LayerRef[]> {
    const ref = this.entryOf(disk)?.bases ?? null;
    if (ref === null) return [];
    const layers = await readLayerList(this.#store, ref);
    if (layers.length === ref.count) return layers;
    throw corrupt('list-invalid', `list ${ref.name} has ${layers.length} layers, its manifest says ${ref.count}`);
  }

  async #pointNumbered(number: number): Promise<RecoveryPoint | undefined> {
    const page = this.manifest.pages.find((p) => p.firstPoint <= number && number <= p.lastPoint);
    const points = page === undefined ? this.manifest.tail.points : (await readHistoryPage(this.#store, page)).points;
    return points.find((p) => p.number === number);
  }

  async #newest(selector: Exclude<PointSelector, { by: 'number' }>): Promise<RecoveryPoint | undefined> {
    for await (const point of this.pointsNewestFirst()) {
      if (selector.by === 'time' ? point.cutAtMs <= selector.atMs : selector.levels.includes(point.consistency))
        return point;
    }
    return undefined;
  }
}
