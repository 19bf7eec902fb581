/**
 * The local HTTP endpoint of a program: /healthz, /status, /metrics, and POST routes where it listens on a Unix socket (the agent's control
 * socket). There is no authentication: it listens on loopback, or on a socket that the file's mode (0600) keeps for its owner.
 * A socket that a dead process left is replaced, at once and with its mode already right; that of a living one is respected.
 */
import { chmod, rename, rm } from 'node:fs/promises';
import { connect, type AddressInfo } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { fastify, type FastifyInstance } from 'fastify';
import type { Registry } from 'prom-client';
import { isLoopback } from '../config/values.js';
import { AfterimageError, errnoOf, messageOf, usageError } from '../errors.js';
import { CONTROL_REQUEST_BYTES_MAX } from '../limits.js';
import type { Logger } from '../log.js';

const SOCKET_MODE = 0o600;

export interface Health {
  readonly healthy: boolean;
  /** What is wrong or limited, for people. */
  readonly reasons: readonly string[];
}

/** Gets the parsed JSON body (undefined without one); what it returns is the answer. An AfterimageError becomes a 4xx with its code and hint. */
export type PostHandler = (body: unknown) => Promise<unknown>;

export interface StatusServerOptions {
  readonly listen: { readonly host: string; readonly port: number } | { readonly socketPath: string };
  readonly health: () => Health;
  /** Answer of /status, JSON. */
  readonly status: () => unknown;
  readonly metrics: () => Registry;
  /** Path → handler; on a Unix socket only. */
  readonly post?: Readonly<Record<string, PostHandler>>;
  readonly log: Logger;
}

export interface StatusServer {
  /** Of a TCP endpoint; 0 for a Unix socket. */
  readonly port: number;
  stop(): Promise<void>;
}

export async function startStatusServer(options: StatusServerOptions): Promise<StatusServer> {
  const { listen, post = {} } = options;
  const isSocket = 'socketPath' in listen;
  if (!isSocket && !isLoopback(listen.host))
    throw usageError(`the status endpoint must be on loopback, not on ${listen.host}`);
  if (!isSocket && Object.keys(post).length > 0) throw usageError('POST routes are offered on a Unix socket only');
  const app = createApp(options, post);
  if (isSocket) return listenOnSocket(app, listen.socketPath);
  try {
    await app.listen({ host: listen.host, port: listen.port });
  } catch (error) {
    throw listenError(`${listen.host} port ${listen.port}`, error);
  }
  return { port: (app.server.address() as AddressInfo).port, stop: () => app.close() };
}

function createApp(options: StatusServerOptions, post: Readonly<Record<string, PostHandler>>): FastifyInstance {
  const app = fastify({ bodyLimit: CONTROL_REQUEST_BYTES_MAX, forceCloseConnections: true });
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
  app.setErrorHandler((error, request, reply) => {
    const status = statusOf(error);
    if (status === 500) options.log.error({ err: error, path: request.url }, 'a local request failed');
    const isOurs = error instanceof AfterimageError;
    const code = isOurs ? error.code : status === 500 ? 'internal' : 'bad-request';
    return reply.code(status).send({ code, message: messageOf(error), hint: (isOurs ? error.hint : null) ?? null });
  });
  return app;
}

function statusOf(error: unknown): number {
  if (error instanceof AfterimageError) {
    return { usage: 400, refused: 409, 'not-found': 404 }[error.kind as string] ?? 500;
  }
  const given = (error as { statusCode?: unknown }).statusCode;
  return typeof given === 'number' && given >= 400 && given < 500 ? given : 500;
}

/** Listens under a temporary name and gives the socket its name when its mode is right: nobody can slip in between. */
async function listenOnSocket(app: FastifyInstance, path: string): Promise<StatusServer> {
  if (await answers(path)) {
    throw new AfterimageError(`another process listens on ${path}`, {
      code: 'already-running',
      kind: 'refused',
      hint: 'Stop it first (`systemctl stop`), or choose another socket in the configuration.',
    });
  }
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}`);
  try {
    await rm(temporary, { force: true });
    await app.listen({ path: temporary });
    await chmod(temporary, SOCKET_MODE);
    await rename(temporary, path);
  } catch (error) {
    await app.close();
    throw listenError(path, error);
  }
  const stop = async (): Promise<void> => {
    await rm(path, { force: true });
    await app.close();
  };
  return { port: 0, stop };
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

const listenError = (where: string, error: unknown): AfterimageError =>
  new AfterimageError(`can't listen on ${where}: ${messageOf(error)}`, {
    code: errnoOf(error) === 'EADDRINUSE' ? 'already-running' : 'listen',
    kind: 'io',
    hint: 'Choose another address in the configuration, or stop what uses this one.',
    cause: error,
  });
