/**
 * Starts a local HTTP endpoint, on a port or on a Unix socket for its owner alone, and ends it with its connections. Owns the socket's file.
 */
import { rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { FastifyInstance } from 'fastify';
import type { Logger } from '../log.js';
import { listenOnPort, listenPrivately } from '../unix-socket.js';

export type HttpListen = { readonly host: string; readonly port: number } | { readonly socketPath: string };

export interface HttpEndpoint {
  /** Of a TCP endpoint; 0 for a Unix socket. */
  readonly port: number;
  stop(): Promise<void>;
}

/** `load` is called once, at the first request. */
export async function listenApp(
  load: () => Promise<FastifyInstance>,
  listen: HttpListen,
  log: Logger,
): Promise<HttpEndpoint> {
  let loading: Promise<FastifyInstance> | null = null;
  const server = createServer((request, response) => {
    loading ??= load();
    loading
      .then((app) => app.routing(request, response))
      .catch((error: unknown) => {
        log.error({ err: error, path: request.url }, 'a local endpoint could not be loaded');
        response.writeHead(500).end();
      });
  });
  const isSocket = 'socketPath' in listen;
  if (isSocket) await listenPrivately(server, listen.socketPath);
  else await listenOnPort(server, listen.host, listen.port);
  return {
    port: isSocket ? 0 : (server.address() as AddressInfo).port,
    stop: async () => {
      if (isSocket) await rm(listen.socketPath, { force: true });
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
      await (await loading)?.close();
    },
  };
}
