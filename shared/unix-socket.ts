/**
 * A listening Unix socket that only its owner may open (mode 0600). It gets its name when its mode is right: nobody can slip in between.
 * A socket that a dead process left is replaced; that of a living one is respected.
 */
import { chmod, rename, rm } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { AfterimageError, errnoOf, messageOf, usageError } from './errors.js';
import { SOCKET_PATH_BYTES_MAX } from './limits.js';

const SOCKET_MODE = 0o600;

/** The caller removes `path` when it stops. */
export async function listenPrivately(server: Server, path: string): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}`);
  if (Buffer.byteLength(temporary) >= SOCKET_PATH_BYTES_MAX) {
    throw usageError(
      `the path of the socket ${path} is too long`,
      'Choose a shorter one: about 90 characters at most.',
    );
  }
  if (await answers(path)) {
    throw new AfterimageError(`another process listens on ${path}`, {
      code: 'already-running',
      kind: 'refused',
      hint: 'Stop it first, or choose another socket.',
    });
  }
  try {
    await rm(temporary, { force: true });
    await listenOn(server, { path: temporary });
    await chmod(temporary, SOCKET_MODE);
    await rename(temporary, path);
  } catch (error) {
    server.close();
    throw listenError(path, error);
  }
}

/** Listens, or says why not. */
export async function listenOnPort(server: Server, host: string, port: number): Promise<void> {
  try {
    await listenOn(server, { host, port });
  } catch (error) {
    throw listenError(`${host} port ${port}`, error);
  }
}

function listenOn(server: Server, where: { path: string } | { host: string; port: number }): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(where, () => {
      server.off('error', reject);
      resolve();
    });
  });
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
    hint: 'Choose another address, or stop what uses this one.',
    cause: error,
  });
