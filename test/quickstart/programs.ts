/**
 * Runs the three programs as a user would: configuration files, commands, daemons. Owns the child processes and the work folder.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { AgentSnapshot } from '../../agent/status.js';

const run = promisify(execFile);
const dist = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const PROGRAMS = {
  agent: join(dist, 'agent/main.js'),
  receiver: join(dist, 'receiver/main.js'),
  operator: join(dist, 'receiver/cli/main.js'),
} as const;

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export class Programs {
  readonly folder: string;
  readonly store: string;
  readonly pinDir: string;
  #agent: ChildProcess | null = null;
  #receiver: ChildProcess | null = null;
  #port = 0;
  #agentStatusPort = 0;
  receiverStatusPort = 0;

  constructor(folder: string) {
    this.folder = folder;
    this.store = `file:${folder}/store`;
    this.pinDir = `/sys/fs/bpf/afterimage-quickstart-${process.pid}`;
  }

  get agentConfig(): string {
    return join(this.folder, 'agent.yaml');
  }

  get agentStatusUrl(): string {
    return `http://127.0.0.1:${this.#agentStatusPort}`;
  }

  async configure(interval: string): Promise<void> {
    this.#port = await freePort();
    this.#agentStatusPort = await freePort();
    this.receiverStatusPort = await freePort();
    await writeFile(
      join(this.folder, 'receiver.yaml'),
      [
        `store: ${this.store}`,
        `stateDir: ${this.folder}/receiver`,
        `controlSocket: ${this.folder}/receiver.sock`,
        `listen: { host: 127.0.0.1, port: ${this.#port} }`,
        `status: { port: ${this.receiverStatusPort} }`,
        '',
      ].join('\n'),
    );
    await writeFile(
      this.agentConfig,
      [
        `stateDir: ${this.folder}/agent`,
        `controlSocket: ${this.folder}/agent.sock`,
        `status: { port: ${this.#agentStatusPort} }`,
        `interval: ${interval}`,
        `tracker: { pinDir: ${this.pinDir} }`,
        '',
      ].join('\n'),
    );
  }

  async startReceiver(): Promise<void> {
    this.#receiver = this.#daemon('receiver');
    await this.#waitFor(`http://127.0.0.1:${this.receiverStatusPort}/status`);
  }

  async startAgent(): Promise<void> {
    this.#agent = this.#daemon('agent');
    await this.#waitFor(`${this.agentStatusUrl}/status`);
  }

  token(): Promise<string> {
    return this.receiver('token', '--address', `127.0.0.1:${this.#port}`);
  }

  agent(...args: string[]): Promise<string> {
    return this.#command(PROGRAMS.agent, ['--config', this.agentConfig, ...args]);
  }

  receiver(...args: string[]): Promise<string> {
    return this.#command(PROGRAMS.receiver, ['--config', join(this.folder, 'receiver.yaml'), ...args]);
  }

  operator(...args: string[]): Promise<string> {
    return this.#command(PROGRAMS.operator, ['--store', this.store, ...args]);
  }

  /** The operator's command with its output on this terminal. */
  async show(...args: string[]): Promise<void> {
    const child = spawn(process.execPath, [PROGRAMS.operator, '--store', this.store, ...args], { stdio: 'inherit' });
    const code = await new Promise<number | null>((resolve) => child.once('exit', resolve));
    if (code !== 0) throw new Error(`afterimage ${args.join(' ')} ended with exit code ${String(code)}`);
  }

  async status(): Promise<AgentSnapshot> {
    const response = await fetch(`${this.agentStatusUrl}/status`);
    return (await response.json()) as AgentSnapshot;
  }

  async stop(): Promise<void> {
    await stopChild(this.#agent);
    await stopChild(this.#receiver);
  }

  #daemon(which: 'agent' | 'receiver'): ChildProcess {
    const config = join(this.folder, `${which}.yaml`);
    const child = spawn(process.execPath, [PROGRAMS[which], '--config', config, 'run'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const log = createWriteStream(join(this.folder, `${which}.log`), { flags: 'a' });
    child.stdout.pipe(log, { end: false });
    child.stderr.pipe(log, { end: false });
    return child;
  }

  async #waitFor(url: string): Promise<void> {
    for (let i = 0; i < 100; i++) {
      const answered = await fetch(url).then(
        (r) => r.ok,
        () => false,
      );
      if (answered) return;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(`nothing answers at ${url}; see the logs in ${this.folder}`);
  }

  async #command(program: string, args: readonly string[]): Promise<string> {
    const { stdout } = await run(process.execPath, [program, ...args], { maxBuffer: 64 << 20 });
    return stdout.trim();
  }
}

async function stopChild(child: ChildProcess | null): Promise<void> {
  // One that was killed has a signal instead of an exit code.
  if (child === null || child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), 10_000);
  await ended;
  clearTimeout(timer);
}
