/**
 * A recovery site without guests: a lab whose machine writes lines at home, copies of it that are written over NBD, and receivers that are killed.
 * What the disks hold says what was lost, and the store says who may write.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { expect } from 'vitest';
import { loadHead } from '../../receiver/catalog/reader.js';
import { listMachines } from '../../receiver/catalog/machines.js';
import type { Job, Recovery } from '../../receiver/catalog/recovery.js';
import { loadRecovery } from '../../receiver/catalog/recovery-io.js';
import type { InstanceView, RecoveryView } from '../../receiver/failover/operations.js';
import { FileStore } from '../../receiver/store/file-store.js';
import { MIB, type MachineId } from '../../shared/units.js';
import { freePort, Lab, MACHINE_NAME, sleep } from '../e2e/lab.js';
import { Daemon, runToEnd, type Env, type Output } from '../e2e/program.js';
import { HomeHooks } from './hooks.js';
import { History } from './lines.js';
import { CopyWriter, HomeWriter } from './writers.js';

export interface SiteOptions {
  readonly sizeBytes?: number;
  readonly interval?: string;
  /** Further keys of the receiver's `failover:`. */
  readonly failover?: (folder: string) => Readonly<Record<string, unknown>>;
  /** Further keys of the receiver. */
  readonly receiver?: (port: number) => Readonly<Record<string, unknown>>;
  /** Before anything of the receiver is in its folder. */
  readonly before?: (lab: Lab) => void;
}

const START_LIMIT_MS = 120_000;
const SETTLE_LIMIT_MS = 90_000;

/** A receiver as its operator sees it. */
export interface Receiver {
  readonly config: string;
  start(env?: Env): Promise<Daemon>;
  readonly daemon: Daemon | null;
}

/** Another receiver on the store of a lab. */
export async function anotherReceiver(
  lab: Lab,
  failover: Readonly<Record<string, unknown>>,
  more: (port: number) => Readonly<Record<string, unknown>> = () => ({}),
): Promise<Receiver> {
  const folder = join(lab.folder, 'b');
  const config = join(lab.folder, 'b.yaml');
  const log = join(lab.folder, 'b.log');
  const port = await freePort();
  writeFileSync(
    config,
    stringify({
      store: lab.storeUrl,
      stateDir: folder,
      controlSocket: join(lab.folder, 'b.sock'),
      listen: { host: '127.0.0.1', port },
      status: { host: '127.0.0.1', port: await freePort() },
      failover: { folder: join(lab.folder, 'w'), ...failover },
      ...more(port),
    }),
  );
  let daemon: Daemon | null = null;
  lab.undo(async () => {
    if (daemon?.end === null) await daemon.stop();
  });
  return {
    config,
    get daemon() {
      return daemon;
    },
    start: async (env = {}) => {
      const started = new Daemon('receiver', ['--config', config, 'run'], log, env);
      daemon = started;
      const end = performance.now() + START_LIMIT_MS;
      const isReady = (): boolean =>
        readFileSync(log, 'utf8')
          .split('\n')
          .some((line) => line.includes(`"pid":${started.pid},`) && line.includes('receiver is ready'));
      while (!isReady() && started.end === null) {
        if (performance.now() > end) throw new Error(`not ready in time: ${readFileSync(log, 'utf8')}`);
        await sleep(50);
      }
      return started;
    },
  };
}

export class Site {
  readonly lab: Lab;
  readonly home: HomeWriter;
  copy: CopyWriter | null = null;
  readonly first: Receiver;
  store!: FileStore;
  machine!: MachineId;
  #names = 0;
  #cameHomeWith: number | null = null;

  private constructor(lab: Lab) {
    this.lab = lab;
    const device = lab.disks[0]?.device ?? '';
    this.home = new HomeWriter(this.#name('home'), device);
    this.first = {
      config: lab.configs.receiver,
      start: (env) => lab.startReceiver(env),
      get daemon() {
        return lab.receiver;
      },
    };
  }

  /** A protected machine that writes. */
  static async open({
    sizeBytes = 8 * MIB,
    interval = '500ms',
    failover,
    receiver,
    before,
  }: SiteOptions = {}): Promise<Site> {
    let site: Site | null = null;
    let hooks: HomeHooks | null = null;
    const lab = await Lab.open({
      disks: [sizeBytes],
      interval: '1s',
      agent: (folder) => {
        hooks = new HomeHooks(join(folder, 'hooks'), {
          stop: async () => site?.home.pause(),
          resume: () => Promise.resolve(site?.resumeHome()),
        });
        return { failover: { preShutdown: [hooks.path('stop')], resume: [hooks.path('resume')], timeout: '30s' } };
      },
      receiver: (folder, port) => ({
        ...receiver?.(port),
        controlSocket: join(folder, 'r.sock'),
        failover: { folder: join(folder, 'v'), interval, provider: 'none', ...failover?.(folder) },
      }),
    });
    lab.undo(() => hooks?.stop());
    site = new Site(lab);
    try {
      before?.(lab);
      await lab.setUp();
      site.store = await FileStore.open(lab.storeFolder);
      const [found] = await listMachines(site.store);
      if (found === undefined) throw new Error('there is no machine');
      site.machine = found.id;
      site.home.start();
    } catch (error) {
      await site.cleanUp();
      throw error;
    }
    return site;
  }

  #name(kind: string): string {
    return `${kind}-${++this.#names}`;
  }

  // ---------------------------------------------------------------- receivers

  another(): Promise<Receiver> {
    return anotherReceiver(this.lab, { interval: '500ms', provider: 'none' });
  }

  // ---------------------------------------------------------------- the operator

  tryAfterimage(args: readonly string[], at: Receiver = this.first): Promise<Output> {
    return runToEnd('cli', ['--config', at.config, ...args]);
  }

  /** Runs an operation to its end; throws unless it ends well. */
  async operate(verb: string, args: readonly string[] = [], at: Receiver = this.first): Promise<Job> {
    const { code, stdout, stderr } = await this.tryAfterimage([verb, MACHINE_NAME, ...args, '--json'], at);
    if (code !== 0) throw new Error(`${verb} ${args.join(' ')}: exit code ${code}\n${stderr}${stdout}`);
    return JSON.parse(stdout) as Job;
  }

  async view(at: Receiver = this.first): Promise<RecoveryView> {
    const { stdout, stderr } = await this.tryAfterimage(['status', MACHINE_NAME, '--json'], at);
    if (stdout === '') throw new Error(`status: ${stderr}`);
    return JSON.parse(stdout) as RecoveryView;
  }

  /** As the store has it, whether a receiver runs or not. */
  async recovery(): Promise<Recovery> {
    const recovery = await loadRecovery(this.store, this.machine);
    if (recovery === null) throw new Error('nothing was ever done with the machine');
    return recovery;
  }

  /** Resolves to the newest job when none runs any more. */
  async settled(limitMs = SETTLE_LIMIT_MS): Promise<Job> {
    const end = performance.now() + limitMs;
    for (;;) {
      const { job, jobs } = await this.recovery();
      if (job === null && jobs[0] !== undefined) return jobs[0];
      if (performance.now() > end) throw new Error(`the job does not end: ${JSON.stringify(job, null, 1)}`);
      await sleep(50);
    }
  }

  /** At most one of home and copy has the right to write, as the store has it. */
  async expectOneWriter(): Promise<void> {
    const recovery = await loadRecovery(this.store, this.machine);
    const generation = (await loadHead(this.store, this.machine))?.generation ?? 0;
    const home = recovery === null || (recovery.home.mode === 'replicate' && recovery.home.generation === generation);
    const copy = recovery?.failover != null && recovery.failover.generation === generation;
    expect([home, copy].filter(Boolean).length, JSON.stringify(recovery)).toBeLessThanOrEqual(1);
  }

  // ---------------------------------------------------------------- the copy

  async instance(kind: 'failover' | 'test', at: Receiver = this.first): Promise<InstanceView> {
    const { instances, recovery } = await this.view(at);
    const id = kind === 'test' ? recovery?.testFailover.instance?.id : recovery?.failover?.id;
    const found = instances.find((i) => i.id === id);
    if (found === undefined) throw new Error(`no ${kind} copy runs: ${JSON.stringify(recovery)}`);
    return found;
  }

  /** All bytes of a copy's disk, as a client reads them. */
  async disk(kind: 'failover' | 'test', at: Receiver = this.first): Promise<Buffer> {
    const path = join(this.lab.folder, 'read.img');
    rmSync(path, { force: true });
    const { disks } = await this.instance(kind, at);
    execFileSync('nbdcopy', [disks[0]?.uri ?? '', path]);
    return readFileSync(path);
  }

  /** A workload begins to write to the copy, going on with what its disk holds; `from`: the history that it must be a prefix of. */
  async startCopyWriter(
    from: History,
    kind: 'failover' | 'test' = 'failover',
    at: Receiver = this.first,
  ): Promise<CopyWriter> {
    const began = from.within(await this.disk(kind, at));
    const { disks } = await this.instance(kind, at);
    const name = this.#name('copy');
    const writer = new CopyWriter(name, disks[0]?.uri ?? '', join(this.lab.folder, name));
    writer.history = from.upTo(began);
    this.lab.undo(() => writer.kill());
    this.copy = writer;
    writer.start();
    await writer.more(5);
    return writer;
  }

  /** Home's agent has its workload go on: with what its disk holds, which may have come home from the copy. */
  resumeHome(): void {
    const { home, copy } = this;
    if (copy !== null) {
      const image = this.lab.disks[0]?.content() ?? Buffer.alloc(0);
      home.history = copy.history.upTo(copy.history.within(image));
      this.#cameHomeWith = home.history.acknowledged;
    }
    home.start();
  }

  /** Lines that home's disk held when its agent had the workload go on after the copy. */
  async cameHomeWith(limitMs = 60_000): Promise<number> {
    for (const end = performance.now() + limitMs; this.#cameHomeWith === null; await sleep(50))
      if (performance.now() > end) throw new Error('home’s workload was not told to go on');
    return this.#cameHomeWith;
  }

  /** The newest point, when it holds everything that was written to the copy. */
  async copyPoint(at: Receiver = this.first, limitMs = 30_000): Promise<number> {
    const end = performance.now() + limitMs;
    for (;;) {
      const copy = await this.instance('failover', at);
      if (copy.disks[0]?.changedBytes === 0 && copy.dataAtRisk?.bytes === 0) return copy.lastPoint ?? 0;
      if (performance.now() > end) throw new Error(`no point: ${JSON.stringify(copy)}`);
      await sleep(100);
    }
  }

  // ---------------------------------------------------------------- what must hold

  async restored(point: number): Promise<Buffer> {
    await this.lab.restore(point);
    return readFileSync(this.lab.restoredPath(0));
  }

  async expectPointsGood(): Promise<void> {
    const verdicts = await this.lab.verifyAll();
    expect(verdicts.length).toBeGreaterThan(0);
    expect(verdicts.filter((v) => !v.restorable)).toEqual([]);
    const points = (await this.lab.points()).reverse();
    // Once a generation was raised nothing of an older one was added.
    for (const [i, { generation }] of points.entries())
      expect(generation).toBeGreaterThanOrEqual(points[i - 1]?.generation ?? 0);
  }

  /** The copy is replicated: its newest point is its disk, with every line that has landed; home is kept out. */
  async expectCopyWhole(at: Receiver = this.first): Promise<void> {
    const { copy } = this;
    await copy?.pause();
    const point = await this.copyPoint(at);
    const disk = await this.disk('failover', at);
    expect((await this.restored(point)).equals(disk), `point ${point} is the copy's disk`).toBe(true);
    expect((await this.lab.points())[0]?.number).toBe(point);
    if (copy !== null) expect(copy.history.within(disk)).toBeGreaterThanOrEqual(copy.history.acknowledged);
    await this.expectOneWriter();
    await this.expectPointsGood();
    copy?.start();
  }

  /** Home replicates: the newest point is its disk, and no copy is left. */
  async expectHomeWhole(): Promise<void> {
    const { home, lab } = this;
    await lab.untilProtected();
    await home.more(5);
    await home.pause();
    const { point } = await lab.syncNow();
    const image = await this.restored(point);
    expect(lab.differences(0)).toEqual([]);
    expect(home.history.within(image)).toBeGreaterThanOrEqual(home.history.acknowledged);
    const recovery = await this.recovery();
    expect(recovery).toMatchObject({ state: 'Protected', activeLocation: 'Primary', failover: null });
    await this.expectOneWriter();
    await this.expectPointsGood();
    home.start();
  }

  async cleanUp(): Promise<void> {
    await this.home.pause();
    await this.copy?.kill();
    await this.lab.cleanUp();
  }
}
