/**
 * What the kernel itself says of a disk, in sysfs: its identity, its size, and its own counts of sectors, against which
 * the marks are audited. Owns two descriptors, kept open as they are read at every take.
 */
import { closeSync, existsSync, openSync, readFileSync, readSync } from 'node:fs';
import { AfterimageError } from '../../../shared/errors.js';
import type { Pair } from './maps/counters.js';

const FIELD_SECTORS_WRITTEN = 6;
const FIELD_SECTORS_DISCARDED = 13;

export interface DiskFacts {
  /** Counts up whenever a device takes this name; '' before Linux 5.15. */
  readonly sequence: string;
  readonly wholeSectors: number;
}

const blockPath = (sysName: string, file: string): string => `/sys/block/${sysName}/${file}`;

function readLine(sysName: string, file: string): string | undefined {
  try {
    return readFileSync(blockPath(sysName, file), 'utf8').trim();
  } catch {
    return undefined;
  }
}

/** undefined when there is no such disk (any more). */
export function readDiskFacts(sysName: string): DiskFacts | undefined {
  const size = readLine(sysName, 'size');
  if (size === undefined) return undefined;
  return { sequence: readLine(sysName, 'diskseq') ?? '', wholeSectors: Number(size) };
}

/** Why this disk can't be tracked; undefined when it can. */
export function untrackable(sysName: string): string | undefined {
  if (readLine(sysName, 'queue/iostats') === '0') return 'its I/O statistics are off (queue/iostats)';
  if ((readLine(sysName, 'queue/zoned') ?? 'none') !== 'none') return 'it is a zoned device';
  if (readLine(sysName, 'queue/dax') === '1') return 'it is memory that can be written without the block layer (DAX)';
  return undefined;
}

/** `request`: the kernel counts and reports completed requests; `bio`: a device without requests (zram, dm, md). */
export type DeviceKind = 'request' | 'bio';

export const deviceKind = (sysName: string): DeviceKind => (existsSync(blockPath(sysName, 'mq')) ? 'request' : 'bio');

export const readBootId = (): string => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();

/** Number of CPUs that this machine may ever have, from a list such as `0-3` or `0,2-7`. */
export function possibleCpus(): number {
  const text = readFileSync('/sys/devices/system/cpu/possible', 'utf8').trim();
  return Number(text.split(/[,-]/).at(-1)) + 1;
}

export class DiskStatistics {
  readonly #stat: number;
  readonly #inFlight: number;
  readonly #buffer = Buffer.alloc(512);

  constructor(sysName: string) {
    try {
      this.#stat = openSync(blockPath(sysName, 'stat'), 'r');
    } catch (error) {
      throw new AfterimageError(`there is no disk ${sysName}`, { code: 'disk-gone', kind: 'not-found', cause: error });
    }
    this.#inFlight = openSync(blockPath(sysName, 'inflight'), 'r');
  }

  close(): void {
    closeSync(this.#stat);
    closeSync(this.#inFlight);
  }

  /** Sectors that the kernel has counted as written and as discarded, since the disk appeared. */
  sectors(): Pair {
    const fields = this.#numbers(this.#stat);
    return { writes: fields[FIELD_SECTORS_WRITTEN] ?? 0, discards: fields[FIELD_SECTORS_DISCARDED] ?? 0 };
  }

  /** Requests that a driver works on, reads too. (Requests that wait in a plug or a scheduler aren't in it.) */
  inFlight(): number {
    return this.#numbers(this.#inFlight).reduce((sum, value) => sum + value, 0);
  }

  #numbers(fd: number): number[] {
    const length = readSync(fd, this.#buffer, 0, this.#buffer.length, 0);
    return this.#buffer.toString('latin1', 0, length).trim().split(/\s+/).map(Number);
  }
}
