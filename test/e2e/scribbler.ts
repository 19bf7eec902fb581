/**
 * Writes small random blocks to a disk, now and then, past the page cache, until it is stopped: the workload of tests that break something else.
 */
import { randomFillSync } from 'node:crypto';
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { alignedBuffer } from '../../shared/native/libc.js';
import { MIB } from '../../shared/units.js';
import { between, randomOf, type Random } from '../helpers/random.js';
import { BLOCK_BYTES, type LoopDisk } from './loop-disk.js';

const EVERY_MS = 20;
const RUN_BLOCKS_MAX = 4;

export class Scribbler {
  readonly #disk: LoopDisk;
  readonly #random: Random;
  readonly #fd: number;
  #timer: NodeJS.Timeout | null = null;
  writes = 0;

  constructor(disk: LoopDisk, seed = 1) {
    this.#disk = disk;
    this.#random = randomOf(seed);
    this.#fd = openSync(disk.device, constants.O_RDWR | constants.O_DIRECT);
  }

  /** One to four blocks of random bytes or zeroes, anywhere. */
  write(): void {
    const count = between(this.#random, 1, RUN_BLOCKS_MAX + 1);
    const first = between(this.#random, 0, this.#disk.sizeBytes / BLOCK_BYTES - count);
    const bytes = alignedBuffer(count * BLOCK_BYTES);
    if (between(this.#random, 0, 8) > 0) randomFillSync(bytes);
    writeSync(this.#fd, bytes, 0, bytes.length, first * BLOCK_BYTES);
    this.writes++;
  }

  start(): void {
    this.#timer ??= setInterval(() => this.write(), EVERY_MS);
  }

  pause(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  close(): void {
    this.pause();
    closeSync(this.#fd);
  }
}

/** Random bytes that don't compress onto a part of a disk. */
export function fillRandomly(disk: LoopDisk, offset: number, length: number): void {
  const fd = openSync(disk.device, constants.O_RDWR | constants.O_DIRECT);
  const bytes = alignedBuffer(MIB);
  for (let at = offset; at < offset + length; at += MIB) {
    randomFillSync(bytes);
    writeSync(fd, bytes, 0, Math.min(MIB, offset + length - at), at);
  }
  closeSync(fd);
}
