/**
 * Errors as answers of a local HTTP endpoint: JSON {code, message, hint, kind}, so that the other end can make the same error of it again.
 */
import type { FastifyInstance } from 'fastify';
import { AfterimageError, messageOf, type ErrorKind } from '../errors.js';
import type { Logger } from '../log.js';

export interface ErrorAnswer {
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
  readonly kind: ErrorKind;
}

const STATUS_OF: Readonly<Partial<Record<ErrorKind, number>>> = {
  usage: 400,
  'not-found': 404,
  refused: 409,
  fenced: 409,
  cancelled: 409,
  unsupported: 422,
};

/** What a request was answered with: our error, or one of the HTTP server about the request itself (a body that is too large or no JSON). */
export function errorAnswer(error: unknown): { readonly status: number; readonly body: ErrorAnswer } {
  const message = messageOf(error);
  if (error instanceof AfterimageError) {
    const { code, kind } = error;
    return { status: STATUS_OF[kind] ?? 500, body: { code, message, hint: error.hint ?? null, kind } };
  }
  const given = (error as { statusCode?: unknown }).statusCode;
  if (typeof given === 'number' && given >= 400 && given < 500) {
    return { status: given, body: { code: 'bad-request', message, hint: null, kind: 'usage' } };
  }
  return { status: 500, body: { code: 'internal', message, hint: null, kind: 'internal' } };
}

/** Sends them, and logs what is not the asking side's fault. */
export function answerErrors(app: FastifyInstance, log: Logger): void {
  app.setErrorHandler((error, request, reply) => {
    const { status, body } = errorAnswer(error);
    if (status === 500) log.error({ err: error, path: request.url }, 'a local request failed');
    return reply.code(status).send(body);
  });
}
