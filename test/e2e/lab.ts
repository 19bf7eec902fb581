/**
 * A whole system on this host for end-to-end tests: source disks on loop devices, an agent and a receiver as processes, a store in a folder.
 *
 *   const lab = await Lab.open({ disks: [64 * MIB] });
 *   await lab.setUp();                          // receiver, enrolment, protection, agent; waits for the first point
 *   const { point } = await lab.syncNow();
 *   await lab.restore(point); lab.differences(0);
 *   await lab.cleanUp();                        // always: in afterEach
 *
 * Everything lies in one folder in memory. Nothing outlives cleanUp(): processes, mounts, loop devices, pinned objects, the folder.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { parse, stringify } from 'yaml';
import { ask, isRunning } from '../../agent/client.js';
import { CONTROL } from '../../agent/client.js';
import type { CycleResult } from '../../agent/cycle/machine-cycle.js';
import type { AgentSnapshot } from '../../agent/status.js';
import type { RecoveryPoint } from '../../receiver/catalog/manifest.js';
import { LoopDisk } from './loop-disk.js';
import { Daemon, loudLines, runToEnd, type Entry, type Env, type Output } from './program.js';

export const canRunLab = process.getuid?.() === 0 && existsSync('/dev/loop-control') && existsSync('/dev/shm');
export const WHY_NO_LAB = 'needs root, loop devices and /dev/shm';
if (!canRunLab) console.warn(`end-to-end tests are skipped: ${WHY_NO_LAB}`);

export const MACHINE_NAME = 'lab';
const POLL_MS = 50;
const START_LIMIT_MS = 120_000;

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export interface LabOptions {
  /** Sizes of the source disks. */
  readonly disks: readonly number[];
  /** Distance of recovery points, as in the configuration. */
  readonly interval?: string;
  /** Further keys of the two configurations; they may name paths in the lab's folder. */
  readonly agent?: FurtherKeys;
  readonly receiver?: FurtherKeys;
  /** Runs the agent, instead of this process' Node with what was built; its arguments follow. */
  readonly agentCommand?: (folder: string) => readonly [string, ...string[]];
}

type FurtherKeys =
  Readonly<Record<string, unknown>> | ((folder: string, receiverPort: number) => Readonly<Record<string, unknown>>);

const keysIn = (folder: string, port: number, keys: FurtherKeys | undefined): Readonly<Record<string, unknown>> =>
  typeof keys === 'function' ? keys(folder, port) : (keys ?? {});

export interface PointVerdict {
  readonly point: number;
  readonly restorable: boolean;
  readonly problem: { readonly code: string; readonly message: string } | null;
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

let serial = 0;

export class Lab {
  readonly folder: string;
  readonly disks: readonly LoopDisk[];
  machineName = MACHINE_NAME;
  storeUrl: string;
  storeFolder: string;
  readonly pinDirectory: string;
  readonly port: number;
  readonly agentLog: string;
  readonly receiverLog: string;
  readonly controlSocket: string;
  /** Ids of the protected disks, in the order of `disks`; known after protect(). */
  diskIds: readonly string[] = [];
  /** Recovery key file that commands which read data are given; null: none. */
  keyFile: string | null = null;
  /** The newest process of each kind, running or ended. */
  agent: Daemon | null = null;
  receiver: Daemon | null = null;
  readonly #agentConfig: string;
  readonly #agentCommand: readonly [string, ...string[]] | undefined;
  readonly #receiverConfig: string;
  readonly #undo: (() => void | Promise<void>)[] = [];

  private constructor(options: LabOptions, folder: string, ports: readonly number[]) {
    const [port = 0, agentStatus = 0, receiverStatus = 0] = ports;
    this.folder = folder;
    this.port = port;
    this.storeFolder = join(folder, 'store');
    this.storeUrl = `file:${this.storeFolder}`;
    this.pinDirectory = `/sys/fs/bpf/afterimage-lab-${process.pid}-${serial++}`;
    this.agentLog = join(folder, 'agent.log');
    this.receiverLog = join(folder, 'receiver.log');
    this.controlSocket = join(folder, 'control.sock');
    this.#agentConfig = join(folder, 'agent.yaml');
    this.#agentCommand = options.agentCommand?.(folder);
    this.#receiverConfig = join(folder, 'receiver.yaml');
    const agent = {
      stateDir: join(folder, 'agent'),
      interval: options.interval ?? '1s',
      status: { host: '127.0.0.1', port: agentStatus },
      controlSocket: this.controlSocket,
      tracker: { prefer: 'ebpf', pinDir: this.pinDirectory },
      ...keysIn(folder, port, options.agent),
    };
    const receiver = {
      store: this.storeUrl,
      stateDir: join(folder, 'receiver'),
      controlSocket: join(folder, 'receiver.sock'),
      listen: { host: '127.0.0.1', port },
      status: { host: '127.0.0.1', port: receiverStatus },
      ...keysIn(folder, port, options.receiver),
    };
    writeFileSync(this.#agentConfig, stringify(agent));
    writeFileSync(this.#receiverConfig, stringify(receiver));
    const disks: LoopDisk[] = [];
    this.disks = disks;
    for (const [i, sizeBytes] of options.disks.entries()) {
      const disk = new LoopDisk(join(folder, `disk${i}.img`), sizeBytes);
      disks.push(disk);
      this.undo(() => disk.remove());
    }
  }

  static async open(options: LabOptions): Promise<Lab> {
    const ports = [await freePort(), await freePort(), await freePort()];
    return new Lab(options, mkdtempSync('/dev/shm/afterimage-lab-'), ports);
  }

  /** Does what is given at cleanUp(), in reverse order. */
  undo(step: () => void | Promise<void>): void {
    this.#undo.push(step);
  }

  /** From nothing to a protected machine with its first point. */
  async setUp(): Promise<void> {
    await this.startReceiver();
    await this.enrol();
    await this.protect();
    await this.startAgent();
    await this.untilProtected();
  }

  // ---------------------------------------------------------------- processes

  /** Resolves when it serves, or has ended by a signal (a fail point); throws when it ended by itself. */
  async startReceiver(env: Env = {}): Promise<Daemon> {
    const daemon = new Daemon('receiver', ['--config', this.#receiverConfig, 'run'], this.receiverLog, env);
    this.receiver = daemon;
    await this.#untilServing(daemon, () => this.#logHas(this.receiverLog, daemon.pid, 'receiver is ready'));
    return daemon;
  }

  /** Resolves when it answers, or has ended by a signal (a fail point); throws when it ended by itself. */
  async startAgent(env: Env = {}): Promise<Daemon> {
    const daemon = new Daemon('agent', ['--config', this.#agentConfig, 'run'], this.agentLog, env, this.#agentCommand);
    this.agent = daemon;
    await this.#untilServing(daemon, () => isRunning(this.controlSocket));
    return daemon;
  }

  async #untilServing(daemon: Daemon, isServing: () => boolean | Promise<boolean>): Promise<void> {
    const endMs = performance.now() + START_LIMIT_MS;
    for (;;) {
      if (daemon.end?.signal != null) return;
      if (daemon.end !== null) throw new Error(`exit code ${daemon.end.code}\n${tail(daemon.logPath)}`);
      if (await isServing()) return;
      if (performance.now() > endMs) throw new Error(`not ready in time\n${tail(daemon.logPath)}`);
      await sleep(POLL_MS);
    }
  }

  #logHas(path: string, pid: number, msg: string): boolean {
    return readFileSync(path, 'utf8')
      .split('\n')
      .some((line) => line.includes(`"pid":${pid},`) && line.includes(msg));
  }

  /** Puts further keys into the receiver's configuration; the next process has them. `store` may be another folder. */
  reconfigureReceiver(keys: Readonly<Record<string, unknown>>): void {
    const before = parse(readFileSync(this.#receiverConfig, 'utf8')) as Record<string, unknown>;
    const { store } = keys;
    if (typeof store === 'string') {
      this.storeUrl = store;
      this.storeFolder = store.replace(/^file:/, '');
    }
    writeFileSync(this.#receiverConfig, stringify({ ...before, ...keys }));
  }

  /** Port of the receiver's status endpoint. */
  get receiverStatusPort(): number {
    return (parse(readFileSync(this.#receiverConfig, 'utf8')) as { status: { port: number } }).status.port;
  }

  /** Configuration files of the two daemons. */
  get configs(): { readonly agent: string; readonly receiver: string } {
    return { agent: this.#agentConfig, receiver: this.#receiverConfig };
  }

  /** A command of one of our programs, with its configuration or store, whatever its exit code. */
  run(entry: Entry, ...args: string[]): Promise<Output> {
    const where = entry === 'cli' ? ['--store', this.storeUrl] : ['--config', this.configs[entry]];
    return runToEnd(entry, [...where, ...args]);
  }

  /** The same; throws unless it exits with 0. */
  async command(entry: Entry, ...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.run(entry, ...args);
    if (code !== 0) throw new Error(`${entry} ${args.join(' ')}: exit code ${code}\n${stderr}${stdout}`);
    return stdout;
  }

  /** At the receiver of `site`, which may be another lab's: its store is this one's then. */
  async enrol(name = MACHINE_NAME, site: Lab = this): Promise<void> {
    const answer = await site.command('receiver', 'token', '--address', `127.0.0.1:${site.port}`, '--json');
    const { token } = JSON.parse(answer) as { token: string };
    await this.command('agent', 'enroll', token, '--name', name);
    this.machineName = name;
    this.storeUrl = site.storeUrl;
    this.storeFolder = site.storeFolder;
  }

  async protect(disks: readonly LoopDisk[] = this.disks): Promise<void> {
    const answer = await this.command('agent', 'protect', ...disks.map((d) => d.device), '--json');
    this.diskIds = [...this.diskIds, ...(JSON.parse(answer) as { id: string }[]).map((d) => d.id)];
  }

  // ---------------------------------------------------------------- what the agent says

  status(): Promise<AgentSnapshot> {
    return ask(this.controlSocket, 'GET', '/status') as Promise<AgentSnapshot>;
  }

  /**
   * Polls the status until the condition holds; an agent that doesn't answer is asked again. Throws with the last status after the limit.
   * Asking takes half of the time at most: a condition that starts a process would else keep a processor from what is waited for.
   */
  async until(
    what: string,
    condition: (status: AgentSnapshot) => boolean | Promise<boolean>,
    limitMs = 30_000,
  ): Promise<AgentSnapshot> {
    const endMs = performance.now() + limitMs;
    for (;;) {
      const askedMs = performance.now();
      const last = await this.status().catch(() => null);
      if (last !== null && (await condition(last))) return last;
      if (performance.now() > endMs) {
        const seen = last === null ? 'no answer' : JSON.stringify(last, null, 1);
        throw new Error(`not within ${limitMs} ms: ${what}\n${seen}\n${tail(this.agentLog)}`);
      }
      await sleep(Math.max(POLL_MS, performance.now() - askedMs));
    }
  }

  untilProtected(limitMs = 60_000): Promise<AgentSnapshot> {
    return this.until(
      'connected, protected, with a point',
      (s) => s.receiver.connected && s.state === 'Protected' && s.disks.every((d) => d.lastPoint > 0),
      limitMs,
    );
  }

  /** Makes a point now and waits for its commit. */
  syncNow(): Promise<CycleResult> {
    return ask(this.controlSocket, 'POST', CONTROL.sync) as Promise<CycleResult>;
  }

  // ---------------------------------------------------------------- what the store holds

  /** Newest first. */
  async points(): Promise<RecoveryPoint[]> {
    const answer = await this.command('cli', 'points', this.machineName, '--json');
    return (JSON.parse(answer) as { points: RecoveryPoint[] }).points;
  }

  /** Where restore() writes disk `index`. */
  restoredPath(index: number): string {
    return join(this.folder, `restored-disk${index}.img`);
  }

  /** Restores all disks of a point to files, read back and checked against the digest; what an earlier call wrote is removed first. */
  async restore(point: number | 'latest' = 'latest'): Promise<void> {
    const targets = this.diskIds.flatMap((id, i) => ['--to', `${id}=${this.restoredPath(i)}`]);
    for (let i = 0; i < this.diskIds.length; i++) rmSync(this.restoredPath(i), { force: true });
    const state = join(this.folder, 'restore-state');
    await this.command(
      'cli',
      ...['restore', this.machineName, '--point', String(point), ...targets],
      ...['--sparse', '--read-back', '--state', state, ...this.#key, '--json'],
    );
  }

  /** Blocks in which disk `index` differs from what restore() wrote. */
  differences(index: number): number[] {
    return this.#disk(index).differences(this.restoredPath(index));
  }

  /** `verify --all`: the verdict on each listed point. Doesn't throw when one is bad. */
  async verifyAll(): Promise<PointVerdict[]> {
    const { stdout, stderr } = await runToEnd('cli', [
      ...['--store', this.storeUrl, 'verify', this.machineName, '--all', ...this.#key, '--json'],
    ]);
    if (stdout === '') throw new Error(`verify: ${stderr}`);
    return (JSON.parse(stdout) as { points: PointVerdict[] }).points;
  }

  // ---------------------------------------------------------------- disks and logs

  /** Makes a filesystem on disk `index` and mounts it; returns the mount point. */
  mount(index: number, fsType: 'ext4' | 'xfs', options = 'defaults'): string {
    const { device } = this.#disk(index);
    const at = join(this.folder, `mount${index}`);
    const make = fsType === 'ext4' ? ['mkfs.ext4', '-q', '-F', device] : ['mkfs.xfs', '-q', '-f', device];
    execFileSync(make[0] ?? '', make.slice(1));
    mkdirSync(at, { recursive: true });
    execFileSync('mount', ['-t', fsType, '-o', options, device, at]);
    this.undo(() => unmount(at));
    return at;
  }

  /** Lines at level warn and above (and stacks) of both logs that none of the patterns allows. */
  unexpectedLines(allowed: readonly RegExp[] = []): string[] {
    return [this.agentLog, this.receiverLog]
      .filter((path) => existsSync(path))
      .flatMap((path) => loudLines(path))
      .filter(({ text }) => !allowed.some((pattern) => pattern.test(text)))
      .map(({ text }) => text);
  }

  /** Reasons that the agent gave in lines at level warn and above, newest last. */
  loudReasons(): string[] {
    return loudLines(this.agentLog).map(({ msg, text }) => {
      const { reason } = (msg === text ? {} : JSON.parse(text)) as { reason?: string };
      return reason === undefined ? msg : `${msg}: ${reason}`;
    });
  }

  get #key(): readonly string[] {
    return this.keyFile === null ? [] : ['--key', this.keyFile];
  }

  #disk(index: number): LoopDisk {
    const disk = this.disks[index];
    if (disk === undefined) throw new Error(`no disk ${index}`);
    return disk;
  }

  /** Stops what runs and removes all traces; problems are printed, not thrown, so that a failed test shows its own. */
  async cleanUp(): Promise<void> {
    for (const daemon of [this.agent, this.receiver]) if (daemon?.end === null) await daemon.stop();
    for (const step of this.#undo.reverse()) {
      try {
        await step();
      } catch (error) {
        console.warn(`clean-up: ${String(error)}`);
      }
    }
    rmSync(this.pinDirectory, { recursive: true, force: true });
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A process that was killed may hold the filesystem for a moment. */
function unmount(path: string): void {
  for (let attempt = 1; ; attempt++) {
    try {
      execFileSync('umount', [path], { stdio: ['ignore', 'ignore', 'pipe'] });
      return;
    } catch (error) {
      if (attempt === 30) throw error;
      execFileSync('sleep', ['0.1']);
    }
  }
}

function tail(path: string, lines = 20): string {
  return existsSync(path) ? readFileSync(path, 'utf8').trimEnd().split('\n').slice(-lines).join('\n') : '';
}
