/**
 * Compression of a chunk. The codec is a number in the chunk; 0 is none, 1 is an LZ4 block
 * (github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md).
 *
 * liblz4 through the FFI that the tracker needs anyway (a third less CPU and no allocation per call, measured);
 * lz4-napi where the library is missing. Both read each other's blocks.
 */
import { createRequire } from 'node:module';
import koffi from 'koffi';
import { AfterimageError, corrupt } from '../errors.js';

export const CODEC_NONE = 0;
export const CODEC_LZ4 = 1;

export interface Lz4 {
  readonly implementation: 'liblz4' | 'lz4-napi';
  /** Compresses `source` into `target`; returns the stored length, or 0 when it doesn't fit into `target`. */
  compress(source: Uint8Array, target: Uint8Array): number;
  /** The same on another thread, where the implementation can. Neither buffer may be touched until it resolves. */
  compressBeside(source: Uint8Array, target: Uint8Array): Promise<number>;
  /** Decompresses into `target`; returns the plain length. Throws on malformed input, never writes beyond `target`. */
  decompress(source: Uint8Array, target: Uint8Array): number;
  /** The same on another thread, where the implementation can. Neither buffer may be touched until it settles. */
  decompressBeside(source: Uint8Array, target: Uint8Array): Promise<number>;
}

interface BlockFn {
  (source: Uint8Array, target: Uint8Array, sourceBytes: number, targetBytes: number): number;
  async(
    source: Uint8Array,
    target: Uint8Array,
    sourceBytes: number,
    targetBytes: number,
    done: (error: Error | null, result: number) => void,
  ): void;
}

const malformed = (source: Uint8Array): AfterimageError =>
  corrupt('lz4-malformed', `LZ4 block of ${source.length} bytes is malformed`);

function loadLibrary(): Lz4 | undefined {
  try {
    const lib = koffi.load('liblz4.so.1');
    const args = '(const void *src, void *dst, int srcSize, int dstCapacity)';
    const compress = lib.func(`int LZ4_compress_default${args}`) as unknown as BlockFn;
    const decompress = lib.func(`int LZ4_decompress_safe${args}`) as unknown as BlockFn;
    return {
      implementation: 'liblz4',
      compress: (source, target) => compress(source, target, source.length, target.length),
      compressBeside: (source, target) =>
        new Promise((resolve, reject) => {
          compress.async(source, target, source.length, target.length, (error, length) => {
            if (error === null) resolve(length);
            else reject(error);
          });
        }),
      decompress: (source, target) => {
        const n = decompress(source, target, source.length, target.length);
        if (n < 0) throw malformed(source);
        return n;
      },
      decompressBeside: (source, target) =>
        new Promise((resolve, reject) => {
          decompress.async(source, target, source.length, target.length, (error, n) => {
            if (error !== null || n < 0) reject(error ?? malformed(source));
            else resolve(n);
          });
        }),
    };
  } catch {
    // Not installed: the bundled addon does the same work, slower. Which one is used is shown in the status.
    return undefined;
  }
}

/** Loaded at first use: where liblz4 is there, the addon would only cost memory. */
let addon: typeof import('lz4-napi') | undefined;
const lz4napi = (): typeof import('lz4-napi') =>
  (addon ??= createRequire(import.meta.url)('lz4-napi') as typeof import('lz4-napi'));

/** lz4-napi puts the plain length (u32 LE) before the block; we keep that in the chunk instead. */
const bundled: Lz4 = {
  implementation: 'lz4-napi',
  compress: (source, target) => {
    const out = lz4napi().compressSync(Buffer.from(source.buffer, source.byteOffset, source.length));
    if (out.length - 4 > target.length) return 0;
    target.set(out.subarray(4));
    return out.length - 4;
  },
  // The addon's own asynchronous call allocates per call and grew the process to several hundred MiB.
  compressBeside: (source, target) => Promise.resolve(bundled.compress(source, target)),
  decompress: (source, target) => {
    const framed = Buffer.allocUnsafe(source.length + 4);
    framed.writeUInt32LE(target.length, 0);
    framed.set(source, 4);
    const { uncompressSync } = lz4napi();
    try {
      const out = uncompressSync(framed);
      target.set(out);
      return out.length;
    } catch (cause) {
      throw new AfterimageError(`LZ4 block of ${source.length} bytes is malformed`, {
        code: 'lz4-malformed',
        kind: 'corrupt',
        cause,
      });
    }
  },
  decompressBeside: async (source, target) => bundled.decompress(source, target),
};

export const bundledLz4 = bundled;
export const lz4: Lz4 = loadLibrary() ?? bundled;
