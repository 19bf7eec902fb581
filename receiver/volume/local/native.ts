/**
 * The system calls of a local image that Node lacks: reading only what is in the page cache, advice about it, deallocating and zeroing on a worker thread.
 * Owns no state but what it remembers of where buffers lie.
 */
import { readFileSync, statfsSync } from 'node:fs';
import koffi from 'koffi';
import { addressOf, SysError } from '../../../shared/native/libc.js';

const libc = koffi.load(null);

type AsyncCall = (...args: [...arguments: number[], done: (error: Error | null, result: number) => void]) => void;
// koffi functions are untyped by nature; this is the edge.
const cFallocate = libc.func('int fallocate(int fd, int mode, int64_t off, int64_t len)') as unknown as {
  async: AsyncCall;
};
const cPreadv2 = libc.func('int64_t preadv2(int fd, void *iov, int count, int64_t off, int flags)') as unknown as (
  fd: number,
  iov: Buffer,
  count: number,
  offset: number,
  flags: number,
) => number;

const cFadvise = libc.func('int posix_fadvise(int fd, int64_t off, int64_t len, int advice)') as unknown as (
  fd: number,
  offset: number,
  length: number,
  advice: number,
) => number;

const { EAGAIN, EOPNOTSUPP, ENOSYS, EINVAL, EINTR } = koffi.os.errno;

/** Changes with every start of the host: what memory held before is gone. */
export const bootIdOfHost = (): string => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();

const FADVICE = { normal: 0, random: 1 } as const;

/**
 * Whether the kernel reads ahead of sequential reads of a file. In one with holes that are about to be filled it must not: it fills the page cache
 * with zeroes, page by page, which cost more than all else and are overwritten a moment later. Best effort.
 */
export function allowKernelReadAhead(fd: number, isAllowed: boolean): void {
  cFadvise(fd, 0, 0, isAllowed ? FADVICE.normal : FADVICE.random);
}

const TMPFS_MAGIC = 0x01021994;

/** Whether a file's data is always in memory, so that no read of it has to wait for a disk. */
export const isInMemory = (fd: number): boolean => statfsSync(`/proc/self/fd/${fd}`).type === TMPFS_MAGIC;

const RWF_NOWAIT = 8;
/** Asking for an address costs more than a read of a few KiB; callers use the same memory again and again, and memory of a buffer doesn't move. */
const addresses = new WeakMap<ArrayBufferLike, number>();
const WORD = 2 ** 32;
/** struct iovec (readv(2)), of one part. */
const iov = Buffer.alloc(16);

function pointTo(into: Buffer): void {
  let base = addresses.get(into.buffer);
  if (base === undefined) {
    // Addresses of user space have 47 bits.
    base = Number(addressOf(into)) - into.byteOffset;
    addresses.set(into.buffer, base);
  }
  const address = base + into.byteOffset;
  iov.writeUInt32LE(address % WORD, 0);
  iov.writeUInt32LE(Math.floor(address / WORD), 4);
  iov.writeUInt32LE(into.length, 8);
}

/**
 * Fills `into` if all of it is in the page cache; what is in it is undefined otherwise. `unsupported`: the filesystem can't tell.
 */
export function readCached(fd: number, offset: number, into: Buffer): 'read' | 'not-cached' | 'unsupported' {
  const { length } = into;
  pointTo(into);
  const got = cPreadv2(fd, iov, 1, offset, RWF_NOWAIT);
  if (got === length) return 'read';
  if (got >= 0) return 'not-cached';
  const errno = koffi.errno();
  if (errno === EAGAIN || errno === EINTR) return 'not-cached';
  if (errno === EOPNOTSUPP || errno === ENOSYS || errno === EINVAL) return 'unsupported';
  throw new SysError(`reading ${length} bytes at ${offset}`, errno);
}

const RESERVE = 0;
const PUNCH_HOLE_KEEP_SIZE = 3;
const ZERO_RANGE_KEEP_SIZE = 0x11;

/** False where the filesystem can't do it. */
async function fallocate(
  fd: number,
  mode: number,
  offset: number,
  lengthBytes: number,
  what: string,
): Promise<boolean> {
  const result = await new Promise<number>((resolve, reject) => {
    cFallocate.async(fd, mode, offset, lengthBytes, (error, value) => {
      if (error) reject(error);
      else resolve(value < 0 ? -koffi.errno() : value);
    });
  });
  if (result >= 0) return true;
  if ([EOPNOTSUPP, ENOSYS, EINVAL].includes(-result)) return false;
  throw new SysError(`${what} of ${lengthBytes} bytes at ${offset}`, -result);
}

/** Space for all of a range, so that writing to it can't fail for want of it. */
export const reserve = (fd: number, lengthBytes: number): Promise<boolean> =>
  fallocate(fd, RESERVE, 0, lengthBytes, 'reservation');

/** Deallocates a range, which then reads as zero. */
export const punch = (fd: number, offset: number, lengthBytes: number): Promise<boolean> =>
  fallocate(fd, PUNCH_HOLE_KEEP_SIZE, offset, lengthBytes, 'punching a hole');

/** Zeroes a range and keeps its space. */
export const zeroRange = (fd: number, offset: number, lengthBytes: number): Promise<boolean> =>
  fallocate(fd, ZERO_RANGE_KEEP_SIZE, offset, lengthBytes, 'zeroing');
