/**
 * Block hashes of a disk as the store has it (last point plus what is staged), for an agent whose hash store is in doubt.
 * Reads indexes only, no data. The plan is made once and kept until the state changes: an agent that lost its hash store asks for all segments.
 *
 * What a damaged layer had isn't known: the answer is empty then, and the agent sends all of the segment. To end the session instead would keep the agent
 * away for ever, and with it the blocks that mend the damage.
 */
import { AfterimageError } from '../../shared/errors.js';
import type { Logger } from '../../shared/log.js';
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
  readonly #log: Logger;
  readonly #cache = new IndexCache();
  #planned: Planned | null = null;
  /** No plan can be made in this state. */
  #damaged: string | null = null;

  constructor(store: ObjectStore, machine: MachineId, log: Logger) {
    this.#store = store;
    this.#machine = machine;
    this.#log = log;
  }

  /** u64 LE per block of the segment, 0 for zero blocks; empty when it isn't known. */
  async of(manifest: Manifest, disk: DiskIngest, segment: number): Promise<Uint8Array<ArrayBuffer>> {
    const key = `${disk.id} ${manifest.number} ${disk.staged.length}`;
    if (this.#damaged === key) return new Uint8Array();
    try {
      const { reader, plan } = await this.#plan(key, manifest, disk);
      const hashes = await hashesOfSegment(reader, plan, segment);
      return new Uint8Array(hashes.buffer as ArrayBuffer, hashes.byteOffset, hashes.byteLength);
    } catch (error) {
      if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') throw error;
      if (this.#planned?.key !== key) this.#damaged = key;
      this.#log.warn(
        { disk: disk.id, segment, err: error },
        'hashes of a damaged layer were asked for: the agent sends all of it',
      );
      return new Uint8Array();
    }
  }

  async #plan(key: string, manifest: Manifest, disk: DiskIngest): Promise<Planned> {
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
