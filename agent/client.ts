/**
 * The command line's way to the running agent: HTTP over its Unix socket, which root alone may open.
 */
import { request } from 'node:http';
import { AfterimageError, errnoOf, messageOf } from '../shared/errors.js';

/** Paths of the control socket; `daemon.ts` is the other end. */
export const CONTROL = { reload: '/reload', sync: '/sync', point: '/point', verify: '/verify' } as const;

interface Answer {
  readonly status: number;
  readonly body: unknown;
}

const notRunning = (path: string): AfterimageError =>
  new AfterimageError(`the agent is not running (nothing answers at ${path})`, {
    code: 'not-running',
    kind: 'refused',
    hint: 'Start it: `systemctl start afterimage-agent`, or `afterimage-agent run`.',
  });

/** GET or POST; resolves to the parsed answer. Errors of the agent are thrown with their code and hint. */
export async function ask(socketPath: string, method: 'GET' | 'POST', path: string, send?: object): Promise<unknown> {
  const headers = send === undefined ? {} : { 'content-type': 'application/json' };
  const { status, body } = await new Promise<Answer>((resolve, reject) => {
    const req = request({ socketPath, method, path, headers }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => {
        try {
          resolve({ status: response.statusCode ?? 0, body: JSON.parse(Buffer.concat(chunks).toString('utf8')) });
        } catch (error) {
          reject(error instanceof Error ? error : new Error(messageOf(error)));
        }
      });
    });
    req.on('error', (error) => {
      const errno = errnoOf(error);
      reject(errno === 'ENOENT' || errno === 'ECONNREFUSED' ? notRunning(socketPath) : error);
    });
    req.end(send === undefined ? undefined : JSON.stringify(send));
  });
  if (status < 400 || path === '/healthz') return body;
  const { code, message, hint } = body as { code?: string; message?: string; hint?: string | null };
  throw new AfterimageError(message ?? `the agent answered ${status}`, {
    code: code ?? 'agent',
    kind: 'refused',
    ...(hint == null ? {} : { hint }),
  });
}

/** Whether an agent answers. */
export async function isRunning(socketPath: string): Promise<boolean> {
  try {
    await ask(socketPath, 'GET', '/status');
    return true;
  } catch {
    return false;
  }
}
