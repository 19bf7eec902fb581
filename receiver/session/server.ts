/**
 * The session port: one HTTPS server (TLS 1.3) that enrols machines and upgrades their agents' connections to WebSockets.
 *
 * Who a peer is, is decided at the upgrade, before a byte of a session is read. TLS itself lets any client in, with or without a
 * certificate: a refused agent must be told why, in words, which an aborted handshake can't. It gets the WebSocket handshake, one `refused`
 * message and a close code; whatever it sends is thrown away. Owns the sockets; a crash loses nothing, agents connect again.
 */
import { constants } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import { WebSocketServer } from 'ws';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, errnoOf, messageOf } from '../../shared/errors.js';
import { CONNECT_TIMEOUT_MS, IDENTITY_RECHECK_MS, SESSION_CONNECTIONS_MAX } from '../../shared/limits.js';
import type { Logger } from '../../shared/log.js';
import { asMachineId, isUuid } from '../../shared/units.js';
import { CLOSE } from '../../shared/wire/close-codes.js';
import { ENROLL_PATH, SESSION_PATH, TLS_CIPHERS } from '../../shared/wire/enroll.js';
import { encodeControl } from '../../shared/wire/messages.js';
import type { Transport } from '../../shared/wire/transport.js';
import { HEARTBEAT, WEBSOCKET_OPTIONS, WsTransport, type Heartbeat } from '../../shared/wire/ws-transport.js';
import { sha256Hex } from '../../shared/fingerprint.js';
import type { MachineIdentity } from '../catalog/manifest.js';
import type { CertificateAuthority } from './ca.js';
import type { RequestHandler } from './enroll-http.js';
import type { Authenticate, Authentication } from './identity.js';

/** A transport whose reading can be stopped, and that can be asked whether its peer lives. */
export interface ReceiverTransport extends Transport {
  /** Stops reading the socket; what was read already still arrives. */
  pause(): void;
  resume(): void;
  /** Whether the peer shows life within `timeoutMs`; a paused connection counts as alive. */
  probe(timeoutMs: number): Promise<boolean>;
}

export interface SessionPeer {
  readonly identity: MachineIdentity;
  /** address:port, for people. */
  readonly remote: string;
}

export interface SessionServerOptions {
  readonly ca: CertificateAuthority;
  readonly listen: { readonly host: string; readonly port: number };
  /** Further names in the server's certificate. */
  readonly names: readonly string[];
  readonly authenticate: Authenticate;
  /** Handler of ENROLL_PATH. */
  readonly enroll: RequestHandler;
  /** Must set the transport's message handler before it awaits anything long: reading begins then. */
  readonly onSession: (peer: SessionPeer, transport: ReceiverTransport) => void;
  readonly log: Logger;
  readonly clock: Clock;
  readonly heartbeat?: Heartbeat;
  /** How often a running session's identity is looked up again. */
  readonly recheckMs?: number;
}

export interface SessionServer {
  readonly host: string;
  readonly port: number;
  /** Closes every connection with 1001 and resolves when all have ended. */
  stop(): Promise<void>;
}

export async function startSessionServer(options: SessionServerOptions): Promise<SessionServer> {
  const { keyPem, chainPem } = await options.ca.issueServer(options.names);
  const server = createServer({
    key: keyPem,
    cert: chainPem,
    ca: options.ca.certificatePem,
    requestCert: true,
    rejectUnauthorized: false,
    minVersion: 'TLSv1.3',
    ciphers: TLS_CIPHERS,
    honorCipherOrder: true,
    // A resumed TLS session would stand for a certificate that nobody has shown on this connection.
    secureOptions: constants.SSL_OP_NO_TICKET,
    handshakeTimeout: CONNECT_TIMEOUT_MS,
    headersTimeout: CONNECT_TIMEOUT_MS,
    requestTimeout: CONNECT_TIMEOUT_MS,
  });
  server.maxConnections = SESSION_CONNECTIONS_MAX;
  const door = new SessionDoor(options);
  server.on('request', (request, response) => {
    if (request.method === 'POST' && request.url === ENROLL_PATH) return options.enroll(request, response);
    response.writeHead(404, { connection: 'close' }).end();
  });
  server.on('upgrade', (request, socket, head) => void door.onUpgrade(request, socket, head));
  server.on('tlsClientError', (error, socket) => {
    options.log.debug({ remote: socket.remoteAddress, reason: messageOf(error) }, 'TLS handshake failed');
  });
  const { address, port } = await listen(server, options.listen);
  return { host: address, port, stop: () => stop(server, door) };
}

async function stop(server: Server, door: SessionDoor): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  await door.closeAll();
  server.closeAllConnections();
  await closed;
}

async function listen(server: Server, { host, port }: { host: string; port: number }): Promise<AddressInfo> {
  try {
    return await listenOnce(server, host, port);
  } catch (error) {
    const noIpv6 = host === '::' && ['EAFNOSUPPORT', 'EADDRNOTAVAIL'].includes(errnoOf(error) ?? '');
    if (noIpv6) return listen(server, { host: '0.0.0.0', port });
    throw new AfterimageError(`can't listen on ${host} port ${port}: ${messageOf(error)}`, {
      code: 'listen',
      kind: 'io',
      hint: 'Choose another `listen` in receiver.yaml, or stop what uses the port.',
      cause: error,
    });
  }
}

function listenOnce(server: Server, host: string, port: number): Promise<AddressInfo> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host, port }, () => {
      server.off('error', reject);
      resolve(server.address() as AddressInfo);
    });
  });
}

/** Lets peers in or tells them why not. */
class SessionDoor {
  readonly #options: SessionServerOptions;
  readonly #sockets = new WebSocketServer({ noServer: true, ...WEBSOCKET_OPTIONS });
  readonly #transports = new Set<WsTransport>();
  /** Upgrades that wait for the store's answer. */
  readonly #undecided = new Set<Duplex>();
  #closing = false;

  constructor(options: SessionServerOptions) {
    this.#options = options;
  }

  async onUpgrade(request: IncomingMessage, duplex: Duplex, head: Buffer): Promise<void> {
    if (!(duplex instanceof TLSSocket)) {
      duplex.destroy();
      return;
    }
    const socket = duplex;
    const onError = (): void => void socket.destroy();
    socket.on('error', onError);
    if (request.url !== SESSION_PATH || this.#closing) {
      socket.end(
        `HTTP/1.1 ${this.#closing ? '503 Service Unavailable' : '404 Not Found'}\r\nConnection: close\r\n\r\n`,
      );
      return;
    }
    this.#undecided.add(socket);
    const remote = `${socket.remoteAddress ?? 'unknown'}:${socket.remotePort ?? 0}`;
    const decision = await this.#decide(socket, remote);
    this.#undecided.delete(socket);
    this.#sockets.handleUpgrade(request, socket, head, (ws) => {
      socket.off('error', onError);
      const transport = new WsTransport(ws, socket, this.#options.clock, this.#options.heartbeat ?? HEARTBEAT);
      this.#transports.add(transport);
      void transport.closed.then(() => this.#transports.delete(transport));
      if ('refusal' in decision) this.#refuse(transport, decision, remote);
      else this.#admit(transport, { identity: decision.identity, remote });
    });
  }

  async closeAll(): Promise<void> {
    this.#closing = true;
    for (const socket of this.#undecided) socket.destroy();
    const ended = [...this.#transports].map((transport) => {
      transport.close(CLOSE.goingAway.code, 'the receiver is stopping');
      return transport.closed;
    });
    await Promise.all(ended);
  }

  async #decide(socket: TLSSocket, remote: string): Promise<Authentication> {
    const certificate = socket.getPeerX509Certificate();
    if (certificate === undefined) return { refusal: CLOSE.badCertificate, reason: 'the agent showed no certificate' };
    if (!socket.authorized) {
      const reason = `the agent's certificate is not one of this receiver (${String(socket.authorizationError)})`;
      return { refusal: CLOSE.badCertificate, reason };
    }
    const machine = /^CN=([0-9a-f-]{36})$/.exec(certificate.subject)?.[1];
    if (machine === undefined || !isUuid(machine)) {
      return { refusal: CLOSE.badCertificate, reason: "the agent's certificate names no machine" };
    }
    try {
      return await this.#options.authenticate(asMachineId(machine), sha256Hex(certificate.raw));
    } catch (error) {
      this.#options.log.error({ err: error, machine, remote }, 'a machine could not be looked up');
      return { refusal: CLOSE.internal, reason: 'the receiver could not look the machine up in its store' };
    }
  }

  /** A machine that is revoked or enrolled again while it is connected must go, too. A store that doesn't answer decides nothing. */
  async #recheck(transport: WsTransport, { identity, remote }: SessionPeer): Promise<void> {
    const { authenticate, clock, log, recheckMs = IDENTITY_RECHECK_MS } = this.#options;
    const ended = new AbortController();
    void transport.closed.then(() => ended.abort());
    for (;;) {
      await clock.sleep(recheckMs, ended.signal);
      if (ended.signal.aborted) return;
      const decision = await authenticate(identity.machine, identity.certificate).catch((error: unknown) => {
        log.warn({ err: error, machine: identity.machine }, 'a connected machine could not be looked up again');
        return { identity };
      });
      if ('refusal' in decision) return this.#refuse(transport, decision, remote);
    }
  }

  #refuse(
    transport: WsTransport,
    { refusal, reason }: Extract<Authentication, { refusal: unknown }>,
    remote: string,
  ): void {
    this.#options.log.warn({ remote, code: refusal.code, reason }, 'session refused');
    const message = encodeControl({ type: 'refused', code: refusal.code, reason, hint: refusal.hint });
    // A peer that is gone already needs no answer.
    transport.send(message).catch(() => undefined);
    transport.close(refusal.code, reason);
  }

  #admit(transport: WsTransport, peer: SessionPeer): void {
    try {
      this.#options.onSession(peer, transport);
      void this.#recheck(transport, peer);
    } catch (error) {
      this.#options.log.error({ err: error, machine: peer.identity.machine }, 'a session could not be started');
      transport.close(CLOSE.internal.code, CLOSE.internal.name);
    }
  }
}
