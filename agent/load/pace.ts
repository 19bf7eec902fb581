/**
 * What the reading of disks asks before it goes on. Types, and the pace of who isn't limited.
 */
export interface Pace {
  /** Resolves when what was taken before is paid for; a piece of work that can be put off begins then. */
  settled(): Promise<void>;
  /** Resolves when a read of so many bytes may begin, and counts it. Rejects when the signal is aborted, or the work's own end has come. */
  read(bytes: number, signal: AbortSignal): Promise<void>;
  /** Counts a read that must not wait: within a cut, or while applications are held back. */
  count(bytes: number): void;
}

const now = Promise.resolve();

export const UNLIMITED: Pace = { settled: () => now, read: () => now, count: () => undefined };

/** The same limits for reads that are counted and never wait. */
export const unpaced = (pace: Pace): Pace => ({
  settled: () => now,
  read: (bytes) => {
    pace.count(bytes);
    return now;
  },
  count: (bytes) => pace.count(bytes),
});
