/**
 * The bench's laboratory: a folder, loop devices, and the two programs as an operator runs them. Everything made here is taken away by close().
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ask } from '../agent/client.js';
import type { CycleResult } from '../agent/cycle/machine-cycle.js';
import { CONTROL } from '../agent/client.js';
import type { AgentSnapshot } from '../agent/status.js';
import { sh, shAsync, sleep } from './shell.js';

const PROGRAMS = fileURLToPath(new URL('..', import.meta.url));
const TICKS_PER_SECOND = 100;
/** As the systemd units set it. */
const DAEMON_ENV: Readonly<Record<string, Record<string, string>>> = {
  'agent/main.js': { UV_THREADPOOL_SIZE: '8', NODE_OPTIONS: '--max-semi-space-size=2', MALLOC_ARENA_MAX: '2' },
  'receiver/main.js': { UV_THREADPOOL_SIZE: '8', NODE_OPTIONS: '--max-semi-space-size=4' },
};

export class Lab {
  /** Those that stand now. */
  static readonly open = new Set<Lab>();
  readonly dir: string;
  readonly #undo: (() => void | Promise<void>)[] = [];

  constructor(parent: string) {
    this.dir = mkdtempSync(join(parent, 'afterimage-bench-'));
    this.defer(() => rmSync(this.dir, { recursive: true, force: true }));
    Lab.open.add(this);
  }

  defer(undo: () => void | Promise<void>): void {
    this.#undo.push(undo);
  }

  path(name: string): string {
    return join(this.dir, name);
  }

  /** An empty sparse file. */
  sparse(name: string, bytes: number): string {
    const path = this.path(name);
    writeFileSync(path, '');
    truncateSync(path, bytes);
    return path;
  }

  /** A loop device over a file, detached at the end. */
  loop(file: string, direct = false): string {
    const device = sh(`losetup --find --show ${direct ? '--direct-io=on' : ''} ${file}`).trim();
    this.defer(() => void sh(`losetup -d ${device} || true`));
    return device;
  }

  async close(): Promise<void> {
    Lab.open.delete(this);
    for (const undo of this.#undo.splice(0).reverse()) {
      try {
        await undo();
      } catch (error) {
        process.stderr.write(`clean-up: ${String(error)}\n`);
      }
    }
  }
}

/** A file with an ext4 filesystem that is filled with `fill` bytes of /usr: programs, libraries, texts, as on any machine. */
export async function mixedImage(lab: Lab, name: string, bytes: number, fill = 0.8): Promise<string> {
  const image = lab.sparse(name, bytes);
  const mount = lab.path(`${name}.mnt`);
  mkdirSync(mount);
  await shAsync(`mkfs.ext4 -q -F ${image} && mount -o loop ${image} ${mount}`);
  try {
    const part = Math.floor(bytes * fill);
    // tar complains about the end that head cuts off; what came before it is there.
    await shAsync(
      `(tar -C / --one-file-system -cf - usr 2>/dev/null | head -c ${part} | tar -C ${mount} -xf - 2>/dev/null) || true; sync -f ${mount}`,
    );
  } finally {
    sh(`umount ${mount}`);
  }
  return image;
}

interface LogLine {
  readonly time: string;
  readonly msg: string;
  readonly [key: string]: unknown;
}

/** One running program and what it logs. */
export class Daemon {
  readonly process: ChildProcess;
  readonly log: LogLine[] = [];
  #rest = '';
  #errors = '';

  constructor(script: string, args: readonly string[], nodeArgs: readonly string[] = []) {
    this.process = spawn(process.execPath, [...nodeArgs, join(PROGRAMS, script), ...args], {
      env: { ...process.env, ...DAEMON_ENV[script] },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.process.stdout?.on('data', (chunk: Buffer) => this.#onText(chunk.toString('utf8')));
    this.process.stderr?.on('data', (chunk: Buffer) => (this.#errors += chunk.toString('utf8')));
  }

  /** The first line with this message, from line `from` on. */
  async line(message: string, timeoutMs = 600_000, from = 0): Promise<LogLine> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      const found = this.log.slice(from).find((l) => l.msg === message);
      if (found !== undefined) return found;
      if (this.process.exitCode !== null || performance.now() > end) {
        const last = this.log.slice(-3).map((l) => l.msg);
        throw new Error(`no "${message}" in the log (${last.join(' | ')}) ${this.#errors}`);
      }
      await sleep(20);
    }
  }

  /** User and system time of the process and its children so far. */
  cpuSeconds(): number {
    const stat = readFileSync(`/proc/${String(this.process.pid)}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) / TICKS_PER_SECOND;
  }

  rssMiB(): number {
    const found = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${String(this.process.pid)}/status`, 'utf8'));
    return Number(found?.[1]) / 1024;
  }

  peakRssMiB(): number {
    const found = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${String(this.process.pid)}/status`, 'utf8'));
    return Number(found?.[1]) / 1024;
  }

  async stop(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const ended = new Promise<void>((resolve) => this.process.once('exit', () => resolve()));
    this.process.kill('SIGTERM');
    await ended;
  }

  #onText(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) if (line.startsWith('{')) this.log.push(JSON.parse(line) as LogLine);
  }
}

export interface SystemOptions {
  /** More of agent.yaml. */
  readonly agent?: string;
  readonly interval?: string;
  /** For profiles: `--cpu-prof` and the like. */
  readonly nodeArgs?: { readonly agent?: readonly string[]; readonly receiver?: readonly string[] };
  /** Where the store lies; the lab's folder unless given. */
  readonly storeDir?: string;
}

/** A receiver and an enrolled agent. The agent starts without a disk, so that what is measured begins with `protect`. */
export class System {
  readonly receiver: Daemon;
  readonly agent: Daemon;
  readonly storeUrl: string;
  readonly name: string;
  readonly #socket: string;
  readonly #agentConfig: string;

  private constructor(parts: Pick<System, 'receiver' | 'agent' | 'storeUrl' | 'name'>, socket: string, config: string) {
    this.receiver = parts.receiver;
    this.agent = parts.agent;
    this.storeUrl = parts.storeUrl;
    this.name = parts.name;
    this.#socket = socket;
    this.#agentConfig = config;
  }

  static async start(lab: Lab, name: string, options: SystemOptions = {}): Promise<System> {
    const dir = lab.path(name);
    mkdirSync(dir);
    const store = join(options.storeDir ?? dir, `${name}-store`);
    const [port, status, agentStatus] = [await freePort(), await freePort(), await freePort()];
    const storeUrl = `file:${store}`;
    const receiverConfig = join(dir, 'receiver.yaml');
    writeFileSync(
      receiverConfig,
      `store: ${storeUrl}\nstateDir: ${dir}/receiver\ncontrolSocket: ${join(dir, 'receiver.sock')}\nlisten: { host: 127.0.0.1, port: ${port} }\nstatus: { port: ${status} }\n`,
    );
    const agentConfig = join(dir, 'agent.yaml');
    const socket = join(dir, 'control.sock');
    const pins = `/sys/fs/bpf/bench-${process.pid}-${name}`;
    writeFileSync(
      agentConfig,
      `stateDir: ${dir}/agent\ninterval: ${options.interval ?? '1h'}\nstatus: { port: ${agentStatus} }\ncontrolSocket: ${socket}\ntracker: { pinDir: ${pins}, prefer: ebpf }\n${options.agent ?? ''}`,
    );
    const receiver = new Daemon('receiver/main.js', ['--config', receiverConfig, 'run'], options.nodeArgs?.receiver);
    lab.defer(() => receiver.stop());
    lab.defer(() => rmSync(store, { recursive: true, force: true }));
    await receiver.line('receiver is ready', 30_000);
    const token = program('receiver/main.js', `--config ${receiverConfig} token --address 127.0.0.1:${port}`).trim();
    program('agent/main.js', `--config ${agentConfig} enroll ${token} --name ${name}`);
    const agent = new Daemon('agent/main.js', ['--config', agentConfig, 'run'], options.nodeArgs?.agent);
    lab.defer(async () => {
      await agent.stop();
      if (existsSync(pins)) sh(`find ${pins} -type f -delete; find ${pins} -depth -type d -delete`);
    });
    await agent.line('agent is ready', 30_000);
    return new System({ receiver, agent, storeUrl, name }, socket, agentConfig);
  }

  async protect(...devices: readonly string[]): Promise<void> {
    await shAsync(
      `${process.execPath} ${join(PROGRAMS, 'agent/main.js')} --config ${this.#agentConfig} protect ${devices.join(' ')}`,
    );
  }

  /** Waits for the first point of what was protected. */
  async firstPoint(timeoutMs = 3_600_000): Promise<LogLine> {
    return this.agent.line('recovery point committed', timeoutMs);
  }

  async status(): Promise<AgentSnapshot> {
    return (await ask(this.#socket, 'GET', '/status')) as AgentSnapshot;
  }

  async syncNow(): Promise<CycleResult> {
    return (await ask(this.#socket, 'POST', CONTROL.sync)) as CycleResult;
  }

  cpuSeconds(): number {
    return this.agent.cpuSeconds() + this.receiver.cpuSeconds();
  }

  async stop(): Promise<void> {
    await this.agent.stop();
    await this.receiver.stop();
  }
}

/** Runs one of our programs to its end. */
export const program = (script: string, args: string): string =>
  sh(`${process.execPath} ${join(PROGRAMS, script)} ${args}`);
export const programPath = (script: string): string => `${process.execPath} ${join(PROGRAMS, script)}`;

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}
