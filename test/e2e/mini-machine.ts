/**
 * A machine in one process: the agent's real tracker, reader, cut, cycle, hash store and session, with a receiver in memory. Thousands of points
 * can be made and looked at in a minute. It begins with empty disks of which the receiver holds as much, so without a first copy.
 */
import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { CutContext } from '../../agent/cycle/cut.js';
import { MessagePool } from '../../agent/cycle/chunk-sender.js';
import { HashStore } from '../../agent/cycle/hash-store/store.js';
import {
  CutNotReached,
  runCycle,
  SeriesEnded,
  type AskedPoint,
  type CycleResult,
} from '../../agent/cycle/machine-cycle.js';
import { ProtectedDisk } from '../../agent/cycle/protected-disk.js';
import { ReadPool } from '../../agent/cycle/read-pool.js';
import { DiskReader } from '../../agent/cycle/reader.js';
import { sweep } from '../../agent/cycle/sweep.js';
import { WindowArena } from '../../agent/cycle/window-arena.js';
import { Sysfs } from '../../agent/disks/sysfs.js';
import { bootId } from '../../agent/open-disk.js';
import { presyncFilesystems, withFrozen } from '../../agent/quiesce/freeze.js';
import { freezePlanFor } from '../../agent/quiesce/mounts.js';
import { ReceiverSession } from '../../agent/session/session.js';
import { EbpfTracker, type EbpfTrackerOptions } from '../../agent/tracker/ebpf/tracker.js';
import type { MarkTracker } from '../../agent/tracker/tracker.js';
import { systemClock } from '../../shared/clock.js';
import { FREEZE_DEADLINE_MS, MESSAGE_BUFFERS } from '../../shared/limits.js';
import { silentLogger } from '../../shared/log.js';
import { asPoint, type MachineId } from '../../shared/units.js';
import { PROTOCOL_VERSION } from '../../shared/wire/messages.js';
import { LoopDisk } from './loop-disk.js';
import { MemoryReceiver } from './memory-receiver.js';
import { BUILD } from './program.js';

export interface MiniOptions {
  /** Sizes of the disks. */
  readonly disks: readonly number[];
  /** Unit of tracking; 4 KiB unless given. */
  readonly blockBytes?: number;
  readonly tracker?: Pick<EbpfTrackerOptions, 'mode' | 'testOnlyDisable'>;
  /** Stands between the tracker and the cycle, e.g. to make it lie. */
  readonly wrap?: (tracker: MarkTracker) => MarkTracker;
  readonly naive?: boolean;
  readonly cutDeadlineMs?: number;
  /** Freezes the filesystems on the disks when a cut isn't reached. */
  readonly freeze?: boolean;
  /** Numbers in [0, 1) that choose the clean sample. */
  readonly random?: () => number;
}

export interface MiniCounts {
  points: number;
  /** Cuts that weren't reached, and why the last one wasn't. */
  skipped: number;
  skipReason: string;
  /** Why series ended. */
  readonly doubts: string[];
  /** Points for which filesystems were frozen. */
  frozen: number;
  passes: number;
  /** Of the largest point. */
  changedBytesMax: number;
  /** Longest, from the first read of a window to the flip that proved it. */
  cutMsMax: number;
}

/** A tracker of which some methods are replaced, to make it lie. */
export const wrapTracker = (tracker: MarkTracker, replaced: Partial<MarkTracker>): MarkTracker =>
  new Proxy(tracker, {
    get(target, name): unknown {
      const mine: unknown = Reflect.get(replaced, name);
      if (mine !== undefined) return mine;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });

let serial = 0;

export class MiniMachine {
  readonly disks: readonly LoopDisk[];
  readonly receiver: MemoryReceiver;
  readonly counts: MiniCounts = {
    points: 0,
    skipped: 0,
    skipReason: '',
    doubts: [],
    frozen: 0,
    passes: 0,
    changedBytesMax: 0,
    cutMsMax: 0,
  };
  readonly tracker: MarkTracker;
  readonly #folder = mkdtempSync('/dev/shm/afterimage-mini-');
  readonly #pinDirectory = `/sys/fs/bpf/afterimage-mini-${process.pid}-${serial++}`;
  readonly #options: MiniOptions;
  readonly #protected: ProtectedDisk[] = [];
  readonly #session: ReceiverSession;
  readonly #readPool = new ReadPool();
  readonly #messagePool = new MessagePool(MESSAGE_BUFFERS);
  readonly #arena = new WindowArena();

  private constructor(options: MiniOptions) {
    this.#options = options;
    this.disks = options.disks.map((sizeBytes, i) => new LoopDisk(join(this.#folder, `disk${i}.img`), sizeBytes));
    const tracker = new EbpfTracker({ pinDirectory: this.#pinDirectory, ...options.tracker });
    this.tracker = options.wrap === undefined ? tracker : options.wrap(tracker);
    this.receiver = new MemoryReceiver(this.disks.map((d, i) => d.trackable(`disk${i}`, options.blockBytes)));
    this.#session = new ReceiverSession(this.receiver, { take: async () => undefined }, silentLogger(), systemClock);
  }

  static async open(options: MiniOptions): Promise<MiniMachine> {
    const machine = new MiniMachine(options);
    for (const [i, disk] of machine.disks.entries()) await machine.#protect(disk, `disk${i}`);
    await machine.#session.hello({
      type: 'hello',
      protocol: PROTOCOL_VERSION,
      program: 'test',
      machine: randomUUID() as MachineId,
      generation: 1,
      hardwareId: 'test',
      session: randomUUID(),
      description: { hostname: 'test', os: 'test', cpus: 1, memoryBytes: 0, firmware: 'unknown', nics: [] },
      inDoubtCycle: null,
      disks: [],
    });
    return machine;
  }

  async #protect(source: LoopDisk, id: string): Promise<void> {
    const trackable = source.trackable(id, this.#options.blockBytes);
    const { series } = this.tracker.arm(trackable);
    const { store } = await HashStore.open({
      dir: join(this.#folder, `hashes-${id}`),
      disk: trackable.id,
      geometry: trackable.geometry,
      bootId: bootId(),
      clock: systemClock,
      syncJournal: false,
    });
    await store.reset({ hashes: 'zero', point: asPoint(0), committedSeries: series, reason: 'empty disk' });
    const disk = new ProtectedDisk({
      id: trackable.id,
      device: source.device,
      geometry: trackable.geometry,
      reader: new DiskReader({
        path: source.device,
        geometry: trackable.geometry,
        pool: this.#readPool,
        isPresent: () => true,
      }),
      store,
      trackable,
      scanReason: '',
    });
    disk.series = series;
    disk.index = this.#protected.length;
    this.#protected.push(disk);
  }

  /** One cycle. Null when its cut wasn't reached, or when a series ended (the comparison that follows is made at once). */
  async cycle(asked?: AskedPoint): Promise<CycleResult | null> {
    const { counts } = this;
    try {
      const result = await runCycle(this.#protected, [], null, {
        session: this.#session,
        tracker: this.tracker,
        pool: this.#messagePool,
        arena: this.#arena,
        clock: systemClock,
        random: this.#options.random ?? Math.random,
        randomId: randomUUID,
        cutDeadlineMs: this.#options.cutDeadlineMs ?? 2_000,
        quiesce: this.#quiesce(),
        testOnlyNaive: this.#options.naive === true,
        ...(asked === undefined ? {} : { asked }),
      });
      counts.points++;
      if (result.cut.freezeMs > 0) counts.frozen++;
      counts.passes += result.cut.passes;
      counts.changedBytesMax = Math.max(counts.changedBytesMax, result.changedBytes);
      counts.cutMsMax = Math.max(counts.cutMsMax, result.cut.cutMs);
      return result;
    } catch (error) {
      if (error instanceof CutNotReached) {
        counts.skipped++;
        counts.skipReason = error.message;
      } else if (error instanceof SeriesEnded) await this.#compare(error);
      else throw error;
      return null;
    }
  }

  /** As the agent does it, but with the guard's program from the build. */
  #quiesce(): CutContext['quiesce'] {
    if (this.#options.freeze !== true) return { unavailable: 'not asked for' };
    const sources = this.disks.map(({ device, sysName }) => ({ kind: 'block', name: sysName, path: device }) as const);
    const filesystems = freezePlanFor(new Sysfs(), sources).freeze;
    if (filesystems.length === 0) return { unavailable: 'nothing is mounted' };
    const options = {
      deadlineMs: FREEZE_DEADLINE_MS,
      clock: systemClock,
      log: silentLogger(),
      guardProgram: join(BUILD, 'agent/quiesce/guard-main.js'),
    };
    return {
      use: {
        presync: async () => {
          await presyncFilesystems(filesystems, systemClock);
        },
        withFrozen: async (beforeFreeze, work) => {
          const { held, freezeMs, ...rest } = await withFrozen(filesystems, { ...options, beforeFreeze }, work);
          const reason = 'reason' in rest ? `${rest.reason}: ${rest.detail}` : '';
          return { held, freezeMs, reason, level: 'filesystem', mayFreeze: false };
        },
      },
    };
  }

  /** As replication does it. */
  async #compare({ disk: id, why }: SeriesEnded): Promise<void> {
    this.counts.doubts.push(why);
    const disk = this.#protected.find((d) => d.id === id);
    if (disk === undefined) throw new Error(`no disk ${id}`);
    disk.series = this.tracker.restartSeries(id, why).series;
    await disk.store.beginSweep('comparison', disk.series);
    disk.carry.clear();
    const plan = { kind: 'comparison', only: null, firstSegment: 0 } as const;
    await sweep(disk, plan, { session: this.#session, pool: this.#messagePool, shouldPause: () => false });
  }

  /** Blocks in which the disks differ from the last point. Means something only while nothing is written since. */
  differences(): number[] {
    return this.disks.flatMap((disk, i) => disk.differences(this.receiver.images[i] ?? Buffer.alloc(0)));
  }

  async cleanUp(): Promise<void> {
    this.#session.close('test is over');
    for (const { reader, store } of this.#protected) {
      reader.close();
      await store.close().catch(() => undefined);
    }
    this.tracker.close();
    rmSync(this.#pinDirectory, { recursive: true, force: true });
    for (const disk of this.disks) disk.remove();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
