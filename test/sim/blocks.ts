/**
 * Self-describing blocks: each half of a block says which disk, block and content it is, so that a model can tell what a restored block should
 * have been. Content 0 is zeroes. A half is what lands at once: a block with two contents is torn.
 */
const MAGIC = 0x51495341;
const HEADER_BYTES = 32;
/** Bytes of a half that differ from content to content beyond its header; the rest is zero, so that it compresses. */
const NOISE_BYTES = 96;

export interface Halves {
  readonly low: number;
  readonly high: number;
}

export const whole = (content: number): Halves => ({ low: content, high: content });

export const halfBytes = (blockBytes: number): number => blockBytes / 2;

/** How each half of a disk's blocks begins, unless it is zeroes. */
export function beginningOf(disk: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(MAGIC, 0);
  bytes.writeUInt32LE(disk, 4);
  return bytes;
}

function renderHalf(into: Buffer, at: number, bytes: number, disk: number, block: number, content: number): void {
  into.fill(0, at, at + bytes);
  if (content === 0 || bytes === 0) return;
  into.writeUInt32LE(MAGIC, at);
  into.writeUInt32LE(disk, at + 4);
  into.writeUInt32LE(block, at + 8);
  into.writeUInt32LE(content, at + 12);
  let state = Math.imul(content ^ Math.imul(block, 0x9e3779b1), 0x85ebca6b) >>> 0;
  for (let i = HEADER_BYTES; i < HEADER_BYTES + NOISE_BYTES; i += 4) {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + i) >>> 0;
    into.writeUInt32LE(state, at + i);
  }
}

export function renderBlock(
  into: Buffer,
  at: number,
  blockBytes: number,
  disk: number,
  block: number,
  { low, high }: Halves,
): void {
  const half = halfBytes(blockBytes);
  renderHalf(into, at, half, disk, block, low);
  renderHalf(into, at + half, half, disk, block, high);
}

/** What a block says it is; null when it is nothing that was ever written there. */
export function parseBlock(block: Buffer, disk: number, number: number, scratch: Buffer): Halves | null {
  const half = halfBytes(block.length);
  const contentAt = (at: number): number => (block.readUInt32LE(at) === MAGIC ? block.readUInt32LE(at + 12) : 0);
  const halves = { low: contentAt(0), high: contentAt(half) };
  renderBlock(scratch, 0, block.length, disk, number, halves);
  return block.compare(scratch, 0, block.length) === 0 ? halves : null;
}
