/**
 * Block hashes of a disk as the store has it (last point plus what is staged), for an agent whose hash store is in doubt.
 * Reads indexes only, no data. The plan is made once and kept until the state changes: an agent that lost its hash store asks for all segments.
 */
import type { MachineId } from '../../shared/units.js';
import type { Manifest } from '../catalog/manifest.js';
import { MachineReader } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import { hashesOfSegment } from '../volume/block-hashes.js';
import { IndexCache } from '../volume/index-cache.js';
import { LayerReader } from '../volume/layer-reader.js';
import { planPoint } from '../volume/plan-point.js';
import type { ReadPlan } from '../volume/read-plan.js';
import type { DiskIngest } from './disk-ingest.js';

interface Planned {
  readonly key: string;
  readonly reader: LayerReader;
  readonly plan: ReadPlan;
}

export class SegmentHashes {
  readonly #store: ObjectStore;
  readonly #machine: MachineId;
  readonly #cache = new IndexCache();
  #planned: Planned | null = null;

  constructor(store: ObjectStore, machine: MachineId) {
    this.#store = store;
    this.#machine = machine;
  }

  /** u64 LE per block of the segment, 0 for zero blocks. */
  async of(manifest: Manifest, disk: DiskIngest, segment: number): Promise<Uint8Array<ArrayBuffer>> {
    const { reader, plan } = await this.#plan(manifest, disk);
    const hashes = await hashesOfSegment(reader, plan, segment);
    return new Uint8Array(hashes.buffer as ArrayBuffer, hashes.byteOffset, hashes.byteLength);
  }

  async #plan(manifest: Manifest, disk: DiskIngest): Promise<Planned> {
    const key = `${disk.id} ${manifest.number} ${disk.staged.length}`;
    if (this.#planned?.key === key) return this.#planned;
    const { blockBytes, sizeBytes } = disk.geometry;
    const reader = new LayerReader(this.#store, { machine: this.#machine, disk: disk.id, blockBytes }, this.#cache);
    const known = await new MachineReader(this.#store, manifest).layersFor(disk.id, manifest.lastPoint);
    const layers = {
      bases: [...known.bases, ...disk.staged.filter((l) => l.kind === 'base')],
      deltas: [...known.deltas, ...disk.staged.filter((l) => l.kind === 'delta')],
    };
    const plan = await planPoint(reader, { disk: disk.id, sizeBytes, blockBytes, digest: '0'.repeat(16) }, layers);
    this.#planned = { key, reader, plan };
    return this.#planned;
  }
}
