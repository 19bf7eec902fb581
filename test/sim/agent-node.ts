/**
 * The agent of a simulated machine: the real AgentMachine, in a process that can be killed, paused and started again on the same hardware.
 */
import { messageOf } from '../../shared/errors.js';
import type { Logger } from 'pino';
import { agentConfigSchema, type AgentConfig } from '../../agent/config.js';
import { MessagePool } from '../../agent/cycle/chunk-sender.js';
import { ReadPool } from '../../agent/cycle/read-pool.js';
import { WindowArena } from '../../agent/cycle/window-arena.js';
import type { InspectedDevice } from '../../agent/disks/inspect.js';
import { Sysfs, type BlockDevice, type DiskCounters } from '../../agent/disks/sysfs.js';
import { readDiskState } from '../../agent/disks/watch.js';
import type { SourceKeys } from '../../agent/keys/source-keys.js';
import { AgentMachine } from '../../agent/machine.js';
import { FinalCut, type FinalCutDeps } from '../../agent/final-cut.js';
import type { FinalCutting, MachineParts } from '../../agent/machine-parts.js';
import { openInspected } from '../../agent/open-disk.js';
import type { ProtectionList } from '../../agent/protection.js';
import type { AgentSnapshot } from '../../agent/status.js';
import type { MarkTracker } from '../../agent/tracker/tracker.js';
import type { RestoreTarget } from '../../agent/restore/target.js';
import { CHUNK_PLAIN_BYTES_MAX, MESSAGE_BUFFERS, READS_IN_FLIGHT } from '../../shared/limits.js';
import { KIB, SECTOR_BYTES } from '../../shared/units.js';
import type { Transport } from '../../shared/wire/transport.js';
import type { SimDisk } from './disk.js';
import type { SimMachine } from './machine.js';
import { SimProcess } from './process.js';
import { SimTarget } from './restore-target.js';
import type { Rng } from './rng.js';
import type { Scheduler } from './scheduler.js';
import { groundOf, START, STOP } from './shutdown-hook.js';
import { SimTracker } from './tracker.js';

/** Reads of the simulation are small, so that many stand beside each other. */
const READ_BUFFER_BYTES = 256 * KIB;
/** Of a restore, under way at once. */
const CHUNKS = 4;
/** Of one flush before a last cut, at most. */
const FLUSH_MS = 3;

export interface AgentWorld {
  readonly scheduler: Scheduler;
  readonly log: (process: SimProcess) => Logger;
  readonly connect: (
    process: SimProcess,
    machine: SimMachine,
    to: { readonly address: string; readonly timeoutMs: number | undefined },
  ) => Promise<Transport>;
  /** Addresses of receivers that agents are configured with, that of the enrolment first; absent: there is one, and nothing of it is kept. */
  readonly addresses?: readonly string[];
  /** The agent's code ended by an error that nothing caught. */
  readonly onCrash: (what: string) => void;
  /** Null: the machine doesn't encrypt. */
  readonly sourceKeys: (machine: SimMachine, rng: Rng) => SourceKeys | null;
  /** Stands between tracker and agent: planted bugs. */
  readonly wrapTracker: (tracker: MarkTracker) => MarkTracker;
  /** A restore writes to a machine's disks now. */
  readonly restoring?: (machine: SimMachine) => void;
}

const pathOf = (id: string): string => `/dev/${id}`;

class SimSysfs extends Sysfs {
  readonly #disks: readonly SimDisk[];

  constructor(disks: readonly SimDisk[]) {
    super('/nonexistent');
    this.#disks = disks;
  }

  override device(name: string): BlockDevice | null {
    const disk = this.#disks.find((d) => d.id === name);
    if (disk === undefined) return null;
    const facts = {
      name,
      disk: name,
      major: 259,
      minor: disk.number,
      partition: null,
      startSector: 0,
      sectorCount: disk.geometry.sizeBytes / SECTOR_BYTES,
      diskseq: `${disk.number}`,
      loop: null,
    };
    return facts as unknown as BlockDevice;
  }

  override counters(name: string): DiskCounters | null {
    const disk = this.#disks.find((d) => d.id === name);
    if (disk === undefined) return null;
    const { completed: writeRequests, inFlight } = disk;
    return { writeRequests, writeSectors: 0, writesInFlight: inFlight.length, discardRequests: 0, discardSectors: 0 };
  }
}

export class AgentNode {
  readonly #world: AgentWorld;
  readonly #rng: Rng;
  readonly #config: AgentConfig;
  readonly #sysfs: SimSysfs;
  #agent: AgentMachine | null = null;
  #starts = 0;
  process: SimProcess;

  constructor(
    world: AgentWorld,
    readonly machine: SimMachine,
    rng: Rng,
    interval: string,
  ) {
    this.#world = world;
    this.#rng = rng;
    const receivers = world.addresses?.slice(1) ?? [];
    const failover = { preShutdown: [STOP], resume: [START] };
    this.#config = agentConfigSchema.parse({ interval, freeze: { enabled: false }, receivers, failover });
    this.#sysfs = new SimSysfs(machine.disks);
    this.process = new SimProcess(world.scheduler, `${machine.name}#0`);
    this.process.kill();
  }

  get isUp(): boolean {
    return this.process.isAlive;
  }

  /** Null while no agent runs. */
  status(): AgentSnapshot | null {
    return this.#agent === null || !this.isUp ? null : this.#agent.status.snapshot();
  }

  start(wallOffsetMs = 0): void {
    if (this.isUp) return;
    const { machine } = this;
    const process = new SimProcess(this.#world.scheduler, `${machine.name}#${++this.#starts}`);
    process.wallOffsetMs = wallOffsetMs;
    this.process = process;
    const rng = this.#rng.fork(process.name);
    const agent = new AgentMachine({
      config: this.#config,
      credentials: {
        machine: machine.id,
        name: machine.name,
        generation: machine.generation,
        receiver: this.#world.addresses?.[0] ?? 'receiver:7443',
        keyPem: '',
        certificatePem: '',
        caPem: '',
      },
      clock: process.clock,
      log: this.#world.log(process),
      program: 'simulation',
      random: rng.unit,
      randomId: () => rng.uuid(),
      parts: this.#parts(process, rng),
    });
    this.#agent = agent;
    agent.run(new AbortController().signal).then(
      () => this.#world.onCrash(`${process.name} ended by itself`),
      (error: unknown) => {
        if (process.isAlive)
          this.#world.onCrash(`${process.name} crashed: ${error instanceof Error ? error.stack : String(error)}`);
      },
    );
  }

  kill(): void {
    this.process.kill();
  }

  /** Somebody asks for the status as soon as others get their turn: it answers at any moment. */
  #askSoon(): void {
    this.#world.scheduler.after(0, `${this.machine.name} is asked for its status`, () => {
      try {
        this.status();
      } catch (error) {
        this.#world.onCrash(`${this.machine.name} has no answer when it is asked for its status: ${messageOf(error)}`);
      }
    });
  }

  #parts(process: SimProcess, rng: Rng): MachineParts {
    const { machine } = this;
    const keys = rng.fork('keys');
    const chunks = new ReadPool(CHUNKS, CHUNK_PLAIN_BYTES_MAX, (bytes) => Buffer.allocUnsafeSlow(bytes));
    const disks: ProtectionList['disks'] = machine.disks.map((disk) => ({
      id: disk.id,
      path: pathOf(disk.id),
      blockBytes: disk.geometry.blockBytes,
    }));
    const allocate = (bytes: number): Buffer => Buffer.allocUnsafeSlow(bytes);
    return {
      sysfs: this.#sysfs,
      tracker: {
        tracker: this.#world.wrapTracker(new SimTracker(machine.kernel, process, () => this.#askSoon())),
        reason: '',
      },
      memory: {
        reads: new ReadPool(READS_IN_FLIGHT, READ_BUFFER_BYTES, allocate),
        messages: new MessagePool(MESSAGE_BUFFERS),
        arena: new WindowArena(allocate),
      },
      hardwareId: () => hardwareIdOf(machine),
      describe: () => ({ hostname: machine.name, os: 'sim', cpus: 1, memoryBytes: 0, firmware: 'unknown', nics: [] }),
      protection: () => Promise.resolve({ disks, kept: [] }),
      openDisk: (entry, _list, _others, context) =>
        openInspected(entry, entry.path, this.#inspected(machine.diskOf(entry.id)), {
          ...context,
          ground: {
            bootId: machine.kernel.bootId,
            hashFolder: (id) => machine.hashFolder(id, process),
            openSource: () => machine.source(machine.diskOf(entry.id), process),
          },
        }),
      restore: {
        openTarget: ({ path }) => this.#target(path, process, rng.fork('restore')),
        chunks: () => chunks,
      },
      finalCut: (deps) => this.#finalCut(deps, process, rng.fork('final cut')),
      sourceKeys: () => Promise.resolve(this.#world.sourceKeys(machine, keys)),
      connect: ({ receiver: address }, { timeoutMs }) => this.#world.connect(process, machine, { address, timeoutMs }),
      ...(this.#world.addresses === undefined ? {} : { fleet: machine.fleetFile(process) }),
      keepGeneration: (generation) => {
        machine.generation = generation;
        return Promise.resolve();
      },
    };
  }

  #target(path: string, process: SimProcess, rng: Rng): RestoreTarget {
    const { machine } = this;
    const { scheduler, restoring = () => undefined, onCrash: violated } = this.#world;
    const disk = machine.disks.find(({ id }) => path === pathOf(id));
    if (disk === undefined) throw new Error(`no disk at ${path}`);
    return new SimTarget({ scheduler, rng: rng.fork(path), restoring, violated }, machine, disk, process);
  }

  async #finalCut(deps: FinalCutDeps, process: SimProcess, rng: Rng): Promise<FinalCutting> {
    const cut = await FinalCut.open(deps, groundOf(this.#world.scheduler, this.machine, process, rng));
    // There are no filesystems to flush.
    const flush = (): Promise<void> => process.after(rng.between(0, FLUSH_MS), 'flushes');
    return {
      get isStopped() {
        return cut.isStopped;
      },
      run: (order, work, ...rest) => cut.run(order, { ...work, flush }, ...rest),
      resume: (why) => cut.resume(why),
      answered: (isElsewhere) => cut.answered(isElsewhere),
      unanswered: () => cut.unanswered(),
      close: () => cut.close(),
    };
  }

  #inspected(disk: SimDisk): InspectedDevice {
    const source = { kind: 'block', name: disk.id, path: pathOf(disk.id) } as const;
    const state = readDiskState(this.#sysfs, source);
    if (state === null) throw new Error(`no disk ${disk.id}`);
    return {
      id: disk.id,
      identity: { id: disk.id, from: 'device', record: null },
      source,
      geometry: disk.geometry,
      trackable: {
        id: disk.id,
        major: 259,
        minor: disk.number,
        sysName: disk.id,
        startSector: 0,
        sectorCount: disk.geometry.sizeBytes / SECTOR_BYTES,
        geometry: disk.geometry,
      },
      untrackedReason: null,
      state,
      mounted: [],
      warnings: [],
    };
  }
}

export const hardwareIdOf = (machine: SimMachine): string => `hardware-${machine.id}`;
