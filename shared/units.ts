/**
 * Units and branded types. Mixing two of these would corrupt data, so the compiler keeps them apart.
 * Owns nothing, does no I/O.
 */
declare const brand: unique symbol;
type Brand<T, Name extends string> = T & { readonly [brand]: Name };

/** UUID of a protected machine. */
export type MachineId = Brand<string, 'MachineId'>;
/** Stable id of a disk: `[a-z0-9][a-z0-9._-]{0,63}`, never a device path. */
export type DiskId = Brand<string, 'DiskId'>;
/** UUID of one unbroken run of change tracking. */
export type SeriesId = Brand<string, 'SeriesId'>;
/** Number of a recovery point, 1 upwards per machine; 0 stands for "before the first point". */
export type PointNumber = Brand<number, 'PointNumber'>;
/** Which receiver owns a machine's manifest; raised at each takeover. */
export type Epoch = Brand<number, 'Epoch'>;
/** Who may write; raised at failover, failback, re-enrolment. */
export type Generation = Brand<number, 'Generation'>;
/** Index of a block within a disk. */
export type BlockNumber = number;
/** Index of a 64 MiB segment within a disk. */
export type SegmentNumber = number;

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;
export const TIB = 1024 * GIB;
export const SECTOR_BYTES = 512;

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const DISK_ID = /^[a-z0-9][a-z0-9._-]{0,63}$/;

export const isUuid = (text: string): boolean => UUID.test(text);
export const isDiskId = (text: string): boolean => DISK_ID.test(text);

/** Casts at the edges, after validation. */
export const asMachineId = (text: string): MachineId => text as MachineId;
export const asDiskId = (text: string): DiskId => text as DiskId;
export const asSeriesId = (text: string): SeriesId => text as SeriesId;
export const asPoint = (n: number): PointNumber => n as PointNumber;
export const asEpoch = (n: number): Epoch => n as Epoch;
export const asGeneration = (n: number): Generation => n as Generation;

/** "1.5 GiB": binary units, for people. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : 1)} ${units[unit]}`;
}

/** "1 h 02 min", "12.3 s": durations for people; input in milliseconds. */
export function formatDuration(ms: number): string {
  if (!Number.isFinite(ms)) return 'unknown';
  const s = ms / 1000;
  if (s < 60) return `${s.toFixed(1)} s`;
  const min = Math.floor(s / 60);
  if (min < 60) return `${min} min ${String(Math.floor(s % 60)).padStart(2, '0')} s`;
  return `${Math.floor(min / 60)} h ${String(min % 60).padStart(2, '0')} min`;
}
