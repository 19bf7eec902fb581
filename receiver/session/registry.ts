/**
 * Which machines are connected: one session per machine. A second connection is let in only when the first is dead.
 * Owns the status of every machine seen since the start; sessions end by themselves.
 */
import type { Logger } from 'pino';
import { TAKEOVER_PROBE_MS } from '../../shared/limits.js';
import type { MachineId } from '../../shared/units.js';
import { CLOSE } from '../../shared/wire/close-codes.js';
import { encodeControl } from '../../shared/wire/messages.js';
import type { GroupMember } from './group-link.js';
import { IngestSession, type IngestDeps } from './ingest.js';
import type { ReceiverTransport, SessionPeer } from './server.js';
import { SessionHomeAgents, type LiveHome } from './home-agents.js';
import type { SessionHere } from '../fleet/handovers.js';
import type { Direction } from '../fleet/placement.js';
import { newMachineStatus, type MachineStatus } from './status.js';

interface Live extends LiveHome {
  readonly transport: ReceiverTransport;
  readonly session: IngestSession;
  /** Of the monotonic clock: tells one session of a machine from the next. */
  readonly sinceMs: number;
}

export class SessionRegistry {
  readonly #deps: IngestDeps;
  readonly #log: Logger;
  readonly #live = new Map<string, Live>();
  readonly #status = new Map<string, MachineStatus>();
  /** Machines whose next session is being decided: a third connection waits for neither. */
  readonly #deciding = new Set<string>();
  /** The connected agents, for failover. */
  readonly homeAgents = new SessionHomeAgents((machine) => this.#live.get(machine));

  constructor(deps: IngestDeps) {
    this.#deps = deps;
    this.#log = deps.log;
  }

  get machines(): readonly MachineStatus[] {
    return [...this.#status.values()];
  }

  /** Serves a peer, unless an earlier session of its machine shows life. */
  async admit(peer: SessionPeer, transport: ReceiverTransport): Promise<void> {
    const { machine, name } = peer.identity;
    if (this.#deciding.has(machine) || !(await this.#makeWay(machine))) {
      const text = `machine ${name} is connected already; this second connection comes from ${peer.remote}`;
      this.#log.warn(
        { machine, name, remote: peer.remote, code: CLOSE.alreadyConnected.code },
        'agent refused: already connected',
      );
      this.#statusOf(machine, name).lastRefusal = text;
      await transport
        .send(
          encodeControl({
            type: 'refused',
            code: CLOSE.alreadyConnected.code,
            reason: text,
            hint: CLOSE.alreadyConnected.hint,
          }),
        )
        .catch(() => undefined);
      transport.close(CLOSE.alreadyConnected.code, CLOSE.alreadyConnected.name);
      return;
    }
    const status = this.#statusOf(machine, name);
    Object.assign(status, {
      connected: true,
      mode: null,
      remote: peer.remote,
      connectedAtMs: this.#deps.clock.nowMs(),
    });
    const session = new IngestSession(this.#deps, peer.identity, transport, status, () => this.homeAgents.changed());
    const done = session.run().finally(() => {
      if (this.#live.get(machine)?.transport !== transport) return;
      this.#live.delete(machine);
      Object.assign(status, { connected: false, mode: null });
    });
    const sinceMs = this.#deps.clock.monotonicMs();
    this.#live.set(machine, { transport, done, home: session.home, session, sinceMs });
    await done;
  }

  /** Sessions that stand and were welcomed, for the fleet. */
  get sessions(): SessionHere[] {
    return [...this.#live].flatMap(([machine, { home, session, sinceMs }]) =>
      home.mode === null ? [] : [{ machine: machine as MachineId, sinceMs, stranded: session.stranded }],
    );
  }

  /** The agent of a machine, for groups; null: it has no session here. */
  groupMember(machine: MachineId): GroupMember | null {
    return this.#live.get(machine)?.session.group ?? null;
  }

  /** Sends the machine's agent elsewhere when nothing of it is under way, if `decide` still says so then. */
  handOver(machine: MachineId, decide: () => Promise<Direction>): void {
    this.#live.get(machine)?.session.handOver(decide);
  }

  /** Waits for all sessions to have ended (their transports are closed by the server). */
  async settled(): Promise<void> {
    await Promise.allSettled([...this.#live.values()].map((live) => live.done));
  }

  /** True when no session of the machine is left: there was none, or it didn't answer and was ended. */
  async #makeWay(machine: string): Promise<boolean> {
    const before = this.#live.get(machine);
    if (before === undefined) return true;
    this.#deciding.add(machine);
    try {
      const ended = before.done.then(() => 'ended' as const);
      const alive = await Promise.race([ended, before.transport.probe(TAKEOVER_PROBE_MS)]);
      if (alive === true) return false;
      if (alive === false) before.transport.close(CLOSE.goingAway.code, 'the connection is dead');
      await before.done;
      return true;
    } finally {
      this.#deciding.delete(machine);
    }
  }

  #statusOf(machine: string, name: string): MachineStatus {
    let status = this.#status.get(machine);
    if (status === undefined) {
      status = newMachineStatus(machine, name);
      this.#status.set(machine, status);
    }
    return status;
  }
}
