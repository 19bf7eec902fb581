/**
 * The NBD server: serves block devices to QEMU, libnbd and kernels, on a Unix socket that its owner alone may open, on loopback, or over TLS with
 * client certificates. Owns the listening socket and the connections; holds nothing that a crash could lose: what was answered is the device's.
 */
import { createServer, type Server } from 'node:net';
import { rm } from 'node:fs/promises';
import type { Clock } from '../../../shared/clock.js';
import { isLoopback } from '../../../shared/config/parse-values.js';
import { usageError } from '../../../shared/errors.js';
import type { Logger } from '../../../shared/log.js';
import { listenOnPort, listenPrivately } from '../../../shared/unix-socket.js';
import { Connection } from './connection.js';
import type { NbdExport } from './export.js';
import { createSharedState, type NbdLimits, type NbdStats } from './shared-state.js';
import type { NbdTls } from './tls.js';

export type { NbdExport } from './export.js';
export type { NbdLimits, NbdStats } from './shared-state.js';
export type { NbdTls } from './tls.js';

export type NbdListen =
  { readonly socketPath: string } | { readonly host: string; readonly port: number; readonly tls?: NbdTls };

export interface NbdServerOptions {
  readonly listen: NbdListen;
  /** Looked up at each negotiation. The first is also the default export (the empty name). */
  readonly exports: () => readonly NbdExport[];
  readonly log: Logger;
  readonly clock: Clock;
  /** For tests; else those of shared/limits.ts. */
  readonly limits?: Partial<NbdLimits>;
}

export interface NbdServer {
  /** Of a TCP endpoint; 0 for a Unix socket. */
  readonly port: number;
  /** Clients now. */
  readonly connections: number;
  readonly stats: Readonly<NbdStats>;
  /**
   * Ends the connections to one export, for before its device is closed (take it out of `exports` first): requests in flight are answered within a
   * limit. Resolved: no request reaches the device any more, but one that it had not answered by then may still be at work.
   */
  disconnect(exportName: string): Promise<void>;
  /** No new connections, then as disconnect() for all; the Unix socket is removed. */
  stop(): Promise<void>;
}

export async function startNbdServer(options: NbdServerOptions): Promise<NbdServer> {
  const { listen } = options;
  const tls = 'tls' in listen && listen.tls !== undefined ? listen.tls : null;
  if (!('socketPath' in listen) && tls === null && !isLoopback(listen.host)) {
    throw usageError(
      `volumes are not served on ${listen.host} without TLS`,
      'NBD has no authentication of its own: serve on a Unix socket or on 127.0.0.1, or configure TLS.',
    );
  }
  const shared = createSharedState(options.limits ?? {}, options.log, options.clock);
  const clients = new ClientSet(options.clock, shared.limits.stopTimeoutMs);
  const server = createServer({ pauseOnConnect: true }, (socket) => {
    const connection = new Connection(
      socket,
      { exports: options.exports, tls, onClosed: (closed) => clients.remove(closed) },
      shared,
    );
    clients.add(connection);
    connection.start();
  });
  server.maxConnections = shared.limits.connections;
  server.on('drop', () => {
    shared.stats.cutOff++;
    options.log.warn({ connections: clients.size }, 'an NBD client was turned away: too many connections');
  });
  await listenAt(server, listen);
  server.on('error', (error) => options.log.error({ err: error }, 'the NBD endpoint failed to accept a connection'));
  const address = server.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    get connections() {
      return clients.size;
    },
    stats: shared.stats,
    disconnect: (name) => clients.finish((connection) => connection.exportName === name),
    stop: async () => {
      if ('socketPath' in listen) await rm(listen.socketPath, { force: true });
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      await clients.finish(() => true);
      await closed;
    },
  };
}

const listenAt = (server: Server, listen: NbdListen): Promise<void> =>
  'socketPath' in listen ? listenPrivately(server, listen.socketPath) : listenOnPort(server, listen.host, listen.port);

class ClientSet {
  readonly #connections = new Set<Connection>();
  /** Called at each close. */
  readonly #watchers = new Set<() => void>();

  constructor(
    private readonly clock: Clock,
    private readonly timeoutMs: number,
  ) {}

  get size(): number {
    return this.#connections.size;
  }

  add(connection: Connection): void {
    this.#connections.add(connection);
  }

  remove(connection: Connection): void {
    this.#connections.delete(connection);
    for (const watch of [...this.#watchers]) watch();
  }

  async finish(concerns: (connection: Connection) => boolean): Promise<void> {
    const chosen = new Set([...this.#connections].filter(concerns));
    for (const connection of chosen) connection.finish();
    const inTime = new AbortController();
    void this.clock.sleep(this.timeoutMs, inTime.signal).then(() => {
      for (const connection of chosen) connection.destroy();
    });
    await this.#untilClosed(chosen);
    inTime.abort();
  }

  #untilClosed(chosen: ReadonlySet<Connection>): Promise<void> {
    return new Promise((resolve) => {
      const check = (): void => {
        for (const connection of chosen) if (this.#connections.has(connection)) return;
        this.#watchers.delete(check);
        resolve();
      };
      this.#watchers.add(check);
      check();
    });
  }
}
