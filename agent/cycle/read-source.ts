/**
 * Where the bytes of a disk come from: an open descriptor, past the page cache where that is possible. Owns the descriptor, nothing else.
 */
import { closeSync, constants, fstatSync, openSync, read, readSync } from 'node:fs';
import { AfterimageError, errnoOf, messageOf } from '../../shared/errors.js';
import { alignedBuffer } from '../../shared/native/libc.js';

export interface ReadSource {
  /** Why reads go through the page cache; null when they go past it. */
  readonly bufferedReason: string | null;
  /** Up to `lengthBytes` at `position` into `buffer` at `offset`; returns how many, 0 at the end. */
  read(buffer: Buffer, offset: number, lengthBytes: number, position: number): Promise<number>;
  /** The same without leaving the thread. */
  readSync(buffer: Buffer, offset: number, lengthBytes: number, position: number): number;
  close(): void;
}

const sourceOf = (fd: number, bufferedReason: string | null): ReadSource => ({
  bufferedReason,
  read: (buffer, offset, lengthBytes, position) =>
    new Promise((resolve, reject) => {
      read(fd, buffer, offset, lengthBytes, position, (error, bytes) => {
        if (error === null) resolve(bytes);
        else reject(error);
      });
    }),
  readSync: (buffer, offset, lengthBytes, position) => readSync(fd, buffer, offset, lengthBytes, position),
  close: () => closeSync(fd),
});

/** Made once per process: aligned memory is never freed. */
const probeBuffer = alignedBuffer(4096);

/** Image files on filesystems without direct I/O are read through the page cache, which is the truth for files. Devices never are. */
export function openDirect(path: string): ReadSource {
  let refusal: unknown;
  try {
    const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECT);
    refusal = probe(fd);
    if (refusal === undefined) return sourceOf(fd, null);
    closeSync(fd);
  } catch (error) {
    if (errnoOf(error) !== 'EINVAL') throw openError(path, error);
    refusal = error;
  }
  const fd = openSync(path, constants.O_RDONLY);
  if (fstatSync(fd).isFile()) return sourceOf(fd, `no direct I/O (${errnoOf(refusal) ?? messageOf(refusal)})`);
  closeSync(fd);
  throw openError(path, refusal);
}

/** Some filesystems accept the flag and refuse the read. Any other error shows at the real read. */
function probe(fd: number): unknown {
  try {
    readSync(fd, probeBuffer, 0, probeBuffer.length, 0);
    return undefined;
  } catch (error) {
    return errnoOf(error) === 'EINVAL' ? error : undefined;
  }
}

const openError = (path: string, cause: unknown): AfterimageError =>
  new AfterimageError(`${path} can't be opened for reading: ${messageOf(cause)}`, {
    code: 'disk-open',
    kind: 'io',
    cause,
  });
