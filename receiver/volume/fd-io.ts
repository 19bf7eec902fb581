/**
 * Whole reads and writes at an offset of an open descriptor: the kernel may do less than it was asked for.
 */
import { read, write } from 'node:fs';

export async function writeFully(fd: number, bytes: Buffer, offset: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    done += await new Promise<number>((resolve, reject) => {
      write(fd, bytes, done, bytes.length - done, offset + done, (error, n) => {
        if (error) reject(error);
        else resolve(n);
      });
    });
  }
}

/** Fills `target`; returns the bytes got, fewer only at the end. */
export async function readFully(fd: number, target: Buffer, offset: number): Promise<number> {
  let got = 0;
  while (got < target.length) {
    const n = await new Promise<number>((resolve, reject) => {
      read(fd, target, got, target.length - got, offset + got, (error, bytes) => {
        if (error) reject(error);
        else resolve(bytes);
      });
    });
    if (n === 0) break;
    got += n;
  }
  return got;
}
