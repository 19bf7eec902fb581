/**
 * The local HTTP endpoint of a program: /healthz, /status, /metrics, and POST routes where it listens on a Unix socket (the agent's control
 * socket). There is no authentication: it listens on loopback, or on a socket that the file's mode (0600) keeps for its owner.
 */
import type { FastifyInstance } from 'fastify';
import type { Registry } from 'prom-client';
import { isLoopback } from '../config/parse-values.js';
import { usageError } from '../errors.js';
import type { Logger } from '../log.js';
import { localApp } from './app.js';
import { listenApp, type HttpEndpoint, type HttpListen } from './listen.js';

export interface Health {
  readonly healthy: boolean;
  /** What is wrong or limited, for people. */
  readonly reasons: readonly string[];
}

/** Gets the parsed JSON body (undefined without one); what it returns is the answer. An AfterimageError becomes a 4xx with its code and hint. */
export type PostHandler = (body: unknown) => Promise<unknown>;

export interface StatusServerOptions {
  readonly listen: HttpListen;
  readonly health: () => Health;
  /** Answer of /status, JSON. */
  readonly status: () => unknown;
  readonly metrics: () => Registry;
  /** Path → handler; on a Unix socket only. */
  readonly post?: Readonly<Record<string, PostHandler>>;
  readonly log: Logger;
}

export type StatusServer = HttpEndpoint;

export async function startStatusServer(options: StatusServerOptions): Promise<StatusServer> {
  const { listen, post = {} } = options;
  const isSocket = 'socketPath' in listen;
  if (!isSocket && !isLoopback(listen.host))
    throw usageError(`the status endpoint must be on loopback, not on ${listen.host}`);
  if (!isSocket && Object.keys(post).length > 0) throw usageError('POST routes are offered on a Unix socket only');
  return listenApp(() => localApp(options.log, (app) => addRoutes(app, options, post)), listen, options.log);
}

function addRoutes(
  app: FastifyInstance,
  options: StatusServerOptions,
  post: Readonly<Record<string, PostHandler>>,
): void {
  app.get('/healthz', async (_request, reply) => {
    const health = options.health();
    return reply.code(health.healthy ? 200 : 503).send(health);
  });
  app.get('/status', async (_request, reply) => reply.send(options.status()));
  app.get('/metrics', async (_request, reply) => {
    const registry = options.metrics();
    return reply.type(registry.contentType).send(await registry.metrics());
  });
  for (const [path, handler] of Object.entries(post)) {
    app.post(path, async (request, reply) => reply.send((await handler(request.body)) ?? {}));
  }
}
