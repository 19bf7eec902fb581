/**
 * A receiver's session port on loopback with a real CA, token folder and folder store, and agents that enrol with it.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, connect as connectTcp, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connectToReceiver } from '../../agent/session/connect.js';
import type { Credentials } from '../../agent/session/credentials.js';
import { enroll } from '../../agent/session/enroll.js';
import { openAuthority, type CertificateAuthority } from '../../receiver/session/ca.js';
import { enrollHandler } from '../../receiver/session/enroll-http.js';
import { Enrollment } from '../../receiver/session/enroll.js';
import { authenticator } from '../../receiver/session/identity.js';
import {
  startSessionServer,
  type ReceiverTransport,
  type SessionPeer,
  type SessionServer,
} from '../../receiver/session/server.js';
import { TokenStore } from '../../receiver/session/tokens.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { systemClock, type Clock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import type { MachineId } from '../../shared/units.js';
import { decodeReceiverMessage } from '../../shared/wire/messages.js';
import type { Transport, TransportClosed } from '../../shared/wire/transport.js';
import type { Heartbeat } from '../../shared/wire/ws-transport.js';

export interface World {
  readonly folder: string;
  readonly store: ObjectStore;
  readonly ca: CertificateAuthority;
  readonly tokens: TokenStore;
  readonly server: SessionServer;
  readonly address: string;
  /** Sessions that were let in, in order. */
  readonly sessions: { peer: SessionPeer; transport: ReceiverTransport }[];
  issue(options?: { machine?: MachineId; ttlMs?: number; address?: string }): Promise<string>;
  enrollAgent(name: string, token?: string): Promise<Credentials>;
  stop(): Promise<void>;
}

export interface WorldOptions {
  readonly heartbeat?: Heartbeat;
  /** Set for each session; echoes messages unless given. */
  readonly onSession?: (peer: SessionPeer, transport: ReceiverTransport) => void;
  readonly manifestGeneration?: number;
  readonly clock?: Clock;
  readonly recheckMs?: number;
}

const echo = (_peer: SessionPeer, transport: ReceiverTransport): void =>
  transport.onMessage((bytes) => void transport.send(bytes).catch(() => undefined));

export async function startWorld(options: WorldOptions = {}): Promise<World> {
  const clock = options.clock ?? systemClock;
  const folder = await mkdtemp(join(tmpdir(), 'afterimage-session-'));
  const store = await openStore(`file:${join(folder, 'store')}`, { create: true });
  const stateDir = join(folder, 'receiver');
  const ca = await openAuthority(stateDir, clock);
  const tokens = new TokenStore(stateDir, clock);
  const log = silentLogger();
  const manifestGeneration = (): Promise<number> => Promise.resolve(options.manifestGeneration ?? 0);
  const enrollment = new Enrollment({ store, tokens, ca, clock, log, manifestGeneration });
  const sessions: World['sessions'] = [];
  const server = await startSessionServer({
    ca,
    listen: { host: '127.0.0.1', port: 0 },
    names: [],
    authenticate: authenticator(store),
    enroll: enrollHandler(enrollment, clock, log),
    onSession: (peer, transport) => {
      sessions.push({ peer, transport });
      (options.onSession ?? echo)(peer, transport);
    },
    log,
    clock,
    ...(options.recheckMs === undefined ? {} : { recheckMs: options.recheckMs }),
    ...(options.heartbeat === undefined ? {} : { heartbeat: options.heartbeat }),
  });
  const address = `127.0.0.1:${server.port}`;
  const issue: World['issue'] = async (more = {}) =>
    (await tokens.issue({ address, caFingerprint: ca.fingerprint, ...more })).text;
  let agents = 0;
  return {
    folder,
    store,
    ca,
    tokens,
    server,
    address,
    sessions,
    issue,
    enrollAgent: async (name, token) =>
      enroll({
        stateDir: join(folder, `agent-${agents++}`),
        token: token ?? (await issue()),
        name,
        hardwareId: 'hardware-1',
      }),
    stop: async () => {
      await server.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

export const connect = (credentials: Credentials, heartbeat?: Heartbeat): Promise<Transport> =>
  connectToReceiver(credentials, { clock: systemClock, ...(heartbeat === undefined ? {} : { heartbeat }) });

export interface Refusal {
  readonly closed: TransportClosed;
  readonly message: { code: number; reason: string; hint: string } | null;
}

/** Connects, expects to be refused, and returns what was said. */
export async function refusalOf(credentials: Credentials): Promise<Refusal> {
  const transport = await connect(credentials);
  let message: Refusal['message'] = null;
  transport.onMessage((bytes) => {
    const decoded = decodeReceiverMessage(bytes);
    if (decoded.type === 'refused') message = decoded;
  });
  // What a refused peer sends must go nowhere.
  transport.send(Buffer.from([1, 2, 3])).catch(() => undefined);
  const closed = await transport.closed;
  return { closed, message };
}

export const nextMessage = (transport: Transport): Promise<Buffer> =>
  new Promise((resolve) => transport.onMessage((bytes) => resolve(Buffer.from(bytes))));

export interface BlackHole {
  readonly address: string;
  /** From now on nothing is forwarded, in either direction; connections stay open. */
  swallow(): void;
  stop(): Promise<void>;
}

/** A TCP proxy in front of an address that can become a black hole. */
export async function startBlackHole(target: string): Promise<BlackHole> {
  const [host = '', port = ''] = target.split(':');
  const sockets = new Set<Socket>();
  let swallowing = false;
  const forward = (from: Socket, to: Socket): void => {
    sockets.add(from);
    from.on('data', (bytes) => {
      if (!swallowing) to.write(bytes);
    });
    from.on('error', () => to.destroy());
    from.on('close', () => {
      if (!swallowing) to.destroy();
    });
  };
  const server: Server = createServer((inbound) => {
    const outbound = connectTcp({ host, port: Number(port) });
    forward(inbound, outbound);
    forward(outbound, inbound);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const bound = server.address();
  if (bound === null || typeof bound === 'string') throw new Error('no port');
  return {
    address: `127.0.0.1:${bound.port}`,
    swallow: () => {
      swallowing = true;
    },
    stop: () => {
      for (const socket of sockets) socket.destroy();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}
