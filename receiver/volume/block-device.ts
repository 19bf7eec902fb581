/**
 * A disk as a server of blocks sees it: bytes at any offset. Implemented by volumes, served by `nbd/`.
 * Offsets and lengths are in bytes, need not be aligned, and lie within the device (the caller checks that).
 */
export interface AllocationRun {
  readonly lengthBytes: number;
  /** Nothing is stored for it (and it reads as zeroes). */
  readonly hole: boolean;
  readonly zero: boolean;
}

export interface BlockDevice {
  readonly sizeBytes: number;
  /** Preferred unit of requests; others cost a read of what surrounds them. */
  readonly blockBytes: number;
  readonly readOnly: boolean;
  /** Reads at once when nothing has to be waited for; false: use read(). Spares a turn of the event loop for what is in the page cache. */
  tryRead(offset: number, into: Buffer): boolean;
  read(offset: number, into: Buffer): Promise<void>;
  /** Resolved: a later read sees it, and a crash of the process (not of the host) keeps it. `bytes` may be reused then. */
  write(offset: number, bytes: Buffer): Promise<void>;
  /** `keepSpace`: don't punch a hole. Durable like write(). */
  zero(offset: number, lengthBytes: number, keepSpace: boolean): Promise<void>;
  /** Reads as zeroes afterwards. */
  trim(offset: number, lengthBytes: number): Promise<void>;
  /** Everything whose write(), zero() or trim() had resolved before the call survives a crash of the host. */
  flush(): Promise<void>;
  /** Runs from `offset` on, at most `runsMax`; they may end before `offset + lengthBytes`, never after. At least one run. */
  allocation(offset: number, lengthBytes: number, runsMax: number): Promise<readonly AllocationRun[]>;
}
