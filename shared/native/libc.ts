/**
 * The few libc calls that Node lacks, through koffi (FFI with prebuilt binaries: no compiler on the source machine).
 * Symbols are those of the running process, so glibc or musl is whichever Node uses. Owns no state.
 */
import koffi from 'koffi';
import { AfterimageError } from '../errors.js';

const libc = koffi.load(null);

type Num = number | bigint;

const cSyscall = libc.func(
  'long syscall(long n, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)',
) as unknown as (n: Num, a: Num, b: Num, c: Num, d: Num, e: Num, f: Num) => Num;
const cIoctlPtr = libc.func('int ioctl(int fd, unsigned long req, void *arg)') as unknown as KoffiFn;
const cIoctlNum = libc.func('int ioctl(int fd, unsigned long req, uint64_t arg)') as unknown as KoffiFn;
const cMmap = libc.func('void *mmap(void *addr, size_t len, int prot, int flags, int fd, int64_t off)') as unknown as (
  addr: null,
  length: number,
  prot: number,
  flags: number,
  fd: number,
  offset: number,
) => unknown;
const cMunmap = libc.func('int munmap(void *addr, size_t len)') as unknown as (ptr: unknown, length: number) => number;
const cMemalign = libc.func('int posix_memalign(_Out_ void **out, size_t align, size_t size)') as unknown as (
  out: unknown[],
  align: number,
  size: number,
) => number;
const cMemcpy = libc.func('void memcpy(void *target, const void *source, size_t n)') as unknown as (
  target: Buffer,
  source: Buffer,
  lengthBytes: number,
) => void;
const cFallocate = libc.func('int fallocate(int fd, int mode, int64_t off, int64_t len)') as unknown as KoffiFn;
const cLseek = libc.func('int64_t lseek(int fd, int64_t off, int whence)') as unknown as (
  fd: number,
  offset: number,
  whence: number,
) => Num;
const cSyncfs = libc.func('int syncfs(int fd)') as unknown as KoffiFn;
const cFlock = libc.func('int flock(int fd, int operation)') as unknown as (fd: number, operation: number) => number;
const cMlockall = libc.func('int mlockall(int flags)') as unknown as (flags: number) => number;

interface KoffiFn {
  (...args: unknown[]): number;
  async(...args: unknown[]): void;
}

const errnoNames = new Map<number, string>(Object.entries(koffi.os.errno).map(([name, value]) => [value, name]));

/** A failed system call: `errno` is the number, `errnoName` its name. */
export class SysError extends AfterimageError {
  readonly errno: number;
  readonly errnoName: string;
  constructor(what: string, errno: number) {
    const name = errnoNames.get(errno) ?? `errno ${errno}`;
    super(`${what}: ${name}`, { code: name, kind: 'io' });
    this.errno = errno;
    this.errnoName = name;
  }
}

/** Throws SysError for a negative result (-errno), else returns it. */
export function check(result: number, what: string): number {
  if (result < 0) throw new SysError(what, -result);
  return result;
}

/** Address of a Buffer's memory; the caller keeps the Buffer alive. */
export const addressOf = (buffer: NodeJS.ArrayBufferView): bigint => koffi.address(buffer);

/**
 * Copies bytes [start, end) of `source` to `target`. For memory that threads share: there V8 copies word by word, which takes two to four times as long (measured).
 */
export function copyShared(source: Buffer, target: Buffer, targetStart: number, start: number, end: number): void {
  const from = source.subarray(start, end);
  const to = target.subarray(targetStart, targetStart + from.length);
  if (to.length !== from.length)
    throw new RangeError(`${from.length} bytes don't fit at ${targetStart} of ${target.length}`);
  cMemcpy(to, from, from.length);
}

/** syscall(2); returns the result, or -errno. */
export function syscall(n: number, ...args: readonly Num[]): number {
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = args;
  const result = Number(cSyscall(n, a, b, c, d, e, f));
  return result < 0 ? -koffi.errno() : result;
}

/** ioctl(2) with a pointer or a number; returns the result, or -errno. */
export function ioctl(fd: number, request: number, argument: NodeJS.ArrayBufferView | Num = 0): number {
  const result = typeof argument === 'object' ? cIoctlPtr(fd, request, argument) : cIoctlNum(fd, request, argument);
  return result < 0 ? -koffi.errno() : result;
}

/** ioctl(2) on a worker thread, for those that block (FIFREEZE). Resolves to the result, or to -errno. */
export function ioctlAsync(fd: number, request: number, argument: Num = 0): Promise<number> {
  return new Promise((resolve, reject) => {
    cIoctlNum.async(fd, request, argument, (error: Error | null, result: number) => {
      if (error) reject(error);
      else resolve(result < 0 ? -koffi.errno() : result);
    });
  });
}

/** syncfs(2) on a worker thread. */
export function syncfsAsync(fd: number): Promise<void> {
  return new Promise((resolve, reject) => {
    cSyncfs.async(fd, (error: Error | null, result: number) => {
      if (error) reject(error);
      else if (result < 0) reject(new SysError('syncfs', koffi.errno()));
      else resolve();
    });
  });
}

export interface Mapping {
  readonly bytes: ArrayBuffer;
  unmap(): void;
}

/** Shared read/write mapping of a file descriptor (a BPF map). Length in bytes, a multiple of the page size. */
export function mmapShared(fd: number, lengthBytes: number, offset = 0): Mapping {
  const PROT_READ_WRITE = 3;
  const MAP_SHARED = 1;
  const pointer = cMmap(null, lengthBytes, PROT_READ_WRITE, MAP_SHARED, fd, offset);
  if (pointer === null || BigInt.asUintN(64, koffi.address(pointer)) === 0xffffffffffffffffn) {
    throw new SysError(`mmap of ${lengthBytes} bytes`, koffi.errno());
  }
  return { bytes: koffi.view(pointer, lengthBytes), unmap: () => void cMunmap(pointer, lengthBytes) };
}

/** Memory aligned for O_DIRECT (Buffers of Node are not). Never freed: allocate once, keep in a pool. */
export function alignedBuffer(sizeBytes: number, alignBytes = 4096): Buffer {
  const out: unknown[] = [null];
  const error = cMemalign(out, alignBytes, sizeBytes);
  if (error !== 0) throw new SysError(`posix_memalign of ${sizeBytes} bytes`, error);
  return Buffer.from(koffi.view(out[0] as never, sizeBytes));
}

const PUNCH_HOLE_KEEP_SIZE = 3;
/** Deallocates a range of a file or block device; it reads back as zero. Returns false where not supported. */
export function punchHole(fd: number, offset: number, lengthBytes: number): boolean {
  if (cFallocate(fd, PUNCH_HOLE_KEEP_SIZE, offset, lengthBytes) === 0) return true;
  const errno = koffi.errno();
  const name = errnoNames.get(errno);
  if (name === 'EOPNOTSUPP' || name === 'ENOTSUP' || name === 'EINVAL' || name === 'ENODEV') return false;
  throw new SysError(`punch hole at ${offset}`, errno);
}

/** Reserves a range of a file, within its length; it reads as zero until it is written. Blocks. Returns false where not supported. */
export function reserveRange(fd: number, offset: number, lengthBytes: number): boolean {
  if (cFallocate(fd, 0, offset, lengthBytes) === 0) return true;
  const errno = koffi.errno();
  const name = errnoNames.get(errno);
  if (name === 'EOPNOTSUPP' || name === 'ENOTSUP' || name === 'ENOSYS' || name === 'ENODEV') return false;
  throw new SysError(`reserving ${lengthBytes} bytes at ${offset}`, errno);
}

const SEEK_DATA = 3;
const SEEK_HOLE = 4;
/** Next [start, end) of data at or after `offset` in a sparse file; null when only a hole follows; undefined when not supported. */
export function nextData(fd: number, offset: number, sizeBytes: number): readonly [number, number] | null | undefined {
  const start = Number(cLseek(fd, offset, SEEK_DATA));
  if (start < 0) {
    const name = errnoNames.get(koffi.errno());
    if (name === 'ENXIO') return null;
    return undefined;
  }
  const end = Number(cLseek(fd, start, SEEK_HOLE));
  return [start, end < 0 ? sizeBytes : end];
}

/** Takes an exclusive lock on an open file; false when another has it, in this process or any other. Ends with the descriptor. */
export function tryLock(fd: number): boolean {
  const LOCK_EX_NB = 2 | 4;
  return cFlock(fd, LOCK_EX_NB) === 0;
}

/**
 * Locks all memory of this process, present and future, so that it runs without any disk. Returns false when not permitted.
 * For the thaw guard alone: V8 aborts when it gives heap pages back while memory is locked (see agent/quiesce/guard-memory.ts).
 */
export function lockMemory(): boolean {
  const MCL_CURRENT_FUTURE = 3;
  return cMlockall(MCL_CURRENT_FUTURE) === 0;
}
