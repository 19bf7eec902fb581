/**
 * Facts of block devices as the kernel tells them under /sys. Reads only, owns no state; the root can be a folder made by a test.
 * A device that vanishes while it is read yields `null` or missing facts, never a mixture of two devices: callers compare `diskseq`.
 */
import { readFileSync, readdirSync, readlinkSync, realpathSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';

export interface BlockDevice {
  /** Name under /sys/class/block, e.g. `sda1`, `dm-0` ('!' stands for '/' as in `cciss!c0d0`). */
  readonly name: string;
  readonly major: number;
  readonly minor: number;
  /** Whole disk that carries the I/O: its parent for a partition, else itself. */
  readonly disk: string;
  readonly diskMajor: number;
  readonly diskMinor: number;
  /** Number of the partition; null for a whole disk. */
  readonly partition: number | null;
  /** Window within the whole disk. */
  readonly startSector: number;
  readonly sectorCount: number;
  /** Counts up whenever a disk appears, so that a reused name or number shows. Null before Linux 5.15. */
  readonly diskseq: string | null;
  readonly readOnly: boolean;
  readonly removable: boolean;
  readonly rotational: boolean;
  /** Memory that programs write to directly: such writes pass no block layer. */
  readonly dax: boolean;
  /** Device numbers of the maker or of the mapping layer, of the whole disk. */
  readonly wwid: string | null;
  readonly serial: string | null;
  readonly dmUuid: string | null;
  readonly dmName: string | null;
  readonly mdUuid: string | null;
  /** Of a loop device: its file (or block device) and where in it the device begins. */
  readonly loop: { readonly backingFile: string; readonly deleted: boolean; readonly offsetBytes: number } | null;
  /** Where the disk is plugged in: its path under /sys/devices without the kernel's running numbers at the end. */
  readonly topology: string;
  readonly holders: readonly string[];
  readonly slaves: readonly string[];
  /** Names of the partitions of a whole disk. */
  readonly partitions: readonly string[];
}

/** Counters of /sys/block/X/stat that tell of writes; field order: Documentation/block/stat.rst of Linux. */
export interface DiskCounters {
  readonly writeSectors: number;
  readonly writeRequests: number;
  readonly discardSectors: number;
  readonly discardRequests: number;
  /** Writes and discards that are under way. */
  readonly writesInFlight: number;
}

const DELETED = ' (deleted)';

export class Sysfs {
  constructor(readonly root = '/sys') {}

  /** Text of a file below the root, trimmed; null when it is missing, unreadable or empty. */
  text(path: string): string | null {
    try {
      const text = readFileSync(join(this.root, path), 'utf8').split('\0').join('').trim();
      return text === '' ? null : text;
    } catch {
      return null;
    }
  }

  names(path: string): string[] {
    try {
      return readdirSync(join(this.root, path)).sort();
    } catch {
      return [];
    }
  }

  /** Name of the block device with this number, or null. */
  nameOf(major: number, minor: number): string | null {
    try {
      return basename(readlinkSync(join(this.root, 'dev/block', `${major}:${minor}`)));
    } catch {
      return null;
    }
  }

  /** All block devices, partitions included. */
  allNames(): string[] {
    return this.names('class/block');
  }

  /** Major and minor number, from the file `dev` of a device's folder. */
  #number(path: string): readonly [number, number] | null {
    const [major, minor] = (this.text(`${path}/dev`) ?? '').split(':').map(Number);
    return major === undefined || minor === undefined || Number.isNaN(major) ? null : [major, minor];
  }

  #numberField(path: string, fallback = 0): number {
    const value = Number(this.text(path) ?? Number.NaN);
    return Number.isFinite(value) ? value : fallback;
  }

  device(name: string): BlockDevice | null {
    const at = `class/block/${name}`;
    let real: string;
    try {
      real = realpathSync(join(this.root, at));
    } catch {
      return null;
    }
    const number = this.#number(at);
    if (number === null) return null;
    // Paths that the kernel itself joins (NVMe): nothing can be written over them but by the disk above.
    if (this.text(`${at}/hidden`) === '1') return null;
    const partition = this.text(`${at}/partition`);
    const disk = partition === null ? name : basename(dirname(real));
    const diskAt = `class/block/${disk}`;
    const diskNumber = this.#number(diskAt);
    if (diskNumber === null) return null;
    const files = this.names(at);
    return {
      name,
      major: number[0],
      minor: number[1],
      disk,
      diskMajor: diskNumber[0],
      diskMinor: diskNumber[1],
      partition: partition === null ? null : Number(partition),
      startSector: partition === null ? 0 : this.#numberField(`${at}/start`),
      sectorCount: this.#numberField(`${at}/size`),
      diskseq: this.text(`${diskAt}/diskseq`),
      readOnly: this.text(`${at}/ro`) === '1',
      removable: this.text(`${diskAt}/removable`) === '1',
      rotational: this.text(`${diskAt}/queue/rotational`) === '1',
      dax: this.text(`${diskAt}/queue/dax`) === '1',
      wwid: this.text(`${diskAt}/wwid`) ?? this.text(`${diskAt}/device/wwid`),
      serial: this.text(`${diskAt}/serial`) ?? this.text(`${diskAt}/device/serial`) ?? this.#unitSerial(diskAt),
      dmUuid: this.text(`${diskAt}/dm/uuid`),
      dmName: this.text(`${diskAt}/dm/name`),
      mdUuid: this.text(`${diskAt}/md/uuid`),
      loop: this.#loop(diskAt),
      topology: topologyOf(real, this.root, disk),
      holders: this.names(`${at}/holders`),
      slaves: this.names(`${at}/slaves`),
      partitions: partition === null ? files.filter((file) => this.text(`${at}/${file}/partition`) !== null) : [],
    };
  }

  /** Unit serial number of a SCSI disk: page 0x80 of its vital product data, 4 bytes of header first. */
  #unitSerial(diskAt: string): string | null {
    try {
      const page = readFileSync(join(this.root, diskAt, 'device/vpd_pg80'));
      const text = page.subarray(4).toString('latin1').split('\0').join('').trim();
      return text === '' ? null : text;
    } catch {
      return null;
    }
  }

  #loop(diskAt: string): BlockDevice['loop'] {
    const file = this.text(`${diskAt}/loop/backing_file`);
    if (file === null) return null;
    const deleted = file.endsWith(DELETED);
    return {
      backingFile: deleted ? file.slice(0, -DELETED.length) : file,
      deleted,
      offsetBytes: this.#numberField(`${diskAt}/loop/offset`),
    };
  }

  /** Counters of a disk or partition; null when it is gone. */
  counters(name: string): DiskCounters | null {
    const text = this.text(`class/block/${name}/stat`);
    if (text === null) return null;
    const fields = text.split(/\s+/).map(Number);
    return {
      writeRequests: fields[4] ?? 0,
      writeSectors: fields[6] ?? 0,
      // Reads, then writes.
      writesInFlight: Number(this.text(`class/block/${name}/inflight`)?.split(/\s+/)[1] ?? 0),
      // Kernels before 4.18 have no discard fields.
      discardRequests: fields[11] ?? 0,
      discardSectors: fields[13] ?? 0,
    };
  }
}

/** `pci0000:00/0000:00:02.0/virtio#`: the slot stays over reboots, the running number of the bus device behind it may not. */
function topologyOf(realPath: string, root: string, disk: string): string {
  const parts = realPath.split('/');
  const end = parts.lastIndexOf(disk);
  const start = parts.lastIndexOf('devices', end);
  const virtual = parts.includes('virtual');
  const below = parts.slice(start < 0 ? root.split('/').length : start + 1, end < 0 ? parts.length : end);
  const slot = below
    .filter((part) => part !== 'block')
    .map((part) => part.replace(/^(virtio|host|ata|nvme)\d+$/, '$1#'));
  // Virtual disks have no slot: their name is all there is.
  return virtual
    ? `virtual/${disk}`
    : slot.map((part) => part.replace(/^target\d+:|^\d+:(?=\d+:\d+:\d+$)/, '')).join('/');
}
