/**
 * A machine's whole history at one manifest, as upkeep's plans need it: all points, all layers of each disk, and in which page they stand.
 * Reads what the manifest names, checked on the way in. Pages and lists are immutable, so what was read once is kept for the next run, up to a bound.
 */
import { AfterimageError } from '../../shared/errors.js';
import { PAGE_CACHE_BYTES_MAX } from '../../shared/limits-upkeep.js';
import type { DiskId } from '../../shared/units.js';
import type { DiskEntry, History, LayerRef, ListRef, Manifest, PageRef, RecoveryPoint } from '../catalog/manifest.js';
import { readHistoryPage, readLayerList } from '../catalog/manifest-io.js';
import type { ObjectStore } from '../store/store.js';
import { compareLayers } from '../volume/read-plan.js';
import { historyBytes } from './edit-history.js';

export interface PageContent {
  readonly ref: PageRef;
  readonly history: History;
}

export interface DiskHistory {
  readonly entry: DiskEntry;
  /** Oldest first: those of the disk's list, and such as stand among the deltas. */
  readonly bases: readonly LayerRef[];
  /** Those of the list alone. */
  readonly listedBases: readonly LayerRef[];
  /** Oldest first. Those that stand in pages and tail; not what is staged. */
  readonly deltas: readonly LayerRef[];
  /** Layers of sweeps that no point holds yet: never merged, never deleted. */
  readonly staged: readonly LayerRef[];
  /** Read in place of deltas that they stand for (catalog/shortcuts.ts). Null: their list can't be read; a new one makes up for it. */
  readonly shortcuts: readonly LayerRef[] | null;
  /**
   * Numbers of the listed points that hold the disk, ascending, and its own last one: a disk that left the machine, or isn't back yet, keeps its last
   * state also when no listed point holds it, since its agent may go on from there.
   */
  readonly points: readonly number[];
}

export interface MachineHistory {
  readonly manifest: Manifest;
  readonly pages: readonly PageContent[];
  readonly points: readonly RecoveryPoint[];
  readonly disks: ReadonlyMap<DiskId, DiskHistory>;
}

/** Immutable objects of the catalog, by name. Bounded; what doesn't fit is read again. */
export class CatalogCache {
  readonly #store: ObjectStore;
  readonly #pages = new Map<string, History>();
  readonly #lists = new Map<string, readonly LayerRef[]>();
  #bytes = 0;

  constructor(store: ObjectStore) {
    this.#store = store;
  }

  async page(ref: PageRef): Promise<History> {
    const key = `${ref.name} ${ref.checksum}`;
    const known = this.#pages.get(key);
    if (known !== undefined) return known;
    const history = await readHistoryPage(this.#store, ref);
    this.#keep(this.#pages, key, history, historyBytes(history));
    return history;
  }

  async list(ref: ListRef | null): Promise<readonly LayerRef[]> {
    if (ref === null) return [];
    const key = `${ref.name} ${ref.checksum}`;
    const known = this.#lists.get(key);
    if (known !== undefined) return known;
    const layers = await readLayerList(this.#store, ref);
    this.#keep(this.#lists, key, layers, layers.length * 200);
    return layers;
  }

  #keep<T>(where: Map<string, T>, key: string, value: T, bytes: number): void {
    if (this.#bytes + bytes > PAGE_CACHE_BYTES_MAX) {
      this.#pages.clear();
      this.#lists.clear();
      this.#bytes = 0;
    }
    if (bytes > PAGE_CACHE_BYTES_MAX) return;
    where.set(key, value);
    this.#bytes += bytes;
  }
}

export async function loadHistory(cache: CatalogCache, manifest: Manifest): Promise<MachineHistory> {
  const pages: PageContent[] = [];
  for (const ref of manifest.pages) pages.push({ ref, history: await cache.page(ref) });
  const all = [...pages.map((page) => page.history), manifest.tail];
  const points = all.flatMap((history) => history.points);
  const disks = new Map<DiskId, DiskHistory>();
  for (const entry of manifest.disks) {
    const entries = all.flatMap((history) => history.deltas.filter((d) => d.disk === entry.id).map((d) => d.layer));
    const listedBases = await cache.list(entry.bases);
    const bases = [...listedBases, ...entries.filter((layer) => layer.kind === 'base')];
    disks.set(entry.id, {
      entry,
      bases: bases.sort(compareLayers),
      listedBases,
      deltas: entries.filter((layer) => layer.kind === 'delta').sort(compareLayers),
      staged: await cache.list(entry.staged),
      shortcuts: await shortcutsOf(cache, entry),
      points: pointsOf(entry, points),
    });
  }
  return { manifest, pages, points, disks };
}

async function shortcutsOf(cache: CatalogCache, { shortcuts }: DiskEntry): Promise<readonly LayerRef[] | null> {
  try {
    return await cache.list(shortcuts ?? null);
  } catch (error) {
    if (error instanceof AfterimageError && error.kind === 'corrupt') return null;
    throw error;
  }
}

function pointsOf({ id, lastPoint }: DiskEntry, points: readonly RecoveryPoint[]): number[] {
  const numbers = points.filter((p) => p.disks.some((d) => d.disk === id)).map((p) => p.number);
  if (lastPoint > 0 && numbers.at(-1) !== lastPoint) numbers.push(lastPoint);
  return numbers.sort((a, b) => a - b);
}
