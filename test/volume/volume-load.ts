/** Random requests to a volume, several at a time, each answer compared with the model. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Volume } from '../../receiver/volume/volume.js';
import { between, type Random } from '../helpers/random.js';
import { SECTOR, stamp, type SectorModel } from './sector-model.js';

export interface LoadHooks {
  /** Before a write is begun, and after it was acknowledged. */
  readonly onIssue?: (first: number, count: number, value: number) => void;
  readonly onSettle?: (first: number, count: number) => void;
  /** Stamps of what is written are larger than this. */
  readonly stampsFrom?: number;
  /** Whether reads are compared; not when the model doesn't know what went before. */
  readonly reads?: boolean;
}

export class VolumeLoad {
  readonly #volume: Volume;
  readonly #model: SectorModel;
  readonly #random: Random;
  readonly #hooks: LoadHooks;
  #stamps: number;

  constructor(volume: Volume, model: SectorModel, random: Random, hooks: LoadHooks = {}) {
    this.#volume = volume;
    this.#model = model;
    this.#random = random;
    this.#hooks = hooks;
    this.#stamps =
      hooks.stampsFrom ?? Math.max(0, ...model.sectors.flatMap((s) => s.values.filter((v) => v < 2 ** 31)));
  }

  /** `workers` requests at a time until so many were done, or until told to stop. */
  async run(requests: number, workers: number, isOver: () => boolean = () => false): Promise<void> {
    let left = requests;
    const worker = async (): Promise<void> => {
      while (left-- > 0 && !isOver()) {
        await this.one();
        if (this.#random() < 0.2) await nextTurn();
      }
    };
    await Promise.all(Array.from({ length: workers }, worker));
  }

  async one(): Promise<void> {
    const dice = this.#random();
    const blocks = 8 * between(this.#random, 1, this.#random() < 0.1 ? 200 : 12);
    const whole = this.#random() < 0.5;
    const total = this.#model.sectors.length;
    let first = between(this.#random, 0, total);
    if (whole) first -= first % 8;
    const count = Math.min(total - first, whole ? blocks : between(this.#random, 1, blocks));
    if (dice < 0.45) await this.read(first, count);
    else if (dice < 0.8) await this.#change(first, count, 'write');
    else if (dice < 0.9) await this.#change(first, count, 'trim');
    else if (dice < 0.95) await this.#change(first, count, 'zero');
    else await this.flush();
  }

  async read(first: number, count: number): Promise<void> {
    const from = this.#model.settledIndexes(first, count);
    const into = Buffer.alloc(count * SECTOR, 0xee);
    if (!this.#volume.tryRead(first * SECTOR, into)) await this.#volume.read(first * SECTOR, into);
    const problem = this.#model.problem(into, first, from);
    if (problem !== undefined && this.#hooks.reads !== false) throw new Error(`read: ${problem}`);
  }

  async flush(): Promise<void> {
    const ended = this.#model.beginFlush();
    await this.#volume.flush();
    ended();
  }

  /** Rejects when the volume does; the write may then have been done in part. */
  async writeAt(first: number, count: number): Promise<void> {
    await this.#change(first, count, 'write');
  }

  async #change(first: number, count: number, how: 'write' | 'trim' | 'zero'): Promise<void> {
    if (this.#model.isBusy(first, count)) return;
    const value = how === 'write' ? ++this.#stamps : 0;
    this.#model.issue(first, count, value);
    this.#hooks.onIssue?.(first, count, value);
    const offset = first * SECTOR;
    const lengthBytes = count * SECTOR;
    if (how === 'write') {
      const bytes = Buffer.alloc(lengthBytes);
      for (let s = 0; s < count; s++) stamp(bytes, s, value);
      await this.#volume.write(offset, bytes);
      // The buffer is the caller's again.
      bytes.fill(0xdd);
    } else if (how === 'trim') await this.#volume.trim(offset, lengthBytes);
    else await this.#volume.zero(offset, lengthBytes, this.#random() < 0.5);
    this.#model.settle(first, count);
    this.#hooks.onSettle?.(first, count);
  }
}

export async function wholeDisk(volume: Volume): Promise<Buffer> {
  const disk = Buffer.alloc(volume.sizeBytes);
  await volume.read(0, disk);
  return disk;
}

/** Blocks in which two disks differ. */
export function differing(a: Buffer, b: Buffer, blockBytes: number): number[] {
  const found: number[] = [];
  for (let at = 0; at < a.length; at += blockBytes) {
    const end = Math.min(a.length, at + blockBytes);
    if (a.compare(b, at, end, at, end) !== 0) found.push(at / blockBytes);
  }
  return found;
}
