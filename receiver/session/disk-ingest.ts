/**
 * Layers of one disk within one session: the open layer of a sweep's segment, the parts of the running cycle, and what is staged.
 * Writes only; which point they belong to is decided at the commit. On a crash, unfinished layers leave nothing behind.
 */
import type { Geometry } from '../../shared/blocks/geometry.js';
import { segmentBlocks } from '../../shared/blocks/geometry.js';
import type { ChunkHeader } from '../../shared/layer/chunk.js';
import type { DataHeader } from '../../shared/wire/messages.js';
import { protocolError } from '../../shared/wire/messages.js';
import type { DiskId, MachineId, SeriesId } from '../../shared/units.js';
import type { DiskEntry, LayerRef } from '../catalog/manifest.js';
import type { OwnedMachine } from '../catalog/owned-machine.js';
import type { ObjectStore } from '../store/store.js';
import { LayerWriter } from '../catalog/layer-writer.js';

interface OpenSegment {
  readonly segment: number;
  readonly target: 'sweep-base' | 'sweep-delta';
  readonly writer: LayerWriter;
}

export interface DiskIngestDeps {
  readonly store: ObjectStore;
  readonly owned: OwnedMachine;
  readonly machine: MachineId;
  /** Check value of the key of the agent's hashes; '' when it doesn't encrypt. */
  readonly hashCheck: string;
}

export class DiskIngest {
  readonly id: DiskId;
  readonly geometry: Geometry;
  readonly #deps: DiskIngestDeps;
  readonly #series: SeriesId | null;
  /** Durable layers of sweeps, oldest first. */
  staged: LayerRef[];
  #segment: OpenSegment | null = null;
  #cycle: LayerWriter | null = null;
  #cycleParts: LayerRef[] = [];

  constructor(deps: DiskIngestDeps, id: DiskId, geometry: Geometry, series: SeriesId | null, staged: LayerRef[]) {
    this.#deps = deps;
    this.id = id;
    this.geometry = geometry;
    this.#series = series;
    this.staged = staged;
  }

  get hashCheck(): string {
    return this.#deps.hashCheck;
  }

  get entry(): DiskEntry | undefined {
    return this.#deps.owned.manifest.disks.find((d) => d.id === this.id);
  }

  async append(data: DataHeader, chunk: Buffer, header: ChunkHeader): Promise<void> {
    this.#check(data, header);
    const writer = data.target === 'cycle' ? await this.#cycleWriter() : await this.#segmentWriter(data);
    await writer.append(chunk, header);
  }

  checkSegment(segment: number): void {
    if (segment >= this.geometry.segmentCount)
      throw protocolError(`segment ${segment} of disk ${this.id} does not exist`);
  }

  /** Takes the segment's layer off the disk's hands, to be finished by the caller; null when the segment held nothing to send. */
  endSegment(segment: number, target: 'sweep-base' | 'sweep-delta'): LayerWriter | null {
    this.checkSegment(segment);
    const open = this.#segment;
    if (open === null) return null;
    if (open.segment !== segment || open.target !== target) {
      throw protocolError(`segment ${segment} of disk ${this.id} ends while segment ${open.segment} is open`);
    }
    this.#segment = null;
    return open.writer;
  }

  /** Finishes the running cycle's layers and returns them, oldest first. */
  async finishCycle(): Promise<LayerRef[]> {
    if (this.#segment !== null)
      throw protocolError(`a commit of disk ${this.id} while segment ${this.#segment.segment} is open`);
    const writer = this.#cycle;
    const parts = this.#cycleParts;
    this.#cycle = null;
    if (writer !== null) parts.push(await writer.finish());
    return parts;
  }

  /** After the commit: the next cycle begins with nothing. */
  committed(): void {
    this.#deps.owned.landed([...this.staged, ...this.#cycleParts]);
    this.#cycleParts = [];
    this.staged = [];
  }

  /** Throws the running cycle away, which no commit asks for any more; finished parts become orphans. */
  async dropCycle(): Promise<void> {
    this.#deps.owned.landed(this.#cycleParts);
    await this.#abortCycle();
  }

  /** The session ends. A commit of the cycle may be in doubt: its parts stay in flight for this epoch. */
  async abort(): Promise<void> {
    await this.#abortCycle();
    const open = this.#segment;
    this.#segment = null;
    await open?.writer.abort();
  }

  async #abortCycle(): Promise<void> {
    const writer = this.#cycle;
    this.#cycle = null;
    this.#cycleParts = [];
    await writer?.abort();
  }

  #check(data: DataHeader, header: ChunkHeader): void {
    const { blockBytes, blockCount } = this.geometry;
    if (header.blockBytes !== blockBytes)
      throw protocolError(`chunk of disk ${this.id} has blocks of ${header.blockBytes} bytes`);
    // What the agent said at hello holds for all that it sends: nothing in the clear slips in among what is encrypted.
    if ((header.seal?.keyed === true) !== (this.hashCheck !== '') || header.seal?.keyed === false)
      throw protocolError(
        `chunk of disk ${this.id} is ${header.seal === null ? 'in the clear' : 'encrypted'}, unlike hello says`,
      );
    // Bases are what the first point stands on: a later one would replace what points hold.
    if (data.target === 'sweep-base' && (this.entry?.lastPoint ?? 0) > 0)
      throw protocolError(`a first copy of disk ${this.id}, which has points`);
    let first = 0;
    let end = blockCount;
    if (data.segment !== null) {
      this.checkSegment(data.segment);
      const range = segmentBlocks(this.geometry, data.segment);
      first = range.first;
      end = range.first + range.count;
    }
    const low = header.extents[0];
    const high = header.extents[header.extents.length - 1];
    if (low === undefined || high === undefined || low.first < first || high.first + high.count > end) {
      throw protocolError(
        `chunk of disk ${this.id} lies outside of ${data.segment === null ? 'the disk' : `segment ${data.segment}`}`,
      );
    }
  }

  async #cycleWriter(): Promise<LayerWriter> {
    if (this.#cycle?.isFull === true) {
      this.#cycleParts.push(await this.#cycle.finish());
      this.#cycle = null;
    }
    this.#cycle ??= await this.#open('delta', null);
    return this.#cycle;
  }

  async #segmentWriter(data: DataHeader): Promise<LayerWriter> {
    const { segment, target } = data;
    if (target === 'restore') throw protocolError('data of a restore from the agent');
    if (segment === null || target === 'cycle') throw protocolError('sweep data without a segment');
    const open = this.#segment;
    if (open !== null) {
      if (open.segment === segment && open.target === target) return open.writer;
      throw protocolError(`data of segment ${segment} of disk ${this.id} while segment ${open.segment} is open`);
    }
    const writer = await this.#open(target === 'sweep-base' ? 'base' : 'delta', segment);
    this.#segment = { segment, target, writer };
    return writer;
  }

  #open(kind: 'base' | 'delta', segment: number | null): Promise<LayerWriter> {
    const { owned, machine, store } = this.#deps;
    // A first copy is the state before the first point; deltas belong to the point to come.
    const point = kind === 'base' ? 0 : owned.manifest.lastPoint + 1;
    return LayerWriter.open(store, {
      kind,
      blockBytes: this.geometry.blockBytes,
      segment,
      firstPoint: point,
      lastPoint: point,
      epoch: owned.epoch,
      sequence: owned.nextSequence(),
      machineId: machine,
      diskId: this.id,
      seriesId: this.#series ?? '',
    });
  }
}
