/**
 * Whether two images keep the order in which test/native/order-writer.c wrote: a pointer n without all data up to n, or data n + 1 without
 * pointer n, was never on the disks at one instant.
 */
export interface OrderLoad {
  readonly threads: number;
  readonly thinkUs: number;
  readonly slots: number;
  /** Blocks from one slot to the next: small, and all is read at once; large, and each slot is a read of its own. */
  readonly stride: number;
}

/** These are those of order-writer.c. */
const BLOCK_BYTES = 4096;
const SECTOR_BYTES = 512;
const POINTERS = 16;
const DATA_BLOCKS = 2;
const STEP = 7919;

export const orderDiskBytes = ({ threads, slots, stride }: OrderLoad): number =>
  Math.ceil((POINTERS + threads * slots * stride) / 256) * 256 * BLOCK_BYTES;

export const orderArguments = ({ threads, thinkUs, slots, stride }: OrderLoad): number[] => [
  threads,
  thinkUs,
  slots,
  stride,
];

/** Least and greatest step among the sectors of a run of blocks: a write in flight at the cut may be torn. */
function steps(image: Buffer, firstBlock: number, count: number): { least: number; greatest: number } {
  let least = Infinity;
  let greatest = 0;
  const end = (firstBlock + count) * BLOCK_BYTES;
  for (let at = firstBlock * BLOCK_BYTES; at < end; at += SECTOR_BYTES) {
    const step = image.readUInt32LE(at);
    if (step < least) least = step;
    if (step > greatest) greatest = step;
  }
  return { least, greatest };
}

/** Steps that the images have reached, over all threads. */
export function stepsReached(images: readonly Buffer[], load: OrderLoad): number {
  let sum = 0;
  for (let t = 0; t < load.threads; t++) sum += steps(images[1 - (t % 2)] ?? Buffer.alloc(0), t, 1).least;
  return sum;
}

/** Broken promises, in words. */
export function orderViolations(images: readonly Buffer[], load: OrderLoad): string[] {
  const broken: string[] = [];
  const { threads, slots, stride } = load;
  for (let t = 0; t < threads; t++) {
    const data = images[t % 2];
    const pointers = images[1 - (t % 2)];
    if (data === undefined || pointers === undefined) throw new Error('two images are needed');
    const pointer = steps(pointers, t, 1);
    for (let n = Math.max(1, pointer.greatest - slots + 1); n <= pointer.greatest + slots; n++) {
      const slot = (n * STEP) % slots;
      const at = steps(data, POINTERS + (t * slots + slot) * stride, DATA_BLOCKS);
      if (n <= pointer.greatest && at.least < n)
        broken.push(`thread ${t}: pointer ${pointer.greatest} is there, data ${n} is not (${at.least})`);
      if (n > pointer.greatest && at.greatest > pointer.least + 1)
        broken.push(`thread ${t}: data ${at.greatest} is there, its pointer is at ${pointer.least}`);
    }
  }
  return broken;
}
