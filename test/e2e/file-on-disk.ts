/**
 * A filesystem with one file of fixed blocks on a loop disk, so that what programs wrote to the file can be found in an image of the disk.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { BLOCK_BYTES, type LoopDisk } from './loop-disk.js';

interface Piece {
  readonly fileByte: number;
  readonly diskByte: number;
  readonly lengthBytes: number;
}

export class FileOnDisk {
  readonly path: string;
  readonly #pieces: readonly Piece[];
  #mounted = true;

  /** Makes and mounts an ext4 at `mountPoint`, and in it a file of zeroes, written and flushed, so that its blocks stay where they are. */
  constructor(
    disk: LoopDisk,
    readonly mountPoint: string,
    readonly sizeBytes: number,
  ) {
    execFileSync('mkfs.ext4', ['-q', '-F', '-b', String(BLOCK_BYTES), disk.device]);
    mkdirSync(mountPoint, { recursive: true });
    execFileSync('mount', [disk.device, mountPoint]);
    this.path = `${mountPoint}/file`;
    const size = [`count=${sizeBytes / BLOCK_BYTES}`, `bs=${BLOCK_BYTES}`, 'conv=fsync', 'status=none'];
    execFileSync('dd', ['if=/dev/zero', `of=${this.path}`, ...size]);
    this.#pieces = piecesOf(this.path);
    const covered = this.#pieces.reduce((sum, p) => sum + p.lengthBytes, 0);
    if (covered < sizeBytes) throw new Error(`${this.path} has blocks for ${covered} bytes only`);
  }

  /** Content of the file in an image of the disk. */
  within(image: Buffer): Buffer {
    const content = Buffer.alloc(this.sizeBytes);
    for (const { fileByte, diskByte, lengthBytes } of this.#pieces)
      image.copy(content, fileByte, diskByte, diskByte + lengthBytes);
    return content;
  }

  /** Unmounts, once. */
  remove(): void {
    if (!this.#mounted) return;
    this.#mounted = false;
    execFileSync('umount', [this.mountPoint]);
  }
}

/** Lines of filefrag such as `   0:        0..     511:      34816..     35327:    512:             last,eof`, in blocks. */
function piecesOf(path: string): Piece[] {
  const text = execFileSync('filefrag', ['-v', `-b${BLOCK_BYTES}`, path], { encoding: 'utf8' });
  return [...text.matchAll(/^\s*\d+:\s*(\d+)\.\.\s*\d+:\s*(\d+)\.\.\s*\d+:\s*(\d+):/gm)].map(([, at, on, count]) => ({
    fileByte: Number(at) * BLOCK_BYTES,
    diskByte: Number(on) * BLOCK_BYTES,
    lengthBytes: Number(count) * BLOCK_BYTES,
  }));
}
