/**
 * A loop device with direct I/O on a file in memory: the source disk of an end-to-end test. Whoever makes one removes it.
 * All reads here go past the page cache, as those of the agent do.
 */
import { execFileSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import {
  closeSync,
  constants,
  openSync,
  readFileSync,
  readSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { geometryOf } from '../../shared/blocks/geometry.js';
import { alignedBuffer } from '../../shared/native/libc.js';
import { asDiskId, MIB, SECTOR_BYTES } from '../../shared/units.js';
import type { TrackableDisk } from '../../agent/tracker/tracker.js';

export const BLOCK_BYTES = 4096;
const READ_BYTES = MIB;
const ATTACH_TRIES = 20;

let transfer: Buffer | undefined;

/** Other tests attach loop devices at the same time, and the free one that was found may be taken: try again. */
function attach(file: string): string {
  for (let attempt = 1; ; attempt++) {
    try {
      const options = ['-f', '--show', '--direct-io=on', file];
      return execFileSync('losetup', options, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim();
    } catch (error) {
      if (attempt === ATTACH_TRIES) throw error;
      execFileSync('sleep', ['0.1']);
    }
  }
}

export class LoopDisk {
  readonly device: string;
  readonly sysName: string;
  /** Whole blocks of 4 KiB. */
  readonly blockCount: number;
  readonly #fd: number;

  constructor(
    readonly file: string,
    readonly sizeBytes: number,
  ) {
    writeFileSync(file, '');
    truncateSync(file, sizeBytes);
    this.device = attach(file);
    this.sysName = this.device.replace('/dev/', '');
    this.blockCount = Math.floor(sizeBytes / BLOCK_BYTES);
    this.#fd = openSync(this.device, constants.O_RDONLY | constants.O_DIRECT);
  }

  remove(): void {
    closeSync(this.#fd);
    execFileSync('losetup', ['-d', this.device]);
  }

  /** Fills `target` with what the disk holds from `offset` on, past the page cache. */
  read(target: Buffer, offset: number): void {
    transfer ??= alignedBuffer(READ_BYTES);
    for (let done = 0; done < target.length; done += READ_BYTES) {
      const n = Math.min(READ_BYTES, target.length - done);
      if (readSync(this.#fd, transfer, 0, n, offset + done) !== n) throw new Error(`short read at ${offset + done}`);
      transfer.copy(target, done, 0, n);
    }
  }

  /** The whole disk. */
  content(): Buffer {
    const all = Buffer.allocUnsafe(this.sizeBytes);
    this.read(all, 0);
    return all;
  }

  /** Writes random sectors at the disk's end, past the page cache: those that are no whole block, if there are any. */
  writeTail(): void {
    const length = this.sizeBytes % BLOCK_BYTES;
    if (length === 0) return;
    transfer ??= alignedBuffer(READ_BYTES);
    randomFillSync(transfer, 0, length);
    const fd = openSync(this.device, constants.O_WRONLY | constants.O_DIRECT);
    writeSync(fd, transfer, 0, length, this.sizeBytes - length);
    closeSync(fd);
  }

  /** Blocks (of 4 KiB) in which the disk and an image (a file, or bytes in memory) differ. */
  differences(image: string | Buffer): number[] {
    const different: number[] = [];
    const now = Buffer.allocUnsafe(READ_BYTES);
    const theirs = Buffer.allocUnsafe(READ_BYTES);
    const fd = typeof image === 'string' ? openSync(image, 'r') : undefined;
    try {
      for (let at = 0; at < this.sizeBytes; at += READ_BYTES) {
        const n = Math.min(READ_BYTES, this.sizeBytes - at);
        this.read(now.subarray(0, n), at);
        if (fd === undefined) (image as Buffer).copy(theirs, 0, at, at + n);
        else if (readSync(fd, theirs, 0, n, at) !== n) throw new Error(`the image ends before ${at + n}`);
        if (now.compare(theirs, 0, n, 0, n) === 0) continue;
        for (let b = 0; b < n; b += BLOCK_BYTES) {
          const end = Math.min(b + BLOCK_BYTES, n);
          if (now.compare(theirs, b, end, b, end) !== 0) different.push((at + b) / BLOCK_BYTES);
        }
      }
    } finally {
      if (fd !== undefined) closeSync(fd);
    }
    return different;
  }

  trackable(id: string, blockBytes = BLOCK_BYTES): TrackableDisk {
    const [major, minor] = readFileSync(`/sys/block/${this.sysName}/dev`, 'utf8').trim().split(':').map(Number);
    return {
      id: asDiskId(id),
      major: major ?? -1,
      minor: minor ?? -1,
      sysName: this.sysName,
      startSector: 0,
      sectorCount: this.sizeBytes / SECTOR_BYTES,
      geometry: geometryOf(this.sizeBytes, blockBytes),
    };
  }
}
