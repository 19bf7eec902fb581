/**
 * A block device as the target of a restore. Opened exclusively, so that no mount, RAID or second restore can come in between;
 * written around the page cache. What it holds isn't known, so every zero is written.
 */
import { constants } from 'node:fs';
import { open, realpath, type FileHandle } from 'node:fs/promises';
import { AfterimageError, errnoOf } from '../../shared/errors.js';
import { isZero } from '../../shared/blocks/hash.js';
import { RESTORE_WRITE_BYTES_MAX, TARGET_PROBE_BYTES, TARGET_PROBE_SAMPLES } from '../../shared/limits.js';
import { formatBytes } from '../../shared/units.js';
import { giveBackAligned, takeAligned } from './aligned-pool.js';
import { readFully, writeFully } from './fd-io.js';
import { deviceSizeBytes, logicalBlockBytes, zeroDeviceRange } from './native-io.js';
import { checkDeviceUnused, deviceIdentity } from './target-checks.js';
import { targetError } from './target-error.js';
import { asItIs, refused, type RestoreTarget, type TargetOptions, type TargetOutlet } from './target.js';

const SAMPLE_BYTES = 4096;
const SECTOR_BYTES = 512;

async function openExclusively(path: string, flags: number): Promise<FileHandle> {
  try {
    return await open(path, constants.O_RDWR | constants.O_EXCL | flags);
  } catch (error) {
    if (errnoOf(error) === 'EBUSY') {
      throw refused(
        'target-busy',
        `target ${path} is in use`,
        'Stop what uses it (see `lsof`, `lsblk`), or pick another target.',
      );
    }
    if (errnoOf(error) === 'EACCES' || errnoOf(error) === 'EPERM') {
      throw refused(
        'target-denied',
        `target ${path} may not be written to`,
        'Run as root; check that it is not read-only.',
      );
    }
    throw targetError(`opening target ${path}`, error);
  }
}

export async function openDeviceTarget(path: string, dev: number, options: TargetOptions): Promise<RestoreTarget> {
  const real = await realpath(path);
  await checkDeviceUnused(real, dev);
  let handle = await openExclusively(real, constants.O_DIRECT);
  let isDirect = true;
  try {
    const deviceBytes = deviceSizeBytes(handle.fd);
    if (deviceBytes < options.sizeBytes) {
      throw new AfterimageError(
        `target ${real} is too small: ${formatBytes(deviceBytes)}, the disk has ${formatBytes(options.sizeBytes)}`,
        { code: 'target-too-small', kind: 'usage', hint: 'Pick a target of at least the size of the disk.' },
      );
    }
    if (options.sizeBytes % logicalBlockBytes(handle.fd) !== 0) {
      // The disk ends within a sector of this device: only the page cache can write a part of one.
      await handle.close();
      handle = await openExclusively(real, 0);
      isDirect = false;
    }
    return new DeviceTarget(real, handle, isDirect, options.sizeBytes, await deviceIdentity(dev, deviceBytes));
  } catch (error) {
    await handle.close().catch(() => undefined);
    throw error;
  }
}

class DeviceTarget implements RestoreTarget {
  readonly path: string;
  readonly kind = 'device';
  readonly knownZero = false;
  readonly identity: string;
  readonly #handle: FileHandle;
  readonly #sizeBytes: number;
  readonly #isDirect: boolean;
  #kernelZeroes = true;

  constructor(path: string, handle: FileHandle, isDirect: boolean, sizeBytes: number, identity: string) {
    this.path = path;
    this.identity = identity;
    this.#handle = handle;
    this.#isDirect = isDirect;
    this.#sizeBytes = sizeBytes;
  }

  async checkEmpty(): Promise<void> {
    const probe = Math.min(TARGET_PROBE_BYTES, this.#sizeBytes);
    const last = this.#sizeBytes - probe;
    const ranges: [number, number][] = [
      [0, probe],
      [last - (last % SAMPLE_BYTES), probe],
    ];
    for (let i = 1; i < TARGET_PROBE_SAMPLES; i++) {
      const offset = Math.floor((this.#sizeBytes / TARGET_PROBE_SAMPLES) * i);
      ranges.push([offset - (offset % SAMPLE_BYTES), SAMPLE_BYTES]);
    }
    for (const [offset, length] of ranges) await this.#checkZero(offset, length);
  }

  async #checkZero(offset: number, lengthBytes: number): Promise<void> {
    const buffer = takeAligned();
    try {
      const got = await this.read(offset, buffer.subarray(0, lengthBytes));
      if (isZero(buffer, 0, got)) return;
    } finally {
      giveBackAligned(buffer);
    }
    throw refused(
      'target-not-empty',
      `target ${this.path} is not empty: it holds data near byte ${offset}`,
      'If that data may be lost, run again with --force.',
    );
  }

  layOut(): Promise<void> {
    return Promise.resolve();
  }

  prepare(): Promise<void> {
    return Promise.resolve();
  }

  async write(offset: number, bytes: Buffer): Promise<void> {
    try {
      await writeFully(this.#handle.fd, bytes, offset);
    } catch (error) {
      throw targetError(`writing to ${this.path} at byte ${offset}`, error);
    }
  }

  async zero(offset: number, lengthBytes: number): Promise<void> {
    if (this.#kernelZeroes) {
      if (await zeroDeviceRange(this.#handle.fd, offset, lengthBytes)) return;
      this.#kernelZeroes = false;
    }
    const buffer = takeAligned();
    try {
      buffer.fill(0);
      for (let done = 0; done < lengthBytes; done += RESTORE_WRITE_BYTES_MAX) {
        const n = Math.min(RESTORE_WRITE_BYTES_MAX, lengthBytes - done);
        await this.write(offset + done, buffer.subarray(0, n));
      }
    } finally {
      giveBackAligned(buffer);
    }
  }

  async sync(): Promise<void> {
    try {
      await this.#handle.datasync();
    } catch (error) {
      throw targetError(`making ${this.path} durable`, error);
    }
  }

  finish(): Promise<void> {
    return Promise.resolve();
  }

  forgetCached(): Promise<void> {
    return Promise.resolve();
  }

  async read(offset: number, into: Buffer): Promise<number> {
    try {
      return await readFully(this.#handle.fd, into, offset);
    } catch (error) {
      throw targetError(`reading ${this.path} at byte ${offset}`, error);
    }
  }

  nextData(): undefined {
    return undefined;
  }

  outlet(): TargetOutlet {
    const { fd } = this.#handle;
    const { path } = this;
    // Everything is a multiple of the device's sectors, or the device was opened for the page cache.
    return asItIs(
      this.#isDirect
        ? { path, direct: fd, directBytes: SECTOR_BYTES, cached: null, isSparse: false }
        : { path, direct: null, directBytes: SECTOR_BYTES, cached: fd, isSparse: false },
    );
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}
