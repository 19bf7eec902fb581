/**
 * Opens the WebSocket to the receiver: TLS 1.3, the CA of the enrolment and no other, our client certificate.
 * Owns the socket until the transport is handed over; nothing to keep over a crash.
 */
import type { Socket } from 'node:net';
import type { ConnectionOptions } from 'node:tls';
import { WebSocket, type ClientOptions } from 'ws';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import { CONNECT_TIMEOUT_MS } from '../../shared/limits.js';
import { RECEIVER_TLS_NAME, SESSION_PATH, TLS_CIPHERS } from '../../shared/wire/enroll.js';
import type { Transport } from '../../shared/wire/transport.js';
import { HEARTBEAT, WEBSOCKET_OPTIONS, WsTransport, type Heartbeat } from '../../shared/wire/ws-transport.js';
import { connectError } from './connect-errors.js';
import type { Credentials } from './credentials.js';

export interface ConnectOptions {
  readonly clock: Clock;
  /** Gives up (kind `cancelled`) when aborted before the connection stands. */
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
  readonly heartbeat?: Heartbeat;
}

type Who = Pick<Credentials, 'receiver' | 'keyPem' | 'certificatePem' | 'caPem'>;

/**
 * Leaves the masking key all zero, which spares a pass over each byte. Masking keeps hostile script in a browser from writing bytes of its choice
 * past a proxy (RFC 6455, section 10.3); there is no browser here, and no proxy sees inside our TLS. Never use it without TLS.
 */
const zeroMask = (): void => undefined;

/** A refusal by the receiver is not an error here: it arrives as a `refused` message and a close code. */
export async function connectToReceiver(credentials: Who, options: ConnectOptions): Promise<Transport> {
  const { clock, signal, timeoutMs = CONNECT_TIMEOUT_MS, heartbeat = HEARTBEAT } = options;
  if (signal?.aborted) throw cancelled();
  const ws = new WebSocket(`wss://${credentials.receiver}${SESSION_PATH}`, websocketOptions(credentials, timeoutMs));
  return new Promise((resolve, reject) => {
    let socket: Socket | undefined;
    const onAbort = (): void => fail(cancelled());
    const fail = (error: unknown): void => {
      signal?.removeEventListener('abort', onAbort);
      ws.on('error', () => undefined);
      ws.terminate();
      reject(connectError(credentials.receiver, error));
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    ws.once('error', fail);
    ws.once('upgrade', (response) => (socket = response.socket));
    // In this event's own turn, so that no message is read before the transport stands.
    ws.once('open', () => {
      signal?.removeEventListener('abort', onAbort);
      ws.off('error', fail);
      if (socket === undefined) fail(new Error('the connection has no socket'));
      else resolve(new WsTransport(ws, socket, clock, heartbeat));
    });
  });
}

/** What ws understands beyond its types. */
type Untyped = Pick<ConnectionOptions, 'servername'> & { readonly generateMask: () => void };

function websocketOptions(credentials: Who, timeoutMs: number): ClientOptions & Untyped {
  return {
    ...WEBSOCKET_OPTIONS,
    ca: credentials.caPem,
    cert: credentials.certificatePem,
    key: credentials.keyPem,
    servername: RECEIVER_TLS_NAME,
    minVersion: 'TLSv1.3',
    ciphers: TLS_CIPHERS,
    followRedirects: false,
    handshakeTimeout: timeoutMs,
    generateMask: zeroMask,
  };
}

const cancelled = (): AfterimageError =>
  new AfterimageError('connecting was cancelled', { code: 'cancelled', kind: 'cancelled' });
