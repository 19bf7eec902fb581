/**
 * The system calls of a restore that Node lacks: sizes and zeroing of block devices, preallocation, dropping the page cache.
 * Owns no state.
 */
import koffi from 'koffi';
import { AfterimageError } from '../../shared/errors.js';
import { ZERO_CALL_BYTES_MAX } from '../../shared/limits.js';
import { addressOf, check, ioctl, ioctlAsync } from '../../shared/native/libc.js';

const libc = koffi.load(null);

type AsyncCall = (...args: [...arguments: number[], done: (error: Error | null, result: number) => void]) => void;
// koffi functions are untyped by nature; this is the edge.
const cFallocate = libc.func('int fallocate(int fd, int mode, int64_t off, int64_t len)') as unknown as {
  async: AsyncCall;
};
const cFadvise = libc.func('int posix_fadvise(int fd, int64_t off, int64_t len, int advice)') as unknown as (
  fd: number,
  offset: number,
  length: number,
  advice: number,
) => number;

const BLKGETSIZE64 = 0x80081272;
const BLKSSZGET = 0x1268;
const BLKZEROOUT = 0x127f;

export function deviceSizeBytes(fd: number): number {
  const size = Buffer.alloc(8);
  check(ioctl(fd, BLKGETSIZE64, size), 'asking for the size of a device');
  return Number(size.readBigUInt64LE());
}

/** Smallest unit that the device reads and writes. */
export function logicalBlockBytes(fd: number): number {
  const size = Buffer.alloc(4);
  check(ioctl(fd, BLKSSZGET, size), 'asking for the sector size of a device');
  return size.readInt32LE();
}

/** Arguments of ioctls that a worker thread is reading: kept here so that they aren't collected under it. */
const inUse = new Set<Buffer>();

async function zeroOut(fd: number, offset: number, lengthBytes: number): Promise<number> {
  const range = Buffer.alloc(16);
  range.writeBigUInt64LE(BigInt(offset), 0);
  range.writeBigUInt64LE(BigInt(lengthBytes), 8);
  inUse.add(range);
  try {
    return await ioctlAsync(fd, BLKZEROOUT, addressOf(range));
  } finally {
    inUse.delete(range);
  }
}

const { EOPNOTSUPP, ENOTTY, EINVAL, ENOSYS, ENOSPC, EDQUOT } = koffi.os.errno;

/** Zeroes a range of a block device by the kernel, which may use the device's own means. False where it can't. */
export async function zeroDeviceRange(fd: number, offset: number, lengthBytes: number): Promise<boolean> {
  for (let done = 0; done < lengthBytes; done += ZERO_CALL_BYTES_MAX) {
    const result = await zeroOut(fd, offset + done, Math.min(ZERO_CALL_BYTES_MAX, lengthBytes - done));
    if ([EOPNOTSUPP, ENOTTY, EINVAL].includes(-result)) return false;
    check(result, `zeroing ${lengthBytes} bytes at ${offset}`);
  }
  return true;
}

/** Reserves a range of a file, which reads as zero until it is written; resolves to 0 or minus the error's number. */
function reserve(fd: number, offset: number, lengthBytes: number): Promise<number> {
  return new Promise((resolve, reject) => {
    cFallocate.async(fd, 0, offset, lengthBytes, (error, value) => {
      if (error) reject(error);
      else resolve(value < 0 ? -koffi.errno() : value);
    });
  });
}

/** Reserves space for a file, which reads as zero. False where the filesystem can't. */
export async function preallocate(fd: number, sizeBytes: number): Promise<boolean> {
  const result = await reserve(fd, 0, sizeBytes);
  if ([EOPNOTSUPP, ENOSYS].includes(-result)) return false;
  if ([ENOSPC, EDQUOT].includes(-result)) {
    throw new AfterimageError(`there is no room for ${sizeBytes} bytes`, {
      code: 'target-full',
      kind: 'io',
      hint: 'Free space there, or restore with --sparse.',
    });
  }
  check(result, `reserving ${sizeBytes} bytes`);
  return true;
}

/** Reserves a range that is about to be written. False where the filesystem can't. */
export async function reserveForWrite(fd: number, offset: number, lengthBytes: number): Promise<boolean> {
  const result = await reserve(fd, offset, lengthBytes);
  if ([EOPNOTSUPP, ENOSYS].includes(-result)) return false;
  check(result, `reserving ${lengthBytes} bytes at ${offset}`);
  return true;
}

/** Asks the kernel to forget clean pages of a file, so that a re-read comes from the disk. Best effort. */
export function dropPageCache(fd: number): void {
  const POSIX_FADV_DONTNEED = 4;
  cFadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}
