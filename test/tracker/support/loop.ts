/**
 * Loop devices for tests, on files in memory, with direct I/O as far as the file allows. Whoever makes one removes it.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, constants, existsSync, mkdtempSync, openSync, readFileSync, readSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { geometryOf } from '../../../shared/blocks/geometry.js';
import { alignedBuffer } from '../../../shared/native/libc.js';
import { asDiskId, MIB, SECTOR_BYTES } from '../../../shared/units.js';
import { OwnLoop } from '../../helpers/own-loop.js';
import type { TrackableDisk } from '../../../agent/tracker/tracker.js';

export const isRoot = process.getuid?.() === 0;
export const canTrack = isRoot && existsSync('/dev/loop-control');
export const WHY_SKIPPED = 'needs root and loop devices';

const READ_BYTES = MIB;
const transfer = isRoot ? alignedBuffer(READ_BYTES) : Buffer.alloc(0);

export class LoopDisk {
  readonly directory: string;
  readonly file: string;
  readonly #loop = new OwnLoop();
  readonly device = this.#loop.device;
  readonly sysName = this.#loop.name;
  #direct: number;

  constructor(readonly sizeBytes: number) {
    this.directory = mkdtempSync('/dev/shm/afterimage-test-');
    this.file = join(this.directory, 'disk');
    execFileSync('truncate', ['-s', String(sizeBytes), this.file]);
    this.#loop.attach(this.file);
    this.#direct = openSync(this.device, constants.O_RDONLY | constants.O_DIRECT);
  }

  /** Takes the device away and brings it back under the same name. */
  reattach(): void {
    closeSync(this.#direct);
    this.#loop.detach();
    this.#loop.attach(this.file);
    this.#direct = openSync(this.device, constants.O_RDONLY | constants.O_DIRECT);
  }

  remove(): void {
    closeSync(this.#direct);
    this.#loop.detach();
    this.#loop.remove();
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** Writes `count` blocks of 4 KiB from `first` on, from a file of random bytes. */
  write(first: number, count = 1): void {
    this.#run('dd', [
      'if=/dev/urandom',
      `of=${this.device}`,
      'bs=4096',
      `seek=${first}`,
      `count=${count}`,
      'oflag=direct',
    ]);
  }

  discard(offsetBytes: number, lengthBytes: number): void {
    this.#run('blkdiscard', ['-o', String(offsetBytes), '-l', String(lengthBytes), this.device]);
  }

  writeZeroes(offsetBytes: number, lengthBytes: number): void {
    this.#run('blkdiscard', ['-z', '-o', String(offsetBytes), '-l', String(lengthBytes), this.device]);
  }

  /** Reads past the page cache into `target` at the same offset. */
  readInto(target: Buffer, offset: number, lengthBytes: number): void {
    for (let done = 0; done < lengthBytes; done += READ_BYTES) {
      const n = Math.min(READ_BYTES, lengthBytes - done);
      if (readSync(this.#direct, transfer, 0, n, offset + done) !== n)
        throw new Error(`short read at ${offset + done}`);
      transfer.copy(target, offset + done, 0, n);
    }
  }

  trackable(
    id: string,
    options: { blockBytes?: number; startSector?: number; sectorCount?: number } = {},
  ): TrackableDisk {
    const [major, minor] = readFileSync(`/sys/block/${this.sysName}/dev`, 'utf8').trim().split(':').map(Number);
    const startSector = options.startSector ?? 0;
    const whole = Number(readFileSync(`/sys/block/${this.sysName}/size`, 'utf8'));
    const sectorCount = options.sectorCount ?? whole - startSector;
    return {
      id: asDiskId(id),
      major: major ?? -1,
      minor: minor ?? -1,
      sysName: this.sysName,
      startSector,
      sectorCount,
      geometry: geometryOf(sectorCount * SECTOR_BYTES, options.blockBytes ?? 4096),
    };
  }

  #run(command: string, args: readonly string[]): void {
    execFileSync(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  }
}
