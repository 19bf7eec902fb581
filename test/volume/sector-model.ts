/**
 * What a disk may hold: for each sector all values that were ever written to it, which of them is the last acknowledged one, and which the last that a
 * flush covered. Sectors describe themselves: 128 times the same stamp; 0 is zero. Only one write to a sector is under way at a time.
 */
import { between, type Random } from '../helpers/random.js';

export const SECTOR = 512;

/** A disk of sectors with stamps; about a third of it is zero, in runs. */
export function stampedDisk(random: Random, sectors: number): Buffer {
  const disk = Buffer.alloc(sectors * SECTOR);
  for (let at = 0; at < sectors;) {
    const end = Math.min(sectors, at + between(random, 1, 300));
    if (random() < 0.66) for (let s = at; s < end; s++) stamp(disk, s, 0x80000000 + s);
    at = end;
  }
  return disk;
}

export function stamp(bytes: Buffer, sector: number, value: number): void {
  new Uint32Array(bytes.buffer, bytes.byteOffset + sector * SECTOR, SECTOR / 4).fill(value);
}

export function stampOf(bytes: Buffer, sector: number): number | 'torn' {
  const at = sector * SECTOR;
  const value = bytes.readUInt32LE(at);
  for (let i = 4; i < SECTOR; i += 4) if (bytes.readUInt32LE(at + i) !== value) return 'torn';
  return value;
}

interface Sector {
  readonly values: number[];
  /** Index of the last acknowledged value. */
  settled: number;
  /** Index of the last value that a flush covered. */
  floor: number;
  busy: boolean;
}

export class SectorModel {
  readonly sectors: Sector[];

  constructor(disk: Buffer) {
    this.sectors = Array.from({ length: disk.length / SECTOR }, (_, s) => {
      const value = stampOf(disk, s);
      if (value === 'torn') throw new Error('a disk of stamps is needed');
      return { values: [value], settled: 0, floor: 0, busy: false };
    });
  }

  range(first: number, count: number): Sector[] {
    return this.sectors.slice(first, first + count);
  }

  isBusy(first: number, count: number): boolean {
    return this.range(first, count).some((s) => s.busy);
  }

  issue(first: number, count: number, value: number): void {
    for (const sector of this.range(first, count)) {
      sector.busy = true;
      sector.values.push(value);
    }
  }

  settle(first: number, count: number): void {
    for (const sector of this.range(first, count)) {
      sector.busy = false;
      sector.settled = sector.values.length - 1;
    }
  }

  /** What a flush that begins now covers; to be called when it has ended. */
  beginFlush(): () => void {
    const settled = this.sectors.map((s) => s.settled);
    return () => settled.forEach((index, s) => this.#raise(s, index));
  }

  #raise(s: number, index: number): void {
    const sector = this.sectors[s];
    if (sector !== undefined) sector.floor = Math.max(sector.floor, index);
  }

  settledIndexes(first: number, count: number): number[] {
    return this.range(first, count).map((s) => s.settled);
  }

  /** The disk as acknowledged. */
  settledDisk(): Buffer {
    const disk = Buffer.alloc(this.sectors.length * SECTOR);
    this.sectors.forEach((s, i) => stamp(disk, i, s.values[s.settled] ?? 0));
    return disk;
  }

  /** Says what is wrong with bytes that were read; `from`: oldest value allowed per sector. */
  problem(bytes: Buffer, first: number, from: readonly number[]): string | undefined {
    for (let i = 0; i < bytes.length / SECTOR; i++) {
      const value = stampOf(bytes, i);
      const sector = this.sectors[first + i];
      const allowed = sector?.values.slice(from[i]) ?? [];
      // While it is being written a sector may be read in part, as the page cache gives it.
      if (value === 'torn' ? allowed.length > 1 : allowed.includes(value)) continue;
      return `sector ${first + i} has ${value}, allowed ${allowed.join(', ')} of ${sector?.values.join(', ')}`;
    }
    return undefined;
  }

  /** Goes on from what a disk was found to hold. */
  adopt(bytes: Buffer): void {
    this.sectors.forEach((sector, s) => {
      const value = stampOf(bytes, s);
      if (value === 'torn') throw new Error(`sector ${s} is torn`);
      sector.values.splice(0, Infinity, value);
      sector.settled = sector.floor = 0;
      sector.busy = false;
    });
  }
}
