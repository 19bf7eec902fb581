/**
 * A disk at a point, as a restore would read it: by the real read plan and its checks, from the objects as they lie in the store. Each chunk is decoded
 * and proven once.
 */
import { digestToText } from '../../shared/blocks/hash.js';
import { CHUNK_PLAIN_BYTES_MAX } from '../../shared/limits.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import type { DiskId } from '../../shared/units.js';
import type { LayerRef, RecoveryPoint } from '../../receiver/catalog/manifest.js';
import type { MachineReader, PointDisk } from '../../receiver/catalog/reader.js';
import { digestOfUnit } from '../../receiver/volume/block-hashes.js';
import { provePieces } from '../../receiver/volume/chunk-check.js';
import { IndexCache } from '../../receiver/volume/index-cache.js';
import { LayerReader } from '../../receiver/volume/layer-reader.js';
import { planPoint } from '../../receiver/volume/plan-point.js';
import { byChunk, workOf, type Piece } from '../../receiver/volume/unit-work.js';
import { parseBlock } from './blocks.js';
import type { SimDisk } from './disk.js';
import type { SimMachine } from './machine.js';
import type { SimStore } from './store.js';

/** Contents of a chunk's blocks by their position: two numbers each. */
type Contents = Map<number, Int32Array>;

export interface Image {
  readonly low: Int32Array;
  readonly high: Int32Array;
}

export class Images {
  readonly #store: SimStore;
  readonly #violated: (what: string) => void;
  #indexes = new IndexCache();
  readonly #contents = new Map<string, Contents>();
  readonly #plain = Buffer.alloc(CHUNK_PLAIN_BYTES_MAX);

  constructor(store: SimStore, violated: (what: string) => void) {
    this.#store = store;
    this.#violated = violated;
  }

  /** An object is not what it was: it is read anew from now on. */
  forget(name: string): void {
    this.#indexes = new IndexCache();
    for (const key of this.#contents.keys()) if (key.startsWith(`${name} `)) this.#contents.delete(key);
  }

  /** What can not be read throws; what reads as it never was is told. */
  async of(
    reader: MachineReader,
    machine: SimMachine,
    disk: SimDisk,
    point: RecoveryPoint,
    at: PointDisk,
  ): Promise<Image> {
    const layerReader = this.#layerReader(machine, at.disk, at.blockBytes);
    const plan = await planPoint(layerReader, at, await reader.layersFor(at.disk, point.number));
    const image = { low: new Int32Array(disk.geometry.blockCount), high: new Int32Array(disk.geometry.blockCount) };
    let digest = 0n;
    for (const unit of plan.units) {
      digest ^= await digestOfUnit(layerReader, plan, unit);
      if (unit.kind === 'zero') continue;
      const index = await layerReader.index(unit.layer);
      const { pieces } = workOf(plan, unit, index);
      const chunks = [...byChunk(pieces).keys()];
      const contents = await this.#contentsOf(layerReader, unit.layer, index, disk, chunks);
      for (const piece of pieces) {
        const chunk = contents.get(piece.chunk);
        for (let i = 0; i < piece.count; i++) {
          image.low[piece.first + i] = chunk?.[(piece.position + i) * 2] ?? -1;
          image.high[piece.first + i] = chunk?.[(piece.position + i) * 2 + 1] ?? -1;
        }
      }
    }
    if (digestToText(digest) !== at.digest) {
      this.#violated(
        `${machine.name} point ${point.number} ${at.disk}: digest ${digestToText(digest)}, listed ${at.digest}`,
      );
    }
    return image;
  }

  #layerReader(machine: SimMachine, disk: DiskId, blockBytes: number): LayerReader {
    return new LayerReader(this.#store, { machine: machine.id, disk, blockBytes }, this.#indexes);
  }

  /** Decodes and proves chunks of a layer once. Those that aren't needed may have rotted. */
  async #contentsOf(
    reader: LayerReader,
    layer: LayerRef,
    index: LayerIndex,
    disk: SimDisk,
    chunks: readonly number[],
  ): Promise<Contents> {
    const name = `${reader.nameOf(layer)} ${layer.indexChecksum}`;
    const contents = this.#contents.get(name) ?? new Map<number, Int32Array>();
    this.#contents.set(name, contents);
    const unknown = chunks.filter((chunk) => !contents.has(chunk));
    if (unknown.length === 0) return contents;
    const pieces = byChunk(dataPieces(index));
    const { blockBytes } = disk.geometry;
    const plain = this.#plain;
    const scratch = Buffer.alloc(blockBytes);
    for await (const chunk of reader.chunks(layer, index, unknown)) {
      const mine = pieces.get(chunk.number) ?? [];
      provePieces(reader.nameOf(layer), index, chunk, mine, plain);
      const halves = new Int32Array(chunk.header.dataBlocks * 2).fill(-1);
      for (const piece of mine) {
        for (let i = 0; i < piece.count; i++) {
          const position = piece.position + i;
          const block = plain.subarray(position * blockBytes, (position + 1) * blockBytes);
          const parsed = parseBlock(block, disk.number, piece.first + i, scratch);
          if (parsed === null) {
            this.#violated(`${reader.nameOf(layer)}: block ${piece.first + i} holds what was never written to it`);
            continue;
          }
          halves[position * 2] = parsed.low;
          halves[position * 2 + 1] = parsed.high;
        }
      }
      contents.set(chunk.number, halves);
    }
    return contents;
  }
}

function dataPieces(index: LayerIndex): Piece[] {
  const pieces: Piece[] = [];
  for (let i = 0; i < index.first.length; i++) {
    if (index.zero[i] === 1) continue;
    pieces.push({
      chunk: index.chunk[i] ?? 0,
      first: index.first[i] ?? 0,
      count: index.count[i] ?? 0,
      position: index.position[i] ?? 0,
      hashAt: index.hashAt[i] ?? 0,
    });
  }
  return pieces;
}
