/**
 * Several receivers as processes on one store, with agents that are made up, in this process. All share one CA; each has a state folder of its own.
 */
import { setMaxListeners } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { enroll } from '../../agent/session/enroll.js';
import type { Credentials } from '../../agent/session/credentials.js';
import { loadHead, MachineReader } from '../../receiver/catalog/reader.js';
import type { RecoveryPoint } from '../../receiver/catalog/manifest.js';
import { openAuthority } from '../../receiver/session/ca.js';
import { TokenStore } from '../../receiver/session/tokens.js';
import { FileStore } from '../../receiver/store/file-store.js';
import { wantedOwner } from '../../receiver/fleet/wanted.js';
import { systemClock } from '../../shared/clock.js';
import { MIB, type MachineId } from '../../shared/units.js';
import { freePort, sleep } from '../e2e/lab.js';
import { Daemon, runToEnd, type Env } from '../e2e/program.js';
import { randomOf } from '../helpers/random.js';
import { ChunkShelf, SyntheticAgent, type SyntheticOptions } from './synthetic-agent.js';

/** One signal for any number of agents. */
function stopOfMany(): AbortController {
  const stop = new AbortController();
  setMaxListeners(0, stop.signal);
  return stop;
}

const START_LIMIT_MS = 120_000;
const POLL_MS = 20;

/** Receiver ids that tests can tell apart: `aaaaaaaa-…`. */
export const idOf = (letter: string): string => `${letter.repeat(8)}-0000-4000-8000-000000000000`;

export class LabReceiver {
  daemon: Daemon | null = null;

  constructor(
    readonly letter: string,
    readonly id: string,
    readonly address: string,
    readonly config: string,
    readonly statePath: string,
    readonly logPath: string,
    readonly statusPort: number,
  ) {}

  async start(env: Env = {}): Promise<void> {
    const daemon = new Daemon('receiver', ['--config', this.config, 'run'], this.logPath, env);
    this.daemon = daemon;
    await until(`receiver ${this.letter} is ready`, () => {
      if (daemon.end !== null) throw new Error(`it has ended\n${readFileSync(this.logPath, 'utf8')}`);
      return this.log.some((line) => line.includes(`"pid":${daemon.pid},`) && line.includes('receiver is ready'));
    });
  }

  get log(): string[] {
    return readFileSync(this.logPath, 'utf8').split('\n');
  }

  async status(): Promise<{
    readonly fleet: Record<string, unknown>;
    readonly machines: { connected: boolean; receivedBytes: number }[];
  }> {
    const answer = await fetch(`http://127.0.0.1:${this.statusPort}/status`);
    return (await answer.json()) as Awaited<ReturnType<LabReceiver['status']>>;
  }
}

export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  limitMs = START_LIMIT_MS,
): Promise<void> {
  const endMs = performance.now() + limitMs;
  while (!(await condition())) {
    if (performance.now() > endMs) throw new Error(`not within ${limitMs} ms: ${what}`);
    await sleep(POLL_MS);
  }
}

export class FleetLab {
  readonly folder = mkdtempSync('/dev/shm/afterimage-fleet-');
  readonly receivers: LabReceiver[] = [];
  readonly agents: SyntheticAgent[] = [];
  readonly #running: Promise<void>[] = [];
  readonly #stop = stopOfMany();
  readonly #shelf = new ChunkShelf(4);
  #store: FileStore | null = null;

  get storeUrl(): string {
    return `file:${join(this.folder, 'store')}`;
  }

  async store(): Promise<FileStore> {
    this.#store ??= await FileStore.open(join(this.folder, 'store'));
    return this.#store;
  }

  /** Its state folder holds the CA of the first, and an id that is known. */
  async receiver(
    letter: string,
    options: { readonly port?: number; readonly keys?: Readonly<Record<string, unknown>> } = {},
  ): Promise<LabReceiver> {
    const folder = join(this.folder, letter);
    const state = join(folder, 'state');
    mkdirSync(state, { recursive: true });
    const [first] = this.receivers;
    if (first === undefined) await openAuthority(state, systemClock);
    else cpSync(join(first.statePath, 'ca'), join(state, 'ca'), { recursive: true });
    writeFileSync(join(state, 'receiver-id'), `${idOf(letter)}\n`);
    const port = options.port ?? (await freePort());
    const statusPort = await freePort();
    const config = join(folder, 'receiver.yaml');
    writeFileSync(
      config,
      stringify({
        ...{ store: this.storeUrl, stateDir: state, controlSocket: join(folder, 'control.sock') },
        ...{ listen: { host: '127.0.0.1', port }, advertise: [`127.0.0.1:${port}`] },
        status: { host: '127.0.0.1', port: statusPort },
        fleet: { name: letter, heartbeat: '300ms', handoversPerMinute: 6000 },
        ...options.keys,
      }),
    );
    const made = new LabReceiver(
      ...([letter, idOf(letter), `127.0.0.1:${port}`, config, state] as const),
      ...([join(folder, 'log'), statusPort] as const),
    );
    this.receivers.push(made);
    return made;
  }

  async enrol(at: LabReceiver, name: string): Promise<Credentials> {
    const ca = await openAuthority(at.statePath, systemClock);
    const tokens = new TokenStore(at.statePath, systemClock);
    const { text } = await tokens.issue({ address: at.address, caFingerprint: ca.fingerprint });
    return enroll({ stateDir: join(this.folder, `agent-${name}`), token: text, name, hardwareId: name });
  }

  async agent(at: LabReceiver, intervalMs = 150): Promise<SyntheticAgent> {
    const name = `m${this.agents.length}`;
    return this.run(await this.enrol(at, name), name, intervalMs);
  }

  run(credentials: Credentials, name: string, intervalMs = 150, more: Partial<SyntheticOptions> = {}): SyntheticAgent {
    const agent = new SyntheticAgent({
      ...{ credentials, hardwareId: name, diskBytes: MIB, shelf: this.#shelf },
      ...{ chunksPerPoint: 2, intervalMs, connectTimeoutMs: 500, random: randomOf(this.agents.length + 1) },
      ...more,
    });
    this.agents.push(agent);
    this.#running.push(agent.run(this.#stop.signal));
    return agent;
  }

  wantedId(machine: MachineId, among: readonly string[]): string | null {
    return wantedOwner(
      machine,
      among.map((id) => ({ id, weight: 1 })),
    );
  }

  /** Where each machine belongs among these. */
  wanted(machine: MachineId, among: readonly LabReceiver[]): LabReceiver {
    const id = this.wantedId(
      machine,
      among.map((receiver) => receiver.id),
    );
    const found = among.find((receiver) => receiver.id === id);
    if (found === undefined) throw new Error('nobody is wanted');
    return found;
  }

  /** All agents are where they belong among these, and have committed there. */
  async untilSettled(among: readonly LabReceiver[]): Promise<void> {
    const before = new Map(this.agents.map((agent) => [agent, agent.acknowledged.length]));
    await until(`agents are where they belong among ${among.map((r) => r.letter).join()}`, () =>
      this.agents.every((agent) => {
        const { address } = this.wanted(agent.machine, among);
        return agent.at === address && agent.acknowledged.slice(before.get(agent)).at(-1)?.address === address;
      }),
    ).catch((error: unknown) => {
      const where = this.agents.map(
        (a) => `${a.at ?? '-'} (wanted ${this.wanted(a.machine, among).address}) ${a.ends.slice(-4).join(' | ')}`,
      );
      throw new Error(`${String(error)}\n${where.join('\n')}`);
    });
  }

  /** All points that the store lists of a machine, oldest first. */
  async points(machine: MachineId): Promise<RecoveryPoint[]> {
    const store = await this.store();
    if ((await loadHead(store, machine)) === null) return [];
    const view = await MachineReader.open(store, machine);
    const points: RecoveryPoint[] = [];
    for await (const point of view.points()) points.push(point);
    return points.sort((a, b) => a.number - b.number);
  }

  cli(...args: string[]): ReturnType<typeof runToEnd> {
    return runToEnd('cli', ['--store', this.storeUrl, ...args]);
  }

  async stopAgents(): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#running);
  }

  async cleanUp(): Promise<void> {
    await this.stopAgents();
    for (const { daemon } of this.receivers) if (daemon?.end === null) await daemon.kill();
    await this.#store?.close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
