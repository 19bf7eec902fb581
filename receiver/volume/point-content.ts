/**
 * What a disk held at a point, by random access: from layers in the store, nothing local. Owns no state that matters and never writes.
 *
 * Opening loads the indexes of the deltas that count, each once, and none of the bases'; those are loaded when their segment is first touched.
 * Memory: the point map (8 bytes per run of changed blocks, 8 per segment), the references of the layers (about 200 bytes each), the last few decoded
 * chunks (DECODED_CHUNKS_KEPT), and the shared index cache. Keeping data is the caller's business, who is given all of a chunk that was read.
 */
import { segmentBlocks, segmentOf, type Geometry } from '../../shared/blocks/geometry.js';
import { ZERO_HASH } from '../../shared/blocks/hash.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import { READS_IN_FLIGHT } from '../../shared/limits.js';
import type { LayerRef, RecoveryPoint } from '../catalog/manifest.js';
import type { MachineReader, PointDisk } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import { ChunkFetcher } from './chunk-fetcher.js';
import type { ContentRun, PointContent, TakeExtra } from './content.js';
import type { IndexCache } from './index-cache.js';
import { LayerReader } from './layer-reader.js';
import { loadIndexes } from './load-indexes.js';
import { planPoint } from './plan-point.js';
import { byLayer, NO_LAYER, PointMap, type Runs } from './point-map.js';
import { readBeside } from './read-beside.js';
import type { SharedRoom } from './threads/shared-room.js';
import { workOfRuns, type Piece } from './unit-work.js';

/** Throws kind `corrupt` or `io` when the layers' indexes can't be read. */
export async function openPointContent(
  store: ObjectStore,
  view: MachineReader,
  point: RecoveryPoint,
  disk: PointDisk,
  cache: IndexCache,
  signal?: AbortSignal,
): Promise<PointContent> {
  const owner = { machine: view.manifest.machine.id, disk: disk.disk, blockBytes: disk.blockBytes };
  const reader = new LayerReader(store, owner, cache);
  await reader.keys.require(disk);
  const layers = await view.layersFor(disk.disk, point.number);
  return new LayerContent(reader, new PointMap(await planPoint(reader, disk, layers, signal)));
}

export class LayerContent implements PointContent {
  readonly geometry: Geometry;
  readonly #reader: LayerReader;
  readonly #map: PointMap;
  readonly #fetcher: ChunkFetcher;

  readonly isNear: boolean;

  constructor(reader: LayerReader, map: PointMap) {
    this.geometry = map.geometry;
    this.isNear = reader.isNear;
    this.#reader = reader;
    this.#map = map;
    this.#fetcher = new ChunkFetcher(reader, map);
  }

  get canReadBeside(): boolean {
    return this.#reader.takesThreads;
  }

  async runs(first: number, count: number): Promise<readonly ContentRun[]> {
    this.#check(first, count);
    const runs: ContentRun[] = [];
    let at = first;
    const add = (end: number, zero: boolean): void => {
      if (end <= at) return;
      const last = runs.at(-1);
      if (last?.zero === zero) runs[runs.length - 1] = { ...last, count: end - last.first };
      else runs.push({ first: at, count: end - at, zero });
      at = end;
    };
    for (const part of this.#segments(first, count)) {
      for (const [from, n] of await this.#data(part.first, part.count)) {
        add(from, true);
        add(from + n, false);
      }
      add(part.first + part.count, true);
    }
    return runs;
  }

  async read(first: number, count: number, into: Buffer, extra?: TakeExtra): Promise<void> {
    this.#check(first, count);
    const { blockBytes } = this.geometry;
    if (into.length !== count * blockBytes) {
      throw new Error(`a buffer of ${into.length} bytes for ${count} blocks of ${blockBytes}`);
    }
    const zero = (runs: Runs): void => {
      for (const [from, n] of runs) into.fill(0, (from - first) * blockBytes, (from + n - first) * blockBytes);
    };
    const take = (pieces: readonly Piece[], plain: Buffer, rest: boolean): boolean => {
      for (const piece of pieces) {
        const from = Math.max(piece.first, first);
        const end = Math.min(piece.first + piece.count, first + count);
        if (from < end) {
          const start = (piece.position + from - piece.first) * blockBytes;
          plain.copy(into, (from - first) * blockBytes, start, start + (end - from) * blockBytes);
        }
        if (!rest || extra === undefined || (from === piece.first && end === piece.first + piece.count)) continue;
        const start = piece.position * blockBytes;
        extra(piece.first, piece.count, plain.subarray(start, start + piece.count * blockBytes));
      }
      return extra !== undefined;
    };
    const layers = byLayer(this.#map, first, count);
    zero(layers.get(NO_LAYER) ?? []);
    layers.delete(NO_LAYER);
    const queue = layers.entries();
    const worker = async (): Promise<void> => {
      for (const [layer, runs] of queue) {
        const index = await this.#index(layer);
        const work = workOfRuns(index, runs);
        zero(work.zeroes as Runs);
        await this.#fetcher.fetch(layer, index, [...new Set(work.pieces.map((p) => p.chunk))], take);
      }
    };
    // All must have ended before a failure is told: `into` belongs to the caller again from then on.
    const ended = await Promise.allSettled(Array.from({ length: Math.min(READS_IN_FLIGHT, layers.size) }, worker));
    for (const result of ended) if (result.status === 'rejected') throw result.reason;
  }

  readBeside(first: number, count: number, room: SharedRoom, offset: number): Promise<boolean> {
    this.#check(first, count);
    return readBeside(this.#reader, this.#map, { first, count }, room, offset);
  }

  async hashes(first: number, count: number): Promise<BigUint64Array> {
    this.#check(first, count);
    const hashes = new BigUint64Array(count);
    for (const part of this.#segments(first, count)) {
      await this.#eachPiece(part.first, part.count, (piece, index) => {
        hashes.set(index.hashes.subarray(piece.hashAt, piece.hashAt + piece.count), piece.first - first);
      });
    }
    return hashes;
  }

  /** Runs of blocks that are not known to be zero, ascending. */
  async #data(first: number, count: number): Promise<Runs> {
    const data: [number, number][] = [];
    await this.#eachPiece(first, count, (piece, index) => {
      let from = 0;
      for (let i = 0; i <= piece.count; i++) {
        if (i < piece.count && index.hashes[piece.hashAt + i] !== ZERO_HASH) continue;
        if (i > from) data.push([piece.first + from, i - from]);
        from = i + 1;
      }
    });
    return data.sort((a, b) => a[0] - b[0]);
  }

  async #eachPiece(first: number, count: number, use: (piece: Piece, index: LayerIndex) => void): Promise<void> {
    const layers = byLayer(this.#map, first, count);
    layers.delete(NO_LAYER);
    const runs = layers.values();
    const refs = [...layers.keys()].map((layer) => this.#map.layers[layer] as LayerRef);
    for await (const [, index] of loadIndexes(this.#reader, refs)) {
      for (const piece of workOfRuns(index, runs.next().value ?? []).pieces) use(piece, index);
    }
  }

  #index(layer: number): Promise<LayerIndex> {
    return this.#reader.index(this.#map.layers[layer] as LayerRef);
  }

  /** A range segment by segment, so that what is resolved at once is bounded. */
  *#segments(first: number, count: number): Generator<{ first: number; count: number }> {
    const end = first + count;
    for (let at = first; at < end;) {
      const segment = segmentBlocks(this.geometry, segmentOf(this.geometry, at));
      const partEnd = Math.min(end, segment.first + segment.count);
      yield { first: at, count: partEnd - at };
      at = partEnd;
    }
  }

  #check(first: number, count: number): void {
    const inside = first >= 0 && count >= 0 && first + count <= this.geometry.blockCount;
    if (!inside) throw new Error(`blocks ${first}+${count} of a disk of ${this.geometry.blockCount}`);
  }
}
