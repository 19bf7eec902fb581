/**
 * Connections between agents and receivers: messages come in order and late, a partition holds them back, heartbeats end what is silent for too
 * long. What TLS and WebSocket do for the real ones stands here in short: an end is told once, to each side in its own time.
 */
import { AfterimageError } from '../../shared/errors.js';
import {
  CLOSE_TIMEOUT_MS,
  CONNECT_TIMEOUT_MS,
  HEARTBEAT_INTERVAL_MS,
  HEARTBEAT_TIMEOUT_MS,
} from '../../shared/limits.js';
import type { TransportClosed } from '../../shared/wire/transport.js';
import type { ReceiverTransport } from '../../receiver/session/server.js';
import type { SimProcess } from './process.js';
import type { Rng } from './rng.js';
import type { Scheduler } from './scheduler.js';

const LOST = 1006;
const HEARTBEAT_MISSES_MAX = Math.round(HEARTBEAT_TIMEOUT_MS / HEARTBEAT_INTERVAL_MS);

const gone = (reason: string): AfterimageError =>
  new AfterimageError(`the connection has ended: ${reason}`, { code: 'disconnected', kind: 'disconnected' });

/** One end of a connection. */
export class SimTransport implements ReceiverTransport {
  readonly closed: Promise<TransportClosed>;
  readonly #net: Network;
  readonly process: SimProcess;
  peer: SimTransport | null = null;
  #resolveClosed: (closed: TransportClosed) => void = () => undefined;
  #ended: TransportClosed | null = null;
  #closing = false;
  readonly #over = new AbortController();
  #handler: ((bytes: Buffer) => void) | null = null;
  #paused = false;
  #arrived: Buffer[] = [];
  /** Handed to the socket, in order. */
  #sending: { readonly bytes: Buffer; readonly resolve: () => void; readonly reject: (error: Error) => void }[] = [];
  /** On its way to the peer, in order: what happens when it arrives. */
  readonly onTheWay: (() => void)[] = [];
  #heard = 0;
  /** When the last message of this direction arrives: the next can't overtake it. */
  lastArrivalMs = 0;
  /** Sees every message that arrives here. */
  onArrival: ((bytes: Buffer) => void) | null = null;

  constructor(net: Network, process: SimProcess) {
    this.#net = net;
    this.process = process;
    this.closed = new Promise((resolve) => (this.#resolveClosed = resolve));
  }

  begin(): void {
    void this.#watch();
  }

  get isOpen(): boolean {
    return this.#ended === null;
  }

  send(bytes: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      this.process.act(() => this.#send(bytes, resolve, reject));
    });
  }

  #send(bytes: Buffer, resolve: () => void, reject: (error: Error) => void): void {
    if (this.#ended !== null || this.#closing) {
      reject(gone(this.#ended?.reason ?? 'closing'));
      return;
    }
    this.#sending.push({ bytes, resolve, reject });
    // Each of these events sends the next in the queue, whichever it was made for: messages keep their order.
    this.#net.scheduler.after(this.#net.sendMs(), `${this.process.name} sent`, () => this.#sent());
  }

  #sent(): void {
    const next = this.#sending.shift();
    if (next === undefined || this.#ended !== null) return;
    // Copied now: the sender must not have touched it before it is told that it may.
    this.#net.carry(this, Buffer.from(next.bytes));
    this.process.deliver(next.resolve);
  }

  onMessage(handler: (bytes: Buffer) => void): void {
    this.#handler = handler;
    this.#drain();
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#drain();
  }

  async probe(timeoutMs: number): Promise<boolean> {
    if (this.#ended !== null) return false;
    const heard = this.#heard;
    const answers = this.#net.canHear(this);
    await this.process.clock.sleep(answers ? this.#net.latencyMs * 2 : timeoutMs, this.#over.signal);
    if (this.#ended !== null) return false;
    return answers || this.#heard > heard || this.#paused;
  }

  close(code: number, reason: string): void {
    if (this.#ended !== null || this.#closing) return;
    this.#closing = true;
    this.#handler = () => undefined;
    this.#net.tellEnd(this, { code, reason });
    const waitMs = this.#net.canHear(this) ? 2 * this.#net.latencyMs : CLOSE_TIMEOUT_MS;
    this.#net.scheduler.after(waitMs, `${this.process.name} closed`, () => this.end({ code, reason }));
  }

  arrive(bytes: Buffer): void {
    if (this.#ended !== null) return;
    this.process.deliver(() => {
      if (this.#ended !== null) return;
      this.#heard++;
      this.onArrival?.(bytes);
      this.#arrived.push(bytes);
      this.#drain();
    });
  }

  /** This side learns that it is over. */
  end(closed: TransportClosed): void {
    this.process.deliver(() => {
      if (this.#ended !== null) return;
      this.#ended = closed;
      this.#over.abort();
      for (const { reject } of this.#sending.splice(0)) reject(gone(closed.reason));
      this.#resolveClosed(closed);
    });
  }

  #drain(): void {
    while (this.#handler !== null && !this.#paused) {
      const next = this.#arrived.shift();
      if (next === undefined) return;
      this.#handler(next);
    }
  }

  async #watch(): Promise<void> {
    let seen = this.#heard;
    let misses = 0;
    for (;;) {
      await this.process.clock.sleep(HEARTBEAT_INTERVAL_MS, this.#over.signal);
      if (this.#ended !== null) return;
      misses = this.#heard !== seen || this.#paused || this.#net.canHear(this) ? 0 : misses + 1;
      seen = this.#heard;
      if (misses < HEARTBEAT_MISSES_MAX) continue;
      this.end({ code: LOST, reason: 'the peer gave no sign of life' });
      return;
    }
  }
}

export class Network {
  readonly scheduler: Scheduler;
  readonly rng: Rng;
  readonly latencyMs: number;
  readonly #open = new Set<SimTransport>();
  /** Pairs of process names between which nothing passes. */
  readonly #cut = new Set<string>();
  /** ... and never will. */
  readonly #cutForGood = new Set<string>();
  #held: { readonly from: SimTransport; readonly to: SimTransport; readonly run: () => void }[] = [];

  constructor(scheduler: Scheduler, rng: Rng, latencyMs: number) {
    this.scheduler = scheduler;
    this.rng = rng;
    this.latencyMs = latencyMs;
  }

  /** Hosts, not processes: a process that is started again stands behind the same partition. */
  cut(a: string, b: string): void {
    this.#cut.add(pairOf(a, b));
  }

  mend(): void {
    this.#cut.clear();
    for (const { from, to, run } of this.#held.splice(0)) this.#pass(from, to, run);
  }

  /** Whatever is mended, these two hosts hear nothing of each other. */
  cutForGood(a: string, b: string): void {
    this.#cutForGood.add(pairOf(a, b));
  }

  isCutForGood(a: string, b: string): boolean {
    return this.#cutForGood.has(pairOf(a, b));
  }

  isCut(a: SimProcess, b: SimProcess): boolean {
    const pair = pairOf(hostOf(a), hostOf(b));
    return this.#cut.has(pair) || this.#cutForGood.has(pair);
  }

  canHear(end: SimTransport): boolean {
    const peer = end.peer;
    return peer !== null && peer.isOpen && peer.process.isRunning && !this.isCut(end.process, peer.process);
  }

  /** Connects two processes; rejects as a dial does. Resolves to the dialling side's end. */
  async dial(
    from: SimProcess,
    findPeer: () => { readonly process: SimProcess; readonly accept: (transport: SimTransport) => void } | null,
    watch: (agentEnd: SimTransport, receiverEnd: SimTransport) => void,
    timeoutMs = CONNECT_TIMEOUT_MS,
  ): Promise<SimTransport> {
    await from.after(this.#travelMs(), 'dials');
    const peer = findPeer();
    if (peer === null || !peer.process.isAlive) throw gone('connection refused');
    if (this.isCut(from, peer.process) || peer.process.isPaused) {
      await from.after(timeoutMs, 'no answer to a dial');
      throw gone('no answer');
    }
    const mine = new SimTransport(this, from);
    const theirs = new SimTransport(this, peer.process);
    mine.peer = theirs;
    theirs.peer = mine;
    for (const end of [mine, theirs]) {
      this.#open.add(end);
      end.process.onDeath(() => this.#died(end));
      void end.closed.then(() => this.#open.delete(end));
      end.begin();
    }
    watch(mine, theirs);
    this.scheduler.after(this.#travelMs(), `${peer.process.name} accepts ${from.name}`, () =>
      peer.process.deliver(() => peer.accept(theirs)),
    );
    return mine;
  }

  carry(from: SimTransport, bytes: Buffer): void {
    const { peer } = from;
    if (peer === null) return;
    this.#deliver(from, peer, `${bytes.length} bytes`, bytes.length / BYTES_PER_MS, () => peer.arrive(bytes));
  }

  tellEnd(from: SimTransport, closed: TransportClosed): void {
    const { peer } = from;
    if (peer !== null) this.#deliver(from, peer, 'ends', 0, () => peer.end(closed));
  }

  /** Things of one direction arrive in their order, whatever the latency of each. */
  #deliver(from: SimTransport, to: SimTransport, what: string, moreMs: number, arrive: () => void): void {
    const arriveMs = Math.max(from.lastArrivalMs, this.scheduler.nowMs + this.#travelMs() + moreMs);
    from.lastArrivalMs = arriveMs;
    from.onTheWay.push(arrive);
    this.scheduler.after(arriveMs - this.scheduler.nowMs, `${from.process.name} to ${to.process.name} ${what}`, () =>
      this.#pass(from, to, () => from.onTheWay.shift()?.()),
    );
  }

  /** A connection breaks, without anybody's doing. */
  breakOne(rng: Rng): void {
    const open = [...this.#open];
    if (open.length === 0) return;
    const end = rng.pick(open);
    for (const side of [end, end.peer]) {
      if (side === null) continue;
      this.scheduler.after(rng.between(0, 3_000), `${side.process.name} loses its connection`, () =>
        side.end({ code: LOST, reason: 'the connection was lost' }),
      );
    }
  }

  /** The kernel of a dead process resets its connections, or the host is gone as well and nobody says anything. */
  #died(end: SimTransport): void {
    this.#open.delete(end);
    const { peer } = end;
    if (peer === null || this.rng.chance(0.3)) return;
    this.scheduler.after(this.#travelMs(), `${peer.process.name} hears a reset`, () =>
      this.#pass(end, peer, () => peer.end({ code: LOST, reason: 'reset by peer' })),
    );
  }

  #pass(from: SimTransport, to: SimTransport, run: () => void): void {
    if (this.isCut(from.process, to.process)) this.#held.push({ from, to, run });
    else run();
  }

  /** Until the kernel has taken a message: at once, unless the socket is full. */
  sendMs(): number {
    return this.rng.chance(0.02) ? this.rng.wait(300) : this.rng.between(0, 0.3);
  }

  #travelMs(): number {
    return this.latencyMs * (0.5 + this.rng.unit()) + (this.rng.chance(0.02) ? this.rng.wait(this.latencyMs * 20) : 0);
  }
}

/** `receiver1#3` is the third process on host receiver1. */
export const hostOf = (process: SimProcess): string => process.name.split('#')[0] ?? process.name;
/** A link of some 400 Mbit/s. */
const BYTES_PER_MS = 50_000;
const pairOf = (a: string, b: string): string => [a, b].sort().join(' ');
