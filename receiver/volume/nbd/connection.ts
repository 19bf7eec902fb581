/**
 * One client: its socket, the negotiation with its time limit, TLS, then the transmission phase. Whatever goes wrong here ends this connection alone.
 */
import type { Socket } from 'node:net';
import { messageOf } from '../../../shared/errors.js';
import { NBD_KEEPALIVE_MS } from '../../../shared/limits.js';
import type { NbdExport } from './export.js';
import { Handshake, type HandshakeOutcome, type Session } from './handshake.js';
import type { BudgetAccount, BudgetHolder } from './memory-budget.js';
import type { SharedState } from './shared-state.js';
import { readByEvents, readInto, type InputSink } from './socket-input.js';
import { startTls, type NbdTls } from './tls.js';
import { Transmission } from './transmission.js';

export interface ConnectionOptions {
  readonly exports: () => readonly NbdExport[];
  readonly tls: NbdTls | null;
  readonly onClosed: (connection: Connection) => void;
}

export class Connection implements BudgetHolder, InputSink {
  /** The accepted socket, or what took its place. */
  #raw: Socket;
  /** The raw socket, or TLS on it. */
  #stream: Socket;
  readonly #options: ConnectionOptions;
  readonly #shared: SharedState;
  readonly #account: BudgetAccount;
  readonly #handshake: Handshake;
  readonly #handshakeEnds = new AbortController();
  #session: Session | null = null;
  #transmission: Transmission | null = null;
  #closed = false;

  constructor(socket: Socket, options: ConnectionOptions, shared: SharedState) {
    this.#raw = socket;
    this.#stream = socket;
    this.#options = options;
    this.#shared = shared;
    this.#account = shared.budget.open(this);
    this.#handshake = new Handshake({
      exports: options.exports,
      tls: options.tls === null ? 'none' : 'required',
      send: (bytes) => void this.#stream.write(bytes),
    });
  }

  start(): void {
    this.#raw.setNoDelay(true);
    this.#raw.setKeepAlive(true, NBD_KEEPALIVE_MS);
    // TLS takes the raw socket over, which must be an ordinary one then.
    this.#raw = this.#options.tls === null ? readInto(this.#raw, this) : readByEvents(this.#raw, this);
    this.#stream = this.#raw;
    this.#listen(this.#raw);
    this.#raw.once('close', () => this.#onClose());
    void this.#limitHandshake();
    this.#handshake.start();
  }

  /** Name of the export in use; null while negotiating. */
  get exportName(): string | null {
    return this.#session?.export.name ?? null;
  }

  /** Answers what is in flight, then closes. */
  finish(): void {
    if (this.#transmission === null) this.destroy();
    else this.#transmission.finish();
  }

  destroy(): void {
    this.#stream.destroy();
    this.#raw.destroy();
  }

  wake(): void {
    this.#guarded(() => this.#transmission?.pump());
  }

  stalledSinceMs(): number | null {
    return this.#transmission?.stalledSinceMs() ?? null;
  }

  evict(): void {
    this.#cutOff('it holds memory that others wait for, and neither sends nor reads');
  }

  #listen(stream: Socket): void {
    stream.on('error', (error) => this.#shared.log.debug({ reason: messageOf(error) }, 'NBD connection broke'));
    stream.once('end', () => this.#transmission?.finish());
  }

  async #limitHandshake(): Promise<void> {
    await this.#shared.clock.sleep(this.#shared.limits.handshakeTimeoutMs, this.#handshakeEnds.signal);
    if (!this.#handshakeEnds.signal.aborted) this.#cutOff('it did not finish the negotiation in time');
  }

  receive(chunk: Buffer): void {
    this.#guarded(() => {
      if (this.#transmission !== null) this.#transmission.receive(chunk);
      else this.#negotiated(this.#handshake.push(chunk));
    });
  }

  directBuffer(): Buffer | null {
    return this.#transmission?.directBuffer() ?? null;
  }

  receivedDirectly(bytes: number, buffer: Buffer): void {
    this.#guarded(() => this.#transmission?.receivedDirectly(bytes, buffer));
  }

  #negotiated(outcome: HandshakeOutcome): void {
    switch (outcome.kind) {
      case 'more':
        if (this.#stream.writableLength > this.#shared.limits.replyQueueBytes) this.#cutOff('it reads no answers');
        return;
      case 'tls':
        this.#startTls();
        return;
      case 'end':
        if (outcome.violation === null) this.#stream.destroySoon();
        else this.#cutOff(outcome.violation);
        return;
      case 'ready':
        this.#begin(outcome.session, outcome.rest);
    }
  }

  #startTls(): void {
    if (this.#options.tls === null) return;
    this.#raw.removeAllListeners('data');
    this.#raw.pause();
    startTls(this.#raw, this.#options.tls, this.#shared.limits.handshakeTimeoutMs, {
      onSecure: (secure) => {
        this.#stream = secure;
        this.#handshake.secured();
        this.#listen(secure);
        readByEvents(secure, this);
      },
      onRefused: (reason) => this.#cutOff(reason),
    });
  }

  #begin(session: Session, rest: Buffer): void {
    this.#handshakeEnds.abort();
    this.#session = session;
    this.#transmission = new Transmission(this.#stream, session, this.#shared, this.#account, {
      onViolation: (reason) => this.#cutOff(reason),
      onFinished: () => this.#stream.destroySoon(),
      onDisconnect: () => this.#shared.log.debug({ export: session.export.name }, 'NBD client disconnects'),
    });
    this.#shared.log.debug({ export: session.export.name, structured: session.structured }, 'NBD client uses a volume');
    if (rest.length > 0) this.#transmission.receive(rest);
  }

  #cutOff(reason: string): void {
    if (this.#closed || this.#stream.destroyed) return;
    this.#shared.stats.cutOff++;
    this.#shared.log.warn(
      { reason, export: this.exportName, remote: this.#raw.remoteAddress },
      `an NBD client was cut off: ${reason}`,
    );
    this.destroy();
  }

  /** An error of ours must not take other clients' volumes away. */
  #guarded(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#shared.log.error({ err: error, export: this.exportName }, 'an NBD connection failed');
      this.destroy();
    }
  }

  #onClose(): void {
    this.#closed = true;
    this.#handshakeEnds.abort();
    this.#stream.destroy();
    this.#transmission?.gone();
    this.#account.close();
    this.#options.onClosed(this);
  }
}
