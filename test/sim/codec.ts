/**
 * The codec without threads: work beside the event loop ends when the operating system likes, and a world must not depend on that.
 */
import { lz4, type Lz4 } from '../../shared/layer/codec.js';

type Beside = { -readonly [K in 'compressBeside' | 'decompressBeside']: Lz4[K] };

export function useSynchronousCodec(): void {
  const beside: Beside = {
    compressBeside: (source, target) => Promise.resolve(lz4.compress(source, target)),
    decompressBeside: async (source, target) => lz4.decompress(source, target),
  };
  Object.assign(lz4, beside);
}
