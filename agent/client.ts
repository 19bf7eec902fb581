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

/** The code of an agent's answer that says that its disks aren't closed yet. */
export const DISKS_BUSY = 'disks-busy';

/** Has the agent, if it runs, open its disks anew, for a change that counts in any case. Returns what there is to say of it: null, or why it isn't done yet. */
export async function reloadIfRunning(socketPath: string): Promise<string | null> {
  if (!(await isRunning(socketPath))) return null;
  try {
    await ask(socketPath, 'POST', CONTROL.reload);
    return null;
  } catch (error) {
    if (!(error instanceof AfterimageError) || error.code !== DISKS_BUSY) throw error;
    return `${error.message}. ${error.hint ?? ''}`;
  }
}

/** The same without waiting: it is enough that the agent looks at the list once more. Nothing happens when none runs. */
export const reloadSoon = (socketPath: string): Promise<void> =>
  new Promise((resolve) => {
    const req = request({ socketPath, method: 'POST', path: CONTROL.reload });
    // None that runs has taken up anything.
    req.on('error', () => resolve());
    req.end(() => {
      req.destroy();
      resolve();
    });
  });
