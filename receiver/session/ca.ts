/**
 * The receiver's own certificate authority: `<stateDir>/ca/{key,cert}.pem`, made at the first start.
 *
 * Promises: the folder appears whole and durable or not at all, so two processes that start together end with the same CA;
 * the private key is readable by its owner alone. After a crash while it was made, a `.ca.*` folder may remain that nothing reads.
 *
 * Lifetimes: what agents and servers get ends with the CA. An end of validity would stop replication on a date that nobody remembers and protect
 * nothing: the only party that believes an agent's certificate is the receiver, and it checks each connection against the machine's
 * identity object (current? revoked?). Volume clients have no such object, so their certificates end soon.
 */
import { createPrivateKey, randomBytes, X509Certificate } from 'node:crypto';
import { chown, lstat, mkdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../shared/clock.js';
import { createFileDurably, makeFolderDurably, ownerFor, syncFolder } from '../../shared/durable-file.js';
import { AfterimageError, corrupt, errnoOf, messageOf, usageError } from '../../shared/errors.js';
import { sha256Hex } from '../../shared/fingerprint.js';
import type { MachineId } from '../../shared/units.js';
import type { Issuer } from './ca-issue.js';
import { serverNames } from './server-names.js';

const FOLDER_MODE = 0o700;
const KEY_MODE = 0o600;
const CERTIFICATE_MODE = 0o644;

export interface ServerCredentials {
  readonly keyPem: string;
  /** The server's certificate and the CA's: an agent that enrols needs both. */
  readonly chainPem: string;
}

export interface CertificateAuthority {
  readonly certificatePem: string;
  /** SHA-256 of the CA certificate in DER, hex: what a token pins. */
  readonly fingerprint: string;
  /** For TLS servers only; holds RECEIVER_TLS_NAME, this host's names and addresses, and `names`. */
  issueServer(names: readonly string[]): Promise<ServerCredentials>;
  /** For TLS clients only. `requestPem` proves possession of its key; whatever else it asks for is ignored. */
  issueAgent(machine: MachineId, requestPem: string): Promise<string>;
  /**
   * For programs that open volumes over NBD: key and certificate, good for `lifetimeMs`. Its name can't be a machine's, so no session is opened
   * with it; and no agent's certificate opens a volume.
   */
  issueVolumeClient(
    name: string,
    lifetimeMs: number,
  ): Promise<{ readonly keyPem: string; readonly certificatePem: string }>;
}

/** Before the name of a volume client in its certificate's subject: a machine's is a bare UUID. */
const VOLUME_CLIENT_PREFIX = 'volume-client:';
/** What can stand in a subject as it is; 64 characters with the prefix. */
const VOLUME_CLIENT_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$/;

/** Loads the CA, or makes it when there is none. */
export async function openAuthority(stateDir: string, clock: Clock): Promise<CertificateAuthority> {
  const folder = join(stateDir, 'ca');
  try {
    await makeFolderDurably(stateDir, FOLDER_MODE);
    if (!(await exists(folder))) await makeAuthority(stateDir, folder, clock);
  } catch (error) {
    throw stateError(stateDir, error);
  }
  return loadAuthority(folder, clock);
}

function stateError(stateDir: string, error: unknown): AfterimageError {
  if (error instanceof AfterimageError) return error;
  return new AfterimageError(`the receiver's state in ${stateDir} can't be used: ${messageOf(error)}`, {
    code: 'state-dir',
    kind: 'io',
    hint: 'Run as root or as the user of the receiver, and check the directory and its filesystem.',
    cause: error,
  });
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}

async function makeAuthority(stateDir: string, folder: string, clock: Clock): Promise<void> {
  const { selfSigned } = await import('./ca-issue.js');
  const { keyPem, certificatePem } = await selfSigned(clock);
  const owner = await ownerFor(stateDir);
  const temporary = join(stateDir, `.ca.${randomBytes(6).toString('hex')}`);
  await mkdir(temporary, { mode: FOLDER_MODE });
  try {
    await createFileDurably(join(temporary, 'key.pem'), keyPem, { mode: KEY_MODE, owner });
    await createFileDurably(join(temporary, 'cert.pem'), certificatePem, { mode: CERTIFICATE_MODE, owner });
    if (owner !== undefined) await chown(temporary, owner.uid, owner.gid);
    await rename(temporary, folder);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    // Another process was first: its CA counts.
    if (errnoOf(error) === 'ENOTEMPTY' || errnoOf(error) === 'EEXIST') return;
    throw error;
  }
  await syncFolder(stateDir);
}

async function loadAuthority(folder: string, clock: Clock): Promise<CertificateAuthority> {
  let keyPem: string;
  let certificatePem: string;
  try {
    keyPem = await readFile(join(folder, 'key.pem'), 'utf8');
    certificatePem = await readFile(join(folder, 'cert.pem'), 'utf8');
  } catch (error) {
    throw stateError(folder, error);
  }
  const fingerprint = fingerprintOfAuthority(folder, keyPem, certificatePem);
  let loading: Promise<Issuer> | null = null;
  const issuer = (): Promise<Issuer> =>
    (loading ??= import('./ca-issue.js').then(({ openIssuer }) => openIssuer(keyPem, certificatePem, clock)));
  return {
    certificatePem,
    fingerprint,
    issueServer: async (names) => (await issuer()).server(serverNames(names)),
    issueAgent: async (machine, requestPem) => (await issuer()).agent(machine, requestPem),
    issueVolumeClient: async (name, lifetimeMs) => {
      if (!VOLUME_CLIENT_NAME.test(name)) {
        throw usageError(
          `"${name}" can't be the name of a volume client`,
          'Use up to 50 letters, digits, ".", "_", "-".',
        );
      }
      return (await issuer()).client(`${VOLUME_CLIENT_PREFIX}${name}`, lifetimeMs);
    },
  };
}

/** Of certificate and key that belong together. */
function fingerprintOfAuthority(folder: string, keyPem: string, certificatePem: string): string {
  try {
    const certificate = new X509Certificate(certificatePem);
    if (!certificate.checkPrivateKey(createPrivateKey(keyPem)))
      throw new Error('the key is not that of the certificate');
    return sha256Hex(certificate.raw);
  } catch (error) {
    throw corrupt(
      'ca-damaged',
      `the receiver's CA in ${folder} can't be read: ${messageOf(error)}`,
      'Restore the folder from a backup; or move it away: a new CA is made, and every agent has to be enrolled again.',
    );
  }
}
