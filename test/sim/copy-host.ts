/**
 * What a receiver's host has of the copies of machines that were failed over to it: their records, volumes and guests. They outlive the receiver's process;
 * a guest writes while its volumes are served and nobody holds them. What a copy's first content is comes through the real reading of its point.
 */
import { AfterimageError } from '../../shared/errors.js';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { CHUNK_PLAIN_BYTES_MAX } from '../../shared/limits.js';
import type { DiskId } from '../../shared/units.js';
import type { CopyFile, CopyRecords } from '../../receiver/failover/copy-file.js';
import type { ComputeProvider } from '../../receiver/failover/compute/provider.js';
import type { CopyVolume, FailoverParts, VolumeOptions } from '../../receiver/failover/parts.js';
import type { Instance } from '../../receiver/catalog/recovery.js';
import type { PointContent } from '../../receiver/volume/content.js';
import type { VolumeCut } from '../../receiver/volume/cut.js';
import { parseBlock, renderBlock, type Halves } from './blocks.js';
import { SimDisk } from './disk.js';
import type { SimMachine } from './machine.js';
import type { SimProcess } from './process.js';
import type { Rng } from './rng.js';
import type { Scheduler } from './scheduler.js';
import { Workload } from './workload.js';

/** Of one call to files or guests of the host, at most. */
const CALL_MS = 2;

export interface CopyWorld {
  readonly scheduler: Scheduler;
  readonly machines: readonly SimMachine[];
  readonly nextContent: () => number;
  /** A copy's disk was cut by this process: what it holds now is what the next point of the copy that it commits must hold. */
  readonly cut: (machine: SimMachine, disk: SimDisk, by: string) => void;
  /** A volume of a copy is made, of this point. */
  readonly opened: (machine: SimMachine, copy: Instance, point: number) => void;
  /** A guest is started. */
  readonly booted: (machine: SimMachine, copy: Instance) => void;
}

/** A volume as it lies on the host. */
interface Lying {
  readonly disk: SimDisk;
  readonly baseKey: string | null;
  changed: BlockSet;
  /** Of a cut that was begun and of which nobody has said what became of it. */
  cut: BlockSet | null;
}

interface Guest {
  readonly workload: Workload;
  startedAtMs: number;
  isRunning: boolean;
}

export class CopyHost {
  readonly #world: CopyWorld;
  readonly #rng: Rng;
  readonly #records = new Map<string, string>();
  readonly #volumes = new Map<string, Lying>();
  readonly #guests = new Map<string, Guest>();
  /** By the id of the copy: the process that serves its volumes. */
  readonly #served = new Map<string, SimProcess>();
  #held = 0;

  constructor(world: CopyWorld, rng: Rng) {
    this.#world = world;
    this.#rng = rng;
  }

  /** Guests that run in earnest: nobody but them may write their machines. */
  stop(): void {
    for (const { workload } of this.#guests.values()) workload.stop();
  }

  parts(
    process: SimProcess,
  ): Pick<FailoverParts, 'copies' | 'openVolume' | 'startNbd' | 'nbdUri' | 'provider' | 'bootCheck'> {
    process.onDeath(() => {
      for (const [id, by] of this.#served) if (by === process) this.#served.delete(id);
      this.#held = 0;
    });
    return {
      copies: this.#recordsFor(process),
      openVolume: (options) => this.#open(process, options),
      startNbd: async (socketPath) => {
        const id = socketPath.split('/').at(-2) ?? '';
        await this.#call(process, 'serves a copy');
        this.#served.set(id, process);
        return {
          stop: async () => {
            if (this.#served.get(id) === process) this.#served.delete(id);
            // What is in flight is answered before the server has stopped.
            while ((this.disksOf(id) ?? []).some((disk) => disk.inFlight.length > 0))
              await process.after(1, 'waits for writes to a copy');
          },
        };
      },
      nbdUri: (socketPath, name) => `nbd+unix:///${name}?socket=${socketPath}`,
      provider: () => this.#provider(process),
      bootCheck: () => Promise.reject(new Error('no boot check in the simulation')),
    };
  }

  #call(process: SimProcess, what: string): Promise<void> {
    return process.after(this.#rng.between(0, CALL_MS), what);
  }

  #recordsFor(process: SimProcess): CopyRecords {
    const load = async (id: string): Promise<CopyFile | null> => {
      await this.#call(process, 'reads the record of a copy');
      const text = this.#records.get(id);
      return text === undefined ? null : (JSON.parse(text) as CopyFile);
    };
    const save = async (file: CopyFile): Promise<void> => {
      const text = JSON.stringify(file);
      await this.#call(process, 'keeps the record of a copy');
      this.#records.set(file.instance.id, text);
    };
    return {
      ...{ load, save, keep: save },
      list: async () => {
        await this.#call(process, 'lists copies');
        return [...this.#records.keys()].sort();
      },
      remove: async (id) => {
        await this.#call(process, 'removes a copy');
        for (const folder of this.#volumes.keys()) if (folder.includes(id)) this.#volumes.delete(folder);
        this.#records.delete(id);
      },
    };
  }

  #fileOf(id: string): { readonly machine: SimMachine; readonly instance: Instance } {
    const file = JSON.parse(this.#records.get(id) ?? 'null') as CopyFile | null;
    const machine = this.#world.machines.find((m) => m.id === file?.machine.id);
    if (machine === undefined || file === null) throw new Error(`copy ${id} has no record`);
    return { machine, instance: file.instance };
  }

  /** The disks of a copy, as its guest left them; null: they aren't here. */
  disksOf(instance: string): readonly SimDisk[] | null {
    const disks = [...this.#volumes].filter(([folder]) => folder.includes(instance)).map(([, { disk }]) => disk);
    return disks.length === 0 ? null : disks;
  }

  runs(instance: string): boolean {
    return this.#guests.get(instance)?.isRunning === true;
  }

  /** What is left of copies that nobody keeps for what was not replicated. */
  leftovers(): string[] {
    const files = [...this.#records.values()].map((text) => JSON.parse(text) as CopyFile);
    const kept = files.filter(({ fate }) => fate === 'lost').map(({ instance }) => instance.id);
    const isKept = (name: string): boolean => kept.some((id) => name.includes(id));
    return [
      ...files.filter(({ fate }) => fate !== 'lost').map(({ instance: { kind, id } }) => `${kind} ${id}`),
      ...[...this.#volumes.keys()].filter((folder) => !isKept(folder)),
      ...[...this.#guests].flatMap(([id, { isRunning }]) => (isRunning || !isKept(id) ? [`guest of ${id}`] : [])),
    ];
  }

  async #open(process: SimProcess, options: VolumeOptions): Promise<CopyVolume> {
    const { folder, baseKey } = options;
    const { machine, instance } = this.#fileOf(folder.split('/').at(-3) ?? '');
    let lying = this.#volumes.get(folder);
    if (lying !== undefined && baseKey !== null && lying.baseKey !== baseKey)
      throw new Error(`${folder} stands on ${lying.baseKey}`);
    if (lying === undefined) {
      const { content } = options;
      if (content === null || baseKey === null) throw nothingThere(folder);
      this.#world.opened(machine, instance, Number(baseKey.split(' ')[0]));
      lying = { disk: await this.#fill(machine, options.disk, content), baseKey, changed: new BlockSet(), cut: null };
      await this.#call(process, 'opens a volume');
      this.#volumes.set(folder, lying);
      const found = lying;
      lying.disk.hooks = { submitted: () => undefined, completed: (block) => found.changed.add(block) };
    }
    // Nobody knows what became of it.
    if (lying.cut !== null) lying.changed.addAll(lying.cut);
    lying.cut = null;
    return this.#volume(process, machine, lying);
  }

  async #fill(machine: SimMachine, id: DiskId, content: PointContent): Promise<SimDisk> {
    const { number } = machine.diskOf(id);
    const { blockBytes, sizeBytes, blockCount } = content.geometry;
    const disk = new SimDisk(this.#world.scheduler, number, id, { blockBytes, sizeBytes });
    const scratch = Buffer.alloc(blockBytes);
    const bytes = Buffer.alloc(CHUNK_PLAIN_BYTES_MAX);
    for (const run of await content.runs(0, blockCount)) {
      for (let at = 0; !run.zero && at < run.count; at += CHUNK_PLAIN_BYTES_MAX / blockBytes) {
        const count = Math.min(run.count - at, CHUNK_PLAIN_BYTES_MAX / blockBytes);
        await content.read(run.first + at, count, bytes.subarray(0, count * blockBytes));
        for (let i = 0; i < count; i++) {
          const block = run.first + at + i;
          const halves = parseBlock(bytes.subarray(i * blockBytes, (i + 1) * blockBytes), number, block, scratch);
          if (halves === null)
            throw new Error(`${machine.name} ${id}: block ${block} of a copy holds what nobody wrote`);
          disk.begin(block, halves);
        }
      }
    }
    return disk;
  }

  #volume(process: SimProcess, machine: SimMachine, lying: Lying): CopyVolume {
    const { disk } = lying;
    const { blockBytes, sizeBytes } = disk.geometry;
    const unused = (): never => {
      throw new Error('guests of the simulation write to their disks by themselves');
    };
    let isHolding = false;
    const resume = (): void => {
      if (isHolding) this.#held--;
      isHolding = false;
    };
    return {
      ...{ disk: disk.id, geometry: disk.geometry, sizeBytes, blockBytes, readOnly: false },
      get changedBlocks() {
        return lying.changed.size;
      },
      ...{
        tryRead: unused,
        read: unused,
        write: unused,
        zero: unused,
        trim: unused,
        flush: unused,
        allocation: unused,
      },
      hold: async () => {
        isHolding = true;
        this.#held++;
        while (disk.inFlight.length > 0) await process.after(1, 'waits for writes to a copy');
      },
      cut: () => cutOf(lying, () => this.#world.cut(machine, disk, process.name)),
      resume,
      isComplete: true,
      held: (blocks) => blocks.clone(),
      markChanged: (blocks) => lying.changed.addAll(blocks),
      hydrate: () => Promise.resolve(),
      stats: () => ({ localBytes: 0, hydratedPercent: null }),
      close: () => this.#call(process, 'closes a volume'),
    };
  }

  #provider(process: SimProcess): ComputeProvider {
    const end = async (id: string): Promise<void> => {
      await this.#call(process, 'ends a guest');
      const guest = this.#guests.get(id);
      guest?.workload.stop();
      if (guest !== undefined) guest.isRunning = false;
    };
    return {
      kind: 'none',
      problems: () => Promise.resolve([]),
      start: async ({ instance }) => {
        await this.#call(process, 'starts a guest');
        const guest = this.#guests.get(instance) ?? this.#guestOf(instance);
        this.#guests.set(instance, guest);
        guest.startedAtMs = process.clock.nowMs();
        const { machine, instance: copy } = this.#fileOf(instance);
        if (!guest.isRunning) this.#world.booted(machine, copy);
        guest.isRunning = true;
        guest.workload.start();
      },
      state: async ({ instance }) => {
        await this.#call(process, 'looks at a guest');
        const guest = this.#guests.get(instance);
        const isRunning = guest?.isRunning === true;
        return {
          running: isRunning,
          detail: isRunning ? 'running' : 'not there',
          startedAtMs: guest?.startedAtMs ?? null,
        };
      },
      shutdown: async ({ instance }) => {
        await end(instance);
        return 'clean';
      },
      kill: ({ instance }) => end(instance),
      cleanup: async ({ instance }) => {
        await end(instance);
        this.#guests.delete(instance);
      },
    };
  }

  #guestOf(instance: string): Guest {
    const { scheduler, nextContent } = this.#world;
    const { machine } = this.#fileOf(instance);
    const disks = this.disksOf(instance) ?? [];
    const rng = this.#rng.fork(instance);
    const workload = new Workload(scheduler, disks, rng, machine.shape.workload, nextContent);
    workload.mayWrite = () => this.#held === 0 && this.#served.get(instance)?.isRunning === true;
    return { workload, startedAtMs: 0, isRunning: false };
  }
}

const nothingThere = (folder: string): AfterimageError =>
  new AfterimageError(`there is no volume in ${folder}`, { code: 'volume-incomplete', kind: 'refused' });

/** The blocks that changed, as they are now. */
function cutOf(lying: Lying, onCut: () => void): VolumeCut {
  const { disk, changed } = lying;
  const { blockBytes } = disk.geometry;
  if (disk.inFlight.length > 0 || lying.cut !== null) throw new Error('a cut of a copy while something is under way');
  const now = new Map<number, Halves>();
  for (const { first, count } of changed.extents())
    for (let block = first; block < first + count; block++) now.set(block, disk.halvesOf(block));
  lying.changed = new BlockSet();
  lying.cut = changed;
  onCut();
  return {
    changed,
    read: (first, count, into) => {
      for (let i = 0; i < count; i++)
        renderBlock(
          into,
          i * blockBytes,
          blockBytes,
          disk.number,
          first + i,
          now.get(first + i) ?? { low: 0, high: 0 },
        );
      return Promise.resolve();
    },
    end: (outcome) => {
      if (outcome === 'given-up') lying.changed.addAll(changed);
      lying.cut = null;
    },
  };
}
