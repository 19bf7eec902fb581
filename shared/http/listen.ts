/**
 * Starts a local HTTP endpoint, on a port or on a Unix socket for its owner alone, and ends it with its connections. Owns the socket's file.
 */
import { rm } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { listenOnPort, listenPrivately } from '../unix-socket.js';

export type HttpListen = { readonly host: string; readonly port: number } | { readonly socketPath: string };

export interface HttpEndpoint {
  /** Of a TCP endpoint; 0 for a Unix socket. */
  readonly port: number;
  stop(): Promise<void>;
}

export async function listenApp(app: FastifyInstance, listen: HttpListen): Promise<HttpEndpoint> {
  await app.ready();
  const { server } = app;
  const isSocket = 'socketPath' in listen;
  if (isSocket) await listenPrivately(server, listen.socketPath);
  else await listenOnPort(server, listen.host, listen.port);
  return {
    port: isSocket ? 0 : (server.address() as AddressInfo).port,
    stop: async () => {
      if (isSocket) await rm(listen.socketPath, { force: true });
      // Fastify closes only what it has opened itself.
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
      await app.close();
    },
  };
}
