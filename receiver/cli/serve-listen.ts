/**
 * Where volumes are served: what `--listen` means, and the receiver's TLS for everything that other hosts can reach.
 */
import { access } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { isLoopback } from '../../shared/config/parse-values.js';
import { errnoOf, usageError } from '../../shared/errors.js';
import { parseHostPort } from '../../shared/wire/host-port.js';
import { openAuthority } from '../session/ca.js';
import type { NbdListen, NbdTls } from '../volume/nbd/server.js';
import type { NbdAddress } from '../volume/nbd/uri.js';
import { configuredStateDir } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';

export type ListenWish = { readonly socketPath: string } | { readonly host: string; readonly port: number };

export function parseListen(text: string): ListenWish {
  const [, kind, rest = ''] = /^(unix|tcp):(.+)$/.exec(text) ?? [];
  if (kind === 'unix') return { socketPath: resolve(rest) };
  const address = kind === 'tcp' ? parseHostPort(rest) : null;
  if (address !== null) return address;
  throw usageError(`--listen ${text} is not an address`, 'Give unix:/PATH or tcp:HOST:PORT.');
}

/** Loopback is plain, as on this host the operating system says who may; all else is TLS with client certificates. */
export async function listenOf(wish: ListenWish, options: GlobalOptions, io: CliIo): Promise<NbdListen> {
  if ('socketPath' in wish || isLoopback(wish.host)) return wish;
  return { ...wish, tls: await serverTls(options, io) };
}

async function serverTls(options: GlobalOptions, io: CliIo): Promise<NbdTls> {
  const stateDir = await configuredStateDir(options);
  const hint =
    'Run it on the receiver’s host, with `stateDir:` in its configuration; or serve on tcp:127.0.0.1:PORT or on unix:/PATH.';
  // Opening makes a CA where there is none: one that nobody trusts.
  await access(join(stateDir, 'ca', 'cert.pem')).catch((error: unknown) => {
    const what = errnoOf(error) === 'ENOENT' ? 'is not there' : `can't be read (${errnoOf(error) ?? 'unknown'})`;
    throw usageError(`serving to other hosts needs the receiver's CA, which ${what} in ${stateDir}`, hint);
  });
  const ca = await openAuthority(stateDir, io.clock);
  const { keyPem, chainPem } = await ca.issueServer([]);
  return { keyPem, certificatePem: chainPem, caPem: ca.certificatePem };
}

/** What clients are told. */
export function addressOf(listen: NbdListen): NbdAddress {
  if ('socketPath' in listen) return listen;
  const isAny = listen.host === '0.0.0.0' || listen.host === '::';
  return { host: isAny ? hostname() : listen.host, port: listen.port, tls: listen.tls !== undefined };
}
