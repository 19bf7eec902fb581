/**
 * Writes one layer: header, chunks as they arrive, index, footer, streamed into one object.
 * The layer exists when finish() resolves; a crash before that leaves nothing under its name.
 * Of a machine that the receiver encrypts, chunks and the index's hashes are encrypted here, whoever writes; of one that its source encrypts, only
 * chunks that are encrypted are taken.
 */
import { digestToText } from '../../shared/blocks/hash.js';
import { AfterimageError } from '../../shared/errors.js';
import { failpoint } from '../../shared/failpoints.js';
import { sealChunk, type ChunkHeader, type ChunkSealer } from '../../shared/layer/chunk.js';
import type { WritesAs } from '../../shared/crypto/machine-cipher.js';
import {
  decodeFooter,
  encodeLayerHeader,
  LAYER_FOOTER_BYTES,
  LayerIndexBuilder,
  type LayerIdentity,
} from '../../shared/layer/layer.js';
import { LAYER_STORED_BYTES_MAX, WRITE_BATCH_BYTES } from '../../shared/limits.js';
import { asDiskId, asMachineId } from '../../shared/units.js';
import type { LayerRef } from './manifest.js';
import { layerName } from './names.js';
import type { ObjectStore, ObjectWriter } from '../store/store.js';
import { keysOf } from './store-keys.js';

export class LayerWriter {
  readonly #identity: LayerIdentity;
  readonly #name: string;
  readonly #writer: ObjectWriter;
  readonly #index = new LayerIndexBuilder();
  #batch: Buffer[];
  #batchBytes: number;
  readonly #writesAs: WritesAs;
  readonly #isMove: boolean;
  readonly #sealer: ChunkSealer | null;

  private constructor(
    identity: LayerIdentity,
    name: string,
    writer: ObjectWriter,
    writesAs: WritesAs,
    sealer: ChunkSealer | null,
    isMove: boolean,
  ) {
    this.#isMove = isMove;
    this.#writesAs = writesAs;
    this.#sealer = sealer;
    this.#identity = identity;
    this.#name = name;
    this.#writer = writer;
    const header = encodeLayerHeader(identity);
    this.#batch = [header];
    this.#batchBytes = header.length;
  }

  /** `purpose` move: what comes is in the store already. What lies there in the clear, from before its source encrypted, may then stay so. */
  static async open(
    store: ObjectStore,
    identity: LayerIdentity,
    purpose: 'new' | 'move' = 'new',
  ): Promise<LayerWriter> {
    const ref = { ...identity, sizeBytes: 0, indexChecksum: '' };
    const name = layerName(asMachineId(identity.machineId), asDiskId(identity.diskId), ref);
    const cipher = await keysOf(store).cipherForWriting(asMachineId(identity.machineId));
    const sealer = cipher.writesAs === 'receiver' ? cipher.sealer(identity.diskId) : null;
    const writer = await store.openWriter(name);
    failpoint('receiver.ingest.layer-open');
    return new LayerWriter(identity, name, writer, cipher.writesAs, sealer, purpose === 'move');
  }

  /** No room for more: finish this part and open the next. */
  get isFull(): boolean {
    return this.#index.isFull(LAYER_STORED_BYTES_MAX);
  }

  /**
   * Appends a chunk; `bytes` must stay as they are until the returned promise resolves and the batch is written. `only`: of a chunk that can't be taken
   * apart, the runs of blocks that count (LayerIndexBuilder.append).
   */
  async append(
    bytes: Buffer,
    header: ChunkHeader,
    only: Parameters<LayerIndexBuilder['append']>[3] = null,
  ): Promise<void> {
    if (header.seal === null && this.#writesAs === 'agent' && !this.#isMove) throw inTheClear(this.#name);
    const stored = header.seal === null && this.#sealer !== null ? sealChunk(bytes, this.#sealer) : bytes;
    this.#index.append(bytes, header, stored.length, only);
    this.#batch.push(stored);
    this.#batchBytes += stored.length;
    if (this.#batchBytes >= WRITE_BATCH_BYTES) await this.#flush();
  }

  /** Makes the layer durable and returns what a manifest says of it. */
  async finish(): Promise<LayerRef> {
    const tail = this.#index.finish(this.#sealer);
    this.#batch.push(tail);
    const sizeBytes = this.#index.offset + tail.length;
    await this.#flush();
    if ((await this.#writer.finish()) === 'exists') {
      throw new AfterimageError(`layer ${this.#name} exists already: another receiver writes under this epoch`, {
        code: 'layer-exists',
        kind: 'fenced',
        hint: 'The session ends and a new one takes a new epoch.',
      });
    }
    failpoint('receiver.ingest.layer-finished');
    const footer = decodeFooter(tail.subarray(tail.length - LAYER_FOOTER_BYTES), sizeBytes, this.#name);
    const { kind, firstPoint, lastPoint, segment, epoch, sequence } = this.#identity;
    return {
      kind,
      firstPoint,
      lastPoint,
      segment,
      epoch,
      sequence,
      sizeBytes,
      indexChecksum: digestToText(footer.indexChecksum),
    };
  }

  async abort(): Promise<void> {
    await this.#writer.abort();
  }

  async #flush(): Promise<void> {
    const batch = this.#batch;
    this.#batch = [];
    this.#batchBytes = 0;
    await this.#writer.write(batch);
  }
}

const inTheClear = (name: string): AfterimageError =>
  new AfterimageError(`layer ${name}: a chunk in the clear for a machine that its source encrypts`, {
    code: 'chunk-in-the-clear',
    kind: 'refused',
    hint: 'Chunks of such a machine are moved as a whole, or encrypted again with its keys.',
  });
