/**
 * Makes the HTTP app of a local endpoint. Fastify is loaded when the first request comes: most starts of a program are never asked anything, and
 * it takes as long to load as all that is ours.
 */
import type { FastifyInstance } from 'fastify';
import { CONTROL_REQUEST_BYTES_MAX } from '../limits.js';
import type { Logger } from '../log.js';
import { answerErrors } from './error-answer.js';

/** What comes in is validated by zod: the schema compilers that Fastify loads unasked are never called, and are three quarters of its size. */
function noSchemas(): never {
  throw new Error('routes of local endpoints have no Fastify schemas');
}

export async function localApp(log: Logger, addRoutes: (app: FastifyInstance) => void): Promise<FastifyInstance> {
  const { fastify } = await import('fastify');
  const compilersFactory = { buildValidator: noSchemas, buildSerializer: noSchemas };
  const app = fastify({ bodyLimit: CONTROL_REQUEST_BYTES_MAX, schemaController: { compilersFactory } });
  addRoutes(app);
  answerErrors(app, log);
  await app.ready();
  return app;
}
