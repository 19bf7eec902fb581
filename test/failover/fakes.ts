/**
 * A world for the failover engine: a store in memory, guests, volumes and a home that live on when a process dies, and processes that die at any step.
 * A step is every request to the store and every call of a part; the world checks after each that nobody writes who must not.
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { geometryOf } from '../../shared/blocks/geometry.js';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import { OWNERSHIP_POLL_MS, TASK_RETRY_MS } from '../../shared/limits.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, asMachineId, MIB } from '../../shared/units.js';
import type { ComputeProvider, LaunchSpec } from '../../receiver/failover/compute/provider.js';
import { FailoverEngine } from '../../receiver/failover/engine.js';
import type { CopyReplicator, CopyVolume, FailoverParts } from '../../receiver/failover/parts.js';
import { withFinding } from '../../receiver/catalog/damage.js';
import { updateDamage } from '../../receiver/catalog/damage-io.js';
import type { Manifest } from '../../receiver/catalog/manifest.js';
import { OwnedMachine } from '../../receiver/catalog/owned-machine.js';
import { readHighestManifest } from '../../receiver/catalog/manifest-io.js';
import { loadRecovery } from '../../receiver/catalog/recovery-io.js';
import type { PointContent } from '../../receiver/volume/content.js';
import { MemoryStore, storeThrough } from '../helpers/memory-store.js';

export const MACHINE = asMachineId('11111111-2222-4333-8444-555555555555');
const DISK = asDiskId('disk0');
const GEOMETRY = geometryOf(1 * MIB, 4096);
export const WALL_MS = 1_700_000_000_000;

/** The process is gone: nothing that it does after has an effect. */
export class ProcessDeath extends Error {}

export const ioError = (what: string): AfterimageError =>
  new AfterimageError(`the store does not answer: ${what}`, { code: 'test-io', kind: 'io' });

interface FakeGuest {
  running: boolean;
  startedAtMs: number;
  test: boolean;
  detail: string;
}

export class World {
  readonly store = new MemoryStore();
  readonly guests = new Map<string, FakeGuest>();
  readonly effects: string[] = [];
  readonly violations: string[] = [];
  /** Copies that a live process serves or replicates. */
  readonly served = new Map<string, Process>();
  readonly replicating = new Map<string, Process>();
  /** What is different in a volume from the chain's newest point, by its folder: set by marks, cleared by a point. */
  readonly home = {
    state: 'replicating' as 'replicating' | 'restoring' | null,
    sourceUp: true,
    finalCutFails: false,
    restoreFails: 0,
    /** A disk of the copy is not there: every restore is refused before it writes. */
    isDiskAway: false,
    restored: 0,
    isFinal: false,
    disconnects: 0,
    toldWhenCutOff: [] as string[],
  };
  bootPasses = true;
  startFails = 0;
  shutdownFails = false;
  /** Opening a point waits for it. */
  gate: Promise<void> = Promise.resolve();
  /** ... and looking at a guest for this. */
  stateGate: Promise<void> = Promise.resolve();

  async begin(): Promise<void> {
    await this.commitPoints(3, 1);
  }

  /** Points of the home agent, or of whoever has the generation. */
  async commitPoints(count: number, generation: number): Promise<void> {
    const deps = { store: this.store, clock: plainClock, randomId: randomUUID };
    const owned = await OwnedMachine.takeOver(deps, MACHINE, (previous) =>
      Promise.resolve(previous ?? emptyManifest(generation)),
    );
    for (let i = 0; i < count; i++) await commitPoint(owned, digestOf(owned.manifest.lastPoint + 1));
  }

  /** From this point on something is known to be damaged that points need. */
  async damage(first: number): Promise<void> {
    const points = [{ first, last: null, firstCutAtMs: null, lastCutAtMs: null }];
    const what = { kind: 'layer', object: 'a layer', code: 'layer-missing', what: 'a layer is missing' } as const;
    const finding = { ...what, disk: null, layer: null, extents: null, points };
    await updateDamage({ store: this.store, clock: plainClock }, MACHINE, (items, nowMs) =>
      withFinding(items, finding, nowMs),
    );
  }

  async manifest(): Promise<Manifest> {
    const found = await readHighestManifest(this.store, MACHINE);
    if (found === null) throw new Error('no manifest');
    return found;
  }

  recovery() {
    return loadRecovery(this.store, MACHINE);
  }

  /** Nobody but one may write at any moment. */
  async check(what: string): Promise<void> {
    const manifest = await this.manifest();
    const recovery = await this.recovery();
    const home = recovery?.home ?? { mode: 'replicate' as const, generation: 1 };
    const homeMayWrite = home.mode === 'replicate' && home.generation === manifest.generation;
    const earnest = [...this.guests.entries()].filter(([, g]) => g.running && !g.test);
    if (homeMayWrite && earnest.length > 0) this.violations.push(`${what}: home may write while a guest runs`);
    if (earnest.length > 1) this.violations.push(`${what}: ${earnest.length} guests run in earnest`);
    if (homeMayWrite && this.replicating.size > 0)
      this.violations.push(`${what}: home may write while a copy replicates`);
    if (
      recovery?.state === 'Protected' &&
      recovery.activeLocation === 'Primary' &&
      recovery.job === null &&
      !homeMayWrite
    ) {
      this.violations.push(`${what}: protected at home, and home may not write`);
    }
  }
}

const digestOf = (n: number): string => n.toString(16).padStart(16, '0');

export const plainClock: Clock = {
  nowMs: () => WALL_MS,
  monotonicMs: () => 0,
  sleep: () => Promise.resolve(),
};

const emptyManifest = (generation: number) => ({
  generation,
  machine: { id: MACHINE, name: 'web1', description: null },
  lastPoint: 0,
  disks: [
    {
      id: DISK,
      device: '/dev/vda',
      sizeBytes: GEOMETRY.sizeBytes,
      blockBytes: 4096,
      series: null,
      bases: null,
      staged: null,
      lastPoint: 0,
    },
  ],
  pages: [],
  tail: { points: [], deltas: [] },
});

async function commitPoint(owned: OwnedMachine, digest: string): Promise<number> {
  const { manifest } = owned;
  const number = manifest.lastPoint + 1;
  const point = {
    number,
    cutAtMs: WALL_MS + number * 1000,
    committedAtMs: WALL_MS + number * 1000,
    generation: manifest.generation,
    cycle: `cycle-${number}`,
    consistency: 'crash' as const,
    reason: 'test',
    disks: [{ disk: DISK, sizeBytes: GEOMETRY.sizeBytes, blockBytes: 4096, digest }],
    stats: { passes: 1, cutMs: 0, freezeMs: 0, changedBytes: 0, storedBytes: 0 },
  };
  const { generation, machine, disks, pages, tail } = manifest;
  await owned.commit(() => ({
    generation,
    machine,
    lastPoint: number,
    disks: disks.map((d) => ({ ...d, lastPoint: number })),
    pages,
    tail: { points: [...tail.points, point], deltas: tail.deltas },
  }));
  return number;
}

/** Every block of the fake disk has the point's number as its hash. */
const contentOfPoint = (point: number): PointContent => ({
  geometry: GEOMETRY,
  isNear: false,
  runs: () => Promise.resolve([]),
  read: () => Promise.resolve(),
  hashes: (_first, count) => Promise.resolve(new BigUint64Array(count).fill(BigInt(point))),
});

export interface ProcessOptions {
  /** Other receivers; absent: this one is alone. */
  readonly fleet?: NonNullable<FailoverParts['fleet']>;
  readonly receiver?: string;
  readonly folder: string;
  /** The process dies before (2n) or after (2n + 1) its n-th step. */
  readonly diesAt?: number;
  /** Called for each step with its number; may throw instead of it. */
  readonly onStep?: (step: number, what: string) => void;
  /** The same after it: what was done is done, its answer is lost. */
  readonly onDone?: (step: number, what: string) => void;
  /** The guardian's rounds; without them steps are the job's alone. */
  readonly watches?: boolean;
}

/** Time that passes as fast as nothing happens. */
class QuickClock implements Clock {
  #nowMs = 0;
  readonly #watches: boolean;
  readonly #sleepers = new Set<{ untilMs: number; wake: () => void }>();
  #isPumping = false;

  constructor(watches: boolean) {
    this.#watches = watches;
  }

  nowMs = (): number => WALL_MS + this.#nowMs;
  monotonicMs = (): number => this.#nowMs;

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal?.aborted === true) return resolve();
      const onAbort = (): void => this.#wake(sleeper);
      const sleeper = {
        untilMs: this.#nowMs + ms,
        wake: () => {
          signal?.removeEventListener('abort', onAbort);
          resolve();
        },
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      // The guardian alone sleeps for exactly this long: no backoff of a task comes to it.
      if (ms === OWNERSHIP_POLL_MS && !this.#watches) return;
      // Renewals of pins, and nothing else, are so far apart: jobs here take no such time.
      if (ms > TASK_RETRY_MS) return;
      this.#sleepers.add(sleeper);
      this.#pump();
    });
  }

  #advance(): void {
    this.#isPumping = false;
    const next = [...this.#sleepers].sort((a, b) => a.untilMs - b.untilMs)[0];
    if (next === undefined) return;
    this.#nowMs = Math.max(this.#nowMs, next.untilMs);
    this.#wake(next);
    if (this.#sleepers.size > 0) this.#pump();
  }

  #pump(): void {
    if (this.#isPumping) return;
    this.#isPumping = true;
    setTimeout(() => this.#advance(), 0);
  }

  #wake(sleeper: { untilMs: number; wake: () => void }): void {
    this.#sleepers.delete(sleeper);
    sleeper.wake();
  }
}

/** One life of a receiver. */
export class Process {
  readonly engine: FailoverEngine;
  readonly clock: Clock;
  readonly folder: string;
  steps = 0;
  isDead = false;
  #announce: () => void = () => undefined;
  /** Resolves when the process has died. */
  readonly died = new Promise<void>((resolve) => (this.#announce = resolve));
  readonly log: string[] = [];
  readonly #world: World;
  readonly #options: ProcessOptions;

  constructor(world: World, options: ProcessOptions) {
    this.#world = world;
    this.#options = options;
    this.folder = options.folder;
    this.clock = new QuickClock(options.watches === true);
    this.engine = new FailoverEngine(this.#parts(), {
      receiver: options.receiver ?? '99999999-2222-4333-8444-000000000001',
      receiverName: options.receiver === undefined ? 'dr1' : 'dr2',
      folder: options.folder,
      provider: 'none',
      hydrate: null,
    });
  }

  die(): void {
    this.isDead = true;
    this.#announce();
    for (const [id, process] of this.#world.served) if (process === this) this.#world.served.delete(id);
    for (const [id, process] of this.#world.replicating) if (process === this) this.#world.replicating.delete(id);
  }

  step = async <T>(what: string, work: () => Promise<T> | T): Promise<T> => {
    const number = this.steps++;
    this.#dieIf(number * 2);
    this.log.push(what);
    this.#options.onStep?.(number, what);
    const result = await work();
    this.#options.onDone?.(number, what);
    if (this.isDead) throw new ProcessDeath();
    await this.#world.check(what);
    this.#dieIf(number * 2 + 1);
    return result;
  };

  #dieIf(moment: number): void {
    if (this.#options.diesAt === moment) this.die();
    if (this.isDead) throw new ProcessDeath();
  }

  /** An effect on the world, in order. */
  #effect<T>(what: string, work: () => Promise<T> | T): Promise<T> {
    return this.step(what, async () => {
      const result = await work();
      this.#world.effects.push(what);
      return result;
    });
  }

  #parts(): FailoverParts {
    const world = this.#world;
    const store = storeThrough(world.store, this.step);
    return {
      store,
      clock: this.clock,
      randomId: randomUUID,
      log: silentLogger(),
      ...(this.#options.fleet === undefined ? {} : { fleet: this.#options.fleet }),
      home: this.#home(),
      openContent: (_view, point) =>
        this.step(`content ${point.number}`, async () => {
          await world.gate;
          return contentOfPoint(point.number);
        }),
      openVolume: (options) => this.step(`volume ${options.baseKey}`, () => this.#volume()),
      startNbd: (socketPath) => {
        const id = socketPath.split('/').at(-2) ?? '';
        return this.#effect('serve', () => {
          world.served.set(id, this);
          return {
            stop: () =>
              this.#effect('unserve', () => {
                world.served.delete(id);
              }),
          };
        });
      },
      nbdUri: (socketPath, name) => `nbd+unix:///${name}?socket=${socketPath}`,
      provider: () => this.#provider(),
      bootCheck: () =>
        this.step('boot check', () => ({
          type: 'serial',
          passed: world.bootPasses,
          detail: world.bootPasses ? 'login prompt seen' : 'no login prompt',
          tookMs: 5,
          atMs: WALL_MS,
        })),
      replicator: ({ owned, volumes }) =>
        this.#replicator(owned, volumes[0]?.source as CopyVolume & { changed: BlockSet }),
    };
  }

  #volume(): CopyVolume {
    const changed = new BlockSet();
    const unused = (): never => {
      throw new Error('not used');
    };
    return {
      disk: DISK,
      geometry: GEOMETRY,
      sizeBytes: GEOMETRY.sizeBytes,
      blockBytes: 4096,
      readOnly: false,
      changed,
      get changedBlocks() {
        return changed.size;
      },
      tryRead: unused,
      read: unused,
      write: unused,
      zero: unused,
      trim: unused,
      flush: unused,
      allocation: unused,
      hold: unused,
      cut: unused,
      resume: unused,
      isComplete: true,
      held: (blocks: BlockSet) => blocks.clone(),
      markChanged: (blocks: BlockSet) => changed.addAll(blocks),
      hydrate: () => Promise.resolve(),
      stats: () => ({ localBytes: 0, hydratedPercent: 0 }),
      close: () => this.step('close volume', () => undefined),
    } as CopyVolume & { changed: BlockSet };
  }

  #replicator(owned: OwnedMachine, volume: CopyVolume & { changed: BlockSet }): CopyReplicator {
    const world = this.#world;
    const generation = owned.manifest.generation;
    const status = {
      lastPoint: owned.manifest.lastPoint,
      dataAtRisk: { seconds: 1, bytes: 0 },
      pointsCommitted: 0,
      problem: null,
    };
    return {
      resend: () => Promise.reject(new Error('nothing is damaged here')),
      run: (signal) =>
        new Promise((resolve) => {
          // As the real one: nothing is awaited before the first cycle.
          world.effects.push('replicate');
          world.replicating.set(String(generation), this);
          signal.addEventListener('abort', () => {
            world.replicating.delete(String(generation));
            resolve();
          });
        }),
      pointNow: () =>
        this.#effect('point', async () => {
          const newest = owned.manifest.tail.points.at(-1);
          if (newest === undefined) throw new Error('no point');
          // A new copy of another point than the chain's newest must have been told what differs.
          const recovery = await world.recovery();
          const base = recovery?.failover?.point;
          if (newest.generation !== generation && base !== newest.number && volume.changed.size === 0) {
            world.violations.push('the first point of a copy misses what differs from the newest point');
          }
          await owned.settle();
          status.lastPoint = await commitPoint(owned, digestOf(owned.manifest.lastPoint + 1));
          volume.changed.clear();
          return status.lastPoint;
        }),
      status,
    };
  }

  #provider(): ComputeProvider {
    const world = this.#world;
    const guestOf = (spec: LaunchSpec): FakeGuest | undefined => world.guests.get(spec.instance);
    const end = (spec: LaunchSpec, detail: string): void => {
      const guest = guestOf(spec);
      if (guest?.running === true) Object.assign(guest, { running: false, detail });
    };
    return {
      kind: 'none',
      problems: () => this.step('problems', () => []),
      start: (spec) =>
        this.#effect(`start ${spec.test ? 'test' : 'guest'}`, async () => {
          if (world.startFails > 0) {
            world.startFails--;
            throw new AfterimageError('the guest does not start', { code: 'test-start', kind: 'refused' });
          }
          if (!world.served.has(spec.instance)) world.violations.push('a guest starts without its disks');
          if (!spec.test) {
            if (world.replicating.size === 0) world.violations.push('a guest starts before it is replicated');
            const recovery = await world.recovery();
            if (recovery?.home.mode === 'replicate') world.violations.push('a guest starts while home is not refused');
            const { generation } = await world.manifest();
            if (recovery?.failover?.generation !== generation)
              world.violations.push('a guest starts without the generation');
          }
          const guest = guestOf(spec);
          if (guest?.running !== true)
            world.guests.set(spec.instance, {
              running: true,
              startedAtMs: WALL_MS,
              test: spec.test,
              detail: 'running',
            });
        }),
      state: (spec) =>
        this.step('state', async () => {
          await world.stateGate;
          const guest = guestOf(spec);
          return {
            running: guest?.running ?? false,
            detail: guest?.detail ?? 'never started',
            startedAtMs: guest?.startedAtMs ?? null,
          };
        }),
      shutdown: (spec) =>
        this.#effect('shutdown', () => {
          if (world.shutdownFails)
            throw new AfterimageError('it does not power off', { code: 'test-shutdown', kind: 'refused' });
          const was = guestOf(spec)?.running === true;
          end(spec, 'ended: powered off');
          return was ? 'clean' : 'not-running';
        }),
      kill: (spec) => this.#effect('kill', () => end(spec, 'ended by signal SIGKILL')),
      cleanup: (spec) => this.step('cleanup', () => void world.guests.delete(spec.instance)),
    };
  }

  #home(): FailoverParts['home'] {
    const world = this.#world;
    const { home } = world;
    return {
      stateOf: () => home.state,
      finalCut: () =>
        this.#effect('final cut', async () => {
          if (home.finalCutFails)
            throw new AfterimageError('the hook failed', { code: 'hook-failed', kind: 'refused' });
          home.sourceUp = false;
          return { point: (await world.manifest()).lastPoint };
        }),
      resumeHome: () => this.#effect('resume home', () => void (home.sourceUp = true)),
      restore: (_machine, goal) =>
        this.#effect(`restore${goal.final ? ' final' : ''}`, () => {
          if (home.isDiskAway)
            throw new AfterimageError('/dev/vda (disk disk0) can’t be restored: gone', {
              code: 'disk-missing',
              kind: 'refused',
            });
          if (home.restoreFails > 0 && goal.final) {
            home.restoreFails--;
            throw new AfterimageError('the digest differs', { code: 'digest', kind: 'corrupt' });
          }
          home.restored = goal.point;
          home.isFinal = goal.final;
          return { point: goal.point, dataBytes: 4096, sentBytes: 5000, blocks: 1, reasons: [] };
        }),
      seriesAfterRestore: () => new Map(home.isFinal ? [[DISK, 'bbbbbbbb-bbbb-4ccc-8ddd-eeeeeeeeeeee']] : []),
      disconnect: (_machine, { name }) =>
        this.#effect('disconnect', () => {
          home.disconnects++;
          home.toldWhenCutOff.push(name);
        }),
    };
  }
}

const roots: string[] = [];

/** A folder for a receiver's copies, in memory: records are synced often. */
export function copiesFolder(): string {
  const folder = mkdtempSync('/dev/shm/afterimage-failover-');
  roots.push(folder);
  return folder;
}

export const copiesIn = (folder: string): string[] => {
  try {
    return readdirSync(join(folder));
  } catch {
    return [];
  }
};

export function removeCopiesFolders(): void {
  for (const folder of roots.splice(0)) rmSync(folder, { recursive: true, force: true });
}
