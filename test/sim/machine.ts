/**
 * The hardware and kernel under a simulated agent: disks, change tracking, the files of its hash stores, what it remembers of its generation. All of
 * it outlives the agent's process; a power cut takes the kernel's memory and what no sync has made durable.
 */
import type { StateFile, StateFolder } from '../../agent/cycle/hash-store/files.js';
import type { ReadSource } from '../../agent/cycle/read-source.js';
import { NO_FLEET, type KnownFleet } from '../../agent/session/route.js';
import { asMachineId, type DiskId, type MachineId } from '../../shared/units.js';
import { bytesOfBlocks } from '../../shared/blocks/geometry.js';
import { MemoryFolder } from '../hash-store/memory-folder.js';
import { SimDisk, type DiskShape } from './disk.js';
import type { SimProcess } from './process.js';
import type { Rng } from './rng.js';
import type { Scheduler } from './scheduler.js';
import { SimKernel } from './tracker.js';
import { Workload, type WorkloadShape } from './workload.js';

/** Of one system call on the agent's own disk, at most. */
const FILE_CALL_MS = 0.5;
/** Of one read of a protected disk. */
const READ_MS = 4;

/** An operator's command in the agent's configuration, or the operator in person. */
export type Stopper = 'hook' | 'operator';

export interface MachineShape {
  readonly disks: readonly DiskShape[];
  readonly workload: WorkloadShape;
  /** Its source encrypts what leaves it. */
  readonly encrypts?: boolean;
}

export class SimMachine {
  readonly id: MachineId;
  readonly disks: readonly SimDisk[];
  readonly kernel: SimKernel;
  readonly workload: Workload;
  readonly #scheduler: Scheduler;
  readonly #rng: Rng;
  readonly #folders = new Map<DiskId, MemoryFolder>();
  #isStateFull = false;
  #knownFleet: KnownFleet = NO_FLEET;
  generation = 1;
  /** What the agent keeps of a final cut. */
  finalCutNote: string | null = null;
  /** Times that it was booted. */
  boots = 1;
  /** The world comes to its end: nothing is written any more. */
  isStill = false;
  /** Since a power cut. */
  #isOff = false;
  /** Who has shut its workload down; it runs when nobody has. */
  readonly #down = new Set<Stopper>();
  /** Told before a workload that was shut down runs again. */
  onRun: (by: Stopper) => void = () => undefined;
  readonly encrypts: boolean;

  constructor(
    scheduler: Scheduler,
    readonly name: string,
    number: number,
    readonly shape: MachineShape,
    rng: Rng,
    nextContent: () => number,
  ) {
    this.#scheduler = scheduler;
    this.#rng = rng;
    this.encrypts = shape.encrypts ?? false;
    this.id = asMachineId(rng.fork('id').uuid());
    this.disks = shape.disks.map((disk, i) => new SimDisk(scheduler, number * 16 + i, `disk${i}`, disk));
    this.kernel = new SimKernel(scheduler, this.disks, rng.fork('kernel'));
    this.workload = new Workload(scheduler, this.disks, rng.fork('workload'), shape.workload, nextContent);
    for (const disk of this.disks) this.#folders.set(disk.id, new MemoryFolder());
  }

  /** Nothing new is written until the same one lets it run again, also after a power cut. */
  shutDown(by: Stopper): void {
    this.#down.add(by);
    this.workload.stop();
  }

  letRun(by: Stopper): void {
    if (!this.#down.delete(by)) return;
    this.onRun(by);
    if (!this.#isOff) this.#run();
  }

  isDown(by: Stopper): boolean {
    return this.#down.has(by);
  }

  /** Its workload runs, unless it was shut down. */
  boot(): void {
    this.#isOff = false;
    this.#run();
  }

  #run(): void {
    if (this.#down.size === 0 && !this.isStill) this.workload.start();
  }

  powerCut(): void {
    this.boots++;
    this.#isOff = true;
    this.workload.stop();
    for (const disk of this.disks) {
      disk.powerCut(this.#rng);
      this.#folders.set(disk.id, this.#folderOf(disk.id).afterPowerCut(this.#rng));
    }
    this.kernel.reboot();
    this.setStateFull(this.#isStateFull);
  }

  /** No room for the agent's own files. */
  setStateFull(isFull: boolean): void {
    this.#isStateFull = isFull;
    for (const folder of this.#folders.values()) folder.fullAt(isFull ? 0 : Infinity);
  }

  /** The folder of a hash store as a process sees it: calls take time, and a process that is gone makes none. */
  hashFolder(id: DiskId, process: SimProcess): StateFolder {
    const folder = this.#folderOf(id);
    const call = async <T>(what: string, work: () => Promise<T>): Promise<T> => {
      await process.after(this.#rng.between(0, FILE_CALL_MS), what);
      const result = await work();
      return result;
    };
    const wrap = (file: StateFile): StateFile => ({
      readAt: (into, bytes, position) => {
        process.mustLive();
        return file.readAt(into, bytes, position);
      },
      writeAt: (from, start, bytes, position) => {
        process.mustLive();
        file.writeAt(from, start, bytes, position);
      },
      append: (from, position) => call('append', () => file.append(from, position)),
      sync: () => call('file sync', () => file.sync()),
      truncate: (bytes) => call('truncate', () => file.truncate(bytes)),
      sizeBytes: () => call('size', () => file.sizeBytes()),
      close: () => call('close', () => file.close()),
    });
    return {
      list: () => call('list', () => folder.list()),
      create: (name) => call('create', async () => wrap(await folder.create(name))),
      open: (name) =>
        call('open', async () => {
          const file = await folder.open(name);
          return file === null ? null : wrap(file);
        }),
      rename: (from, to) => call('rename', () => folder.rename(from, to)),
      remove: (name) => call('remove', () => folder.remove(name)),
      sync: () => call('folder sync', () => folder.sync()),
    };
  }

  /** A disk as a process reads it. */
  source(disk: SimDisk, process: SimProcess): ReadSource {
    const { blockBytes, blockCount } = disk.geometry;
    const copy = (buffer: Buffer, offset: number, position: number, from: number, to: number): void => {
      const first = position / blockBytes + from;
      if (to > from) disk.copy(buffer, offset + from * blockBytes, first, to - from);
    };
    const blocksOf = (lengthBytes: number, position: number): number =>
      Math.min(Math.floor(lengthBytes / blockBytes), blockCount - position / blockBytes);
    const got = (position: number, blocks: number): number =>
      bytesOfBlocks(disk.geometry, position / blockBytes, blocks);
    return {
      bufferedReason: null,
      // Two moments: what is written meanwhile is in one part and not in the other.
      read: async (buffer, offset, lengthBytes, position) => {
        const blocks = blocksOf(lengthBytes, position);
        const split = this.#rng.below(blocks + 1);
        await process.after(this.#rng.between(0, READ_MS), `reads disk ${disk.number}`);
        copy(buffer, offset, position, split, blocks);
        await process.after(this.#rng.between(0, READ_MS), `reads disk ${disk.number}`);
        copy(buffer, offset, position, 0, split);
        return got(position, blocks);
      },
      readSync: (buffer, offset, lengthBytes, position) => {
        process.mustLive();
        const blocks = blocksOf(lengthBytes, position);
        const split = this.#rng.below(blocks + 1);
        this.workload.meanwhile();
        copy(buffer, offset, position, split, blocks);
        this.workload.meanwhile();
        copy(buffer, offset, position, 0, split);
        this.workload.meanwhile();
        return got(position, blocks);
      },
      close: () => undefined,
    };
  }

  /** The receivers that its agent knows, over a restart: replaced as a whole, or not at all. */
  fleetFile(process: SimProcess): {
    readonly load: () => Promise<KnownFleet>;
    readonly keep: (fleet: KnownFleet) => Promise<void>;
  } {
    return {
      load: () => Promise.resolve(this.#knownFleet),
      keep: async (fleet) => {
        await process.after(this.#rng.between(0, FILE_CALL_MS), 'keeps the receivers that it knows');
        this.#knownFleet = fleet;
      },
    };
  }

  diskOf(id: DiskId): SimDisk {
    return this.kernel.diskOf(id);
  }

  get nowMs(): number {
    return this.#scheduler.nowMs;
  }

  #folderOf(id: DiskId): MemoryFolder {
    const folder = this.#folders.get(id);
    if (folder === undefined) throw new Error(`no hash store for ${id}`);
    return folder;
  }
}
