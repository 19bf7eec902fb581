/**
 * A disk of this machine that is being restored, as an interface and as it is on Linux: held exclusively, so that nothing can be mounted on it meanwhile,
 * and written past the page cache. Opening changes nothing. Owns its descriptors until close(); a crash lets go of them.
 */
import { closeSync, constants, fdatasync, openSync, write } from 'node:fs';
import { bytesOfBlocks, type Geometry } from '../../shared/blocks/geometry.js';
import { AfterimageError, errnoOf, messageOf } from '../../shared/errors.js';
import { RESTORE_WRITE_BYTES_MAX, ZERO_CALL_BYTES_MAX } from '../../shared/limits.js';
import { addressOf, alignedBuffer, ioctlAsync } from '../../shared/native/libc.js';
import type { BlockNumber } from '../../shared/units.js';
import type { Source } from '../disks/footprint.js';
import type { Sysfs } from '../disks/sysfs.js';
import { userOf } from './in-use.js';

const BLKZEROOUT = 0x127f;

/** Made once per process, never written. */
let zeroes: Buffer | undefined;

export const refusedRestore = (code: string, message: string, hint: string): AfterimageError =>
  new AfterimageError(message, { code, kind: 'refused', hint });

const inUse = (path: string, by: string): AfterimageError =>
  refusedRestore(
    'disk-in-use',
    `${path} is ${by}: nothing was written to it`,
    'Stop what uses it and unmount it, then the restore goes on when it is asked for again.',
  );

export interface RestoreTarget {
  /** Writes whole blocks from aligned memory. Not yet durable. */
  write(first: BlockNumber, count: number, bytes: Buffer): Promise<void>;
  /** Makes blocks read as zeroes. Not yet durable. */
  zero(first: BlockNumber, count: number): Promise<void>;
  /** Resolves when all that was written before the call survives a power cut. */
  durable(): Promise<void>;
  /** No more writes for now; the disk stays held. */
  closeWriter(): void;
  close(): void;
}

/** Throws kind `refused` when somebody uses the disk. */
export type OpenTarget = (source: Source, path: string, geometry: Geometry) => RestoreTarget;

export class DeviceTarget implements RestoreTarget {
  readonly path: string;
  readonly #geometry: Geometry;
  readonly #isDevice: boolean;
  #hold: number | null;
  #writer: number | null = null;
  #kernelZeroes = true;
  /** A sync that has not begun: whoever needs one meanwhile shares it. */
  #nextSync: Promise<void> | null = null;
  #sync: Promise<void> = Promise.resolve();

  private constructor(source: Source, path: string, geometry: Geometry, hold: number | null) {
    this.path = path;
    this.#geometry = geometry;
    this.#isDevice = source.kind === 'block';
    this.#hold = hold;
  }

  /** Throws kind `refused` when somebody uses the disk. */
  static open(sysfs: Sysfs, source: Source, path: string, geometry: Geometry): DeviceTarget {
    const user = userOf(sysfs, source);
    if (user !== null) throw inUse(path, user);
    // An image file can't be claimed; nobody but us may write it, and the fingerprints at the end tell.
    return new DeviceTarget(source, path, geometry, source.kind === 'block' ? claim(path) : null);
  }

  async write(first: BlockNumber, count: number, bytes: Buffer): Promise<void> {
    const length = bytesOfBlocks(this.#geometry, first, count);
    await this.#put(bytes.subarray(0, length), first * this.#geometry.blockBytes);
  }

  async zero(first: BlockNumber, count: number): Promise<void> {
    const offset = first * this.#geometry.blockBytes;
    const length = bytesOfBlocks(this.#geometry, first, count);
    if (this.#isDevice && this.#kernelZeroes) {
      if (await zeroRange(this.#open(), offset, length)) return;
      this.#kernelZeroes = false;
    }
    zeroes ??= alignedBuffer(RESTORE_WRITE_BYTES_MAX);
    for (let done = 0; done < length; done += RESTORE_WRITE_BYTES_MAX)
      await this.#put(zeroes.subarray(0, Math.min(RESTORE_WRITE_BYTES_MAX, length - done)), offset + done);
  }

  /** Callers at the same time share one sync. */
  durable(): Promise<void> {
    if (this.#nextSync !== null) return this.#nextSync;
    const before = this.#sync;
    const next = before
      .catch(() => undefined)
      .then(() => {
        this.#nextSync = null;
        const fd = this.#open();
        return new Promise<void>((resolve, reject) => {
          fdatasync(fd, (error) => (error === null ? resolve() : reject(this.#failed('making durable', error))));
        });
      });
    next.catch(() => undefined);
    this.#nextSync = next;
    this.#sync = next;
    return next;
  }

  closeWriter(): void {
    if (this.#writer !== null) closeSync(this.#writer);
    this.#writer = null;
  }

  close(): void {
    this.closeWriter();
    if (this.#hold !== null) closeSync(this.#hold);
    this.#hold = null;
  }

  #open(): number {
    this.#writer ??= openSync(this.path, constants.O_RDWR | (this.#isDevice ? constants.O_DIRECT : 0));
    return this.#writer;
  }

  async #put(bytes: Buffer, offset: number): Promise<void> {
    const fd = this.#open();
    for (let done = 0; done < bytes.length;) {
      done += await new Promise<number>((resolve, reject) => {
        write(fd, bytes, done, bytes.length - done, offset + done, (error, written) =>
          error === null ? resolve(written) : reject(this.#failed(`writing at byte ${offset + done}`, error)),
        );
      });
    }
  }

  #failed(what: string, cause: unknown): AfterimageError {
    return new AfterimageError(`${what} of ${this.path} failed: ${messageOf(cause)}`, {
      code: 'disk-write',
      kind: 'io',
      hint: 'Look for errors of this disk in the kernel log. Replace it (`afterimage-agent protect --as`) or try again.',
      cause,
    });
  }
}

function claim(path: string): number {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_EXCL);
  } catch (error) {
    if (errnoOf(error) === 'EBUSY') throw inUse(path, 'in use, as the kernel says (see `lsblk`, `lsof`)');
    throw new AfterimageError(`${path} can't be opened: ${messageOf(error)}`, {
      code: 'disk-open',
      kind: 'io',
      cause: error,
    });
  }
}

/** Arguments of ioctls that another thread reads: kept here so that they aren't collected under it. */
const ranges = new Set<Buffer>();

/** False where the kernel can't for this device. */
async function zeroRange(fd: number, offset: number, lengthBytes: number): Promise<boolean> {
  for (let done = 0; done < lengthBytes; done += ZERO_CALL_BYTES_MAX) {
    const range = Buffer.alloc(16);
    range.writeBigUInt64LE(BigInt(offset + done), 0);
    range.writeBigUInt64LE(BigInt(Math.min(ZERO_CALL_BYTES_MAX, lengthBytes - done)), 8);
    ranges.add(range);
    // Whatever it was that failed, plain zeroes either succeed or say why not.
    const result = await ioctlAsync(fd, BLKZEROOUT, addressOf(range)).finally(() => ranges.delete(range));
    if (result < 0) return false;
  }
  return true;
}
