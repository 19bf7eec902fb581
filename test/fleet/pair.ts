/**
 * Two receivers as processes on one store, and a real agent whose machine writes lines: `a` is the receiver that it was enrolled at, `b` joins with the
 * same CA. Which of the two the machine belongs to is chosen, as receivers draw lots by their ids.
 */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { loadHead } from '../../receiver/catalog/reader.js';
import { wantedOwner } from '../../receiver/fleet/wanted.js';
import { anotherReceiver, Site, type Receiver } from '../drill/site.js';
import { until } from './fleet-lab.js';

/** Longer than a busy host keeps a process waiting: three silent ones, and it counts as gone. */
const HEARTBEAT = '2s';
const IDS_TRIED_MAX = 10_000_000;
export const LOG_OF_B = 'b.log';

export interface PairOptions {
  /** Whom the machine belongs to while both live. */
  readonly wanted: 'a' | 'b';
  /** Where b says that it is reached; its own address unless given. */
  readonly advertisedB?: string;
}

const keys =
  (name: string, advertised?: string) =>
  (port: number): Readonly<Record<string, unknown>> => ({
    advertise: [advertised ?? `127.0.0.1:${port}`],
    fleet: { name, heartbeat: HEARTBEAT, handoversPerMinute: 6000 },
  });

/**
 * The first of many ids that is right. How many are depends on the id that it competes with: where that one's draw is high, one in hundreds wins, so
 * there are enough of them that none winning is out of the question.
 */
function firstId(isRight: (id: string) => boolean): string {
  for (let i = 0; i < IDS_TRIED_MAX; i++) {
    const id = `${String(i).padStart(8, '0')}-0000-4000-8000-000000000000`;
    if (isRight(id)) return id;
  }
  throw new Error(`none of ${IDS_TRIED_MAX} ids wins`);
}

export class Pair {
  private constructor(
    readonly site: Site,
    readonly b: Receiver,
    readonly ids: { readonly a: string; readonly b: string },
    readonly addresses: { readonly a: string; readonly b: string },
  ) {}

  /** The machine is protected at a and writes; b isn't started. */
  static async open({ wanted, advertisedB }: PairOptions): Promise<Pair> {
    const site = await Site.open({ receiver: keys('a') });
    try {
      const { lab, machine } = site;
      const a = readFileSync(join(lab.folder, 'receiver', 'receiver-id'), 'utf8').trim();
      const isRight = (id: string): boolean => {
        const candidates = [a, id].map((one) => ({ id: one, weight: 1 }));
        return wantedOwner(machine, candidates) === (wanted === 'a' ? a : id);
      };
      const b = firstId(isRight);
      const receiver = await anotherReceiver(lab, { interval: '500ms', provider: 'none' }, keys('b', advertisedB));
      const state = join(lab.folder, 'b');
      mkdirSync(state, { recursive: true });
      cpSync(join(lab.folder, 'receiver', 'ca'), join(state, 'ca'), { recursive: true });
      writeFileSync(join(state, 'receiver-id'), `${b}\n`);
      const { listen } = parse(readFileSync(receiver.config, 'utf8')) as { listen: { port: number } };
      const addresses = { a: `127.0.0.1:${lab.port}`, b: `127.0.0.1:${listen.port}` };
      return new Pair(site, receiver, { a, b }, addresses);
    } catch (error) {
      await site.cleanUp();
      throw error;
    }
  }

  /** Starts b, with this in its environment; resolves when both have seen the other live. */
  async join(env: Readonly<Record<string, string>> = {}): Promise<void> {
    const daemon = await this.b.start(env);
    if (daemon.end !== null) throw new Error(`b has ended: ${this.logOf('b')}`);
    for (const receiver of [this.site.first, this.b]) {
      let seen = '';
      await until('it sees the other live', async () => {
        const { fleet } = await this.status(receiver);
        seen = JSON.stringify(fleet);
        return fleet.isSettled && fleet.receivers.filter(({ liveness }) => liveness === 'live').length === 2;
      }).catch((error: unknown) => {
        throw new Error(`${String(error)}\n${seen}`);
      });
    }
  }

  async status(of: Receiver): Promise<{
    readonly fleet: {
      readonly isSettled: boolean;
      readonly receivers: readonly { readonly liveness: string }[];
    };
    readonly machines: readonly { readonly connected: boolean; readonly mode: string | null }[];
  }> {
    const { status } = parse(readFileSync(of.config, 'utf8')) as { status: { port: number } };
    const answer = await fetch(`http://127.0.0.1:${status.port}/status`);
    return (await answer.json()) as Awaited<ReturnType<Pair['status']>>;
  }

  /** One of its metrics of the fleet. */
  async metric(of: Receiver, name: string): Promise<number> {
    const { status } = parse(readFileSync(of.config, 'utf8')) as { status: { port: number } };
    const text = await (await fetch(`http://127.0.0.1:${status.port}/metrics`)).text();
    const line = text.split('\n').find((one) => one.startsWith(`afterimage_receiver_fleet_${name} `));
    return Number(line?.split(' ')[1]);
  }

  /** Resolves when the machine's agent has its session at one of them, and that one owns the machine. */
  async untilAt(which: 'a' | 'b'): Promise<void> {
    const receiver = which === 'a' ? this.site.first : this.b;
    await until(`the agent is at ${which}`, async () => {
      const { machines } = await this.status(receiver).catch(() => ({ machines: [] }));
      if (!machines.some(({ connected, mode }) => connected && mode === 'replicate')) return false;
      return (await this.owner()) === this.ids[which];
    });
  }

  /** Id of the receiver that has taken the machine over last. */
  async owner(): Promise<string | undefined> {
    return (await loadHead(this.site.store, this.site.machine))?.owner?.receiver;
  }

  logOf(which: 'a' | 'b' | 'agent'): string {
    const { lab } = this.site;
    const path = { a: lab.receiverLog, b: join(lab.folder, LOG_OF_B), agent: lab.agentLog }[which];
    return readFileSync(path, 'utf8');
  }

  /** Verdicts of all welcomes at both receivers, in the order of time. */
  verdicts(): string[] {
    return `${this.logOf('a')}\n${this.logOf('b')}`
      .split('\n')
      .filter((line) => line.includes('"agent connected"'))
      .map((line) => JSON.parse(line) as { time: string; disks: string[] })
      .sort((x, y) => (x.time < y.time ? -1 : 1))
      .flatMap(({ disks }) => disks.map((disk) => /: (\w+) \(/.exec(disk)?.[1] ?? disk));
  }
}
