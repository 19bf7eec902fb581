/**
 * One object in several parts: blocks, made into a blob by a conditional request. What is given up is no blob and no listing shows it; the
 * service throws such blocks away after a week.
 */
import { protocolError } from '../body.js';
import type { PartSink } from '../parted-writer.js';
import type { CreateResult } from '../store.js';
import type { AzureParts, AzureStore } from './azure-store.js';

export class BlockUpload implements PartSink {
  readonly #name: string;
  readonly #store: AzureStore;
  readonly #parts: AzureParts;
  /** Blocks of several writers of one name lie together: ours are told by this. */
  readonly #id: string;
  #count = 0;

  constructor(name: string, store: AzureStore, parts: AzureParts) {
    this.#name = name;
    this.#store = store;
    this.#parts = parts;
    this.#id = parts.newId().slice(0, 36);
  }

  whole(bytes: Buffer): Promise<CreateResult> {
    return this.#store.createIfAbsent(this.#name, bytes);
  }

  async part(number: number, bytes: Buffer): Promise<void> {
    const { requests, watch } = this.#parts;
    const request = { kind: 'part', what: `writing part ${number} of ${this.#name}`, bytes: bytes.length } as const;
    await requests.run(request, (abortSignal) =>
      this.#store.blob(this.#name).stageBlock(this.#block(number), bytes, bytes.length, { abortSignal }),
    );
    this.#count = Math.max(this.#count, number);
    watch?.moved('written', bytes.length);
  }

  async complete(): Promise<CreateResult> {
    const blocks = Array.from({ length: this.#count }, (_, i) => this.#block(i + 1));
    const result = await this.#store.create(this.#name, { kind: 'part', what: `completing ${this.#name}` }, (options) =>
      this.#store.blob(this.#name).commitBlockList(blocks, options),
    );
    if (result === 'exists' && (await this.#store.head(this.#name)) === null) {
      throw protocolError(`the parts of ${this.#name} are gone`);
    }
    return result;
  }

  async abandon(): Promise<void> {
    // Nothing has a name yet, and single blocks can't be removed.
  }

  /** All ids of a blob's blocks must have the same length. */
  #block(number: number): string {
    return Buffer.from(`${this.#id}-${String(number).padStart(6, '0')}`).toString('base64');
  }
}
