/**
 * The receiver's own certificate authority: `<stateDir>/ca/{key,cert}.pem`, made at the first start.
 *
 * Promises: the folder appears whole and durable or not at all, so two processes that start together end with the same CA;
 * the private key is readable by its owner alone. After a crash while it was made, a `.ca.*` folder may remain that nothing reads.
 *
 * Lifetimes: what agents and servers get ends with the CA. An end of validity would stop replication on a date that nobody remembers and protect
 * nothing: the only party that believes an agent's certificate is the receiver, and it checks each connection against the machine's
 * identity object (current? revoked?). Volume clients have no such object, so their certificates end soon. The key of the server's certificate lives in memory and is new at each start.
 */
import { randomBytes } from 'node:crypto';
import { chown, lstat, mkdir, readFile, rename, rm } from 'node:fs/promises';
import { isIP } from 'node:net';
import { hostname, networkInterfaces } from 'node:os';
import { join } from 'node:path';
import type { Clock } from '../../shared/clock.js';
import { createFileDurably, makeFolderDurably, ownerFor, syncFolder } from '../../shared/durable-file.js';
import { AfterimageError, corrupt, errnoOf, messageOf, usageError } from '../../shared/errors.js';
import { CA_LIFETIME_MS, CERTIFICATE_BACKDATE_MS } from '../../shared/limits.js';
import type { MachineId } from '../../shared/units.js';
import { RECEIVER_TLS_NAME } from '../../shared/wire/enroll.js';
import {
  EC_ALGORITHM,
  fingerprintOf,
  generateKeys,
  privateKeyFromPem,
  privateKeyToPem,
  x509,
} from '../../shared/x509.js';

const FOLDER_MODE = 0o700;
const KEY_MODE = 0o600;
const CERTIFICATE_MODE = 0o644;
const { KeyUsageFlags, ExtendedKeyUsage } = x509;

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
  const keys = await generateKeys();
  const nowMs = clock.nowMs();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: randomSerial(),
    name: `CN=Afterimage receiver ${randomBytes(4).toString('hex')}`,
    notBefore: new Date(nowMs - CERTIFICATE_BACKDATE_MS),
    notAfter: new Date(nowMs + CA_LIFETIME_MS),
    signingAlgorithm: EC_ALGORITHM as never,
    keys: keys as never,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  const owner = await ownerFor(stateDir);
  const temporary = join(stateDir, `.ca.${randomBytes(6).toString('hex')}`);
  await mkdir(temporary, { mode: FOLDER_MODE });
  try {
    await createFileDurably(join(temporary, 'key.pem'), await privateKeyToPem(keys.privateKey), {
      mode: KEY_MODE,
      owner,
    });
    await createFileDurably(join(temporary, 'cert.pem'), `${certificate.toString('pem')}\n`, {
      mode: CERTIFICATE_MODE,
      owner,
    });
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

const randomSerial = (): string => `01${randomBytes(15).toString('hex')}`;

async function loadAuthority(folder: string, clock: Clock): Promise<CertificateAuthority> {
  let keyPem: string;
  let certificatePem: string;
  try {
    keyPem = await readFile(join(folder, 'key.pem'), 'utf8');
    certificatePem = await readFile(join(folder, 'cert.pem'), 'utf8');
  } catch (error) {
    throw stateError(folder, error);
  }
  const { certificate, signingKey } = await parseAuthority(folder, keyPem, certificatePem);
  const issue = issuer(certificate, signingKey, clock);
  return {
    certificatePem,
    fingerprint: fingerprintOf(certificatePem),
    issueServer: async (names) => {
      const keys = await generateKeys();
      const issued = await issue(`CN=${RECEIVER_TLS_NAME}`, keys.publicKey as never, [
        new x509.ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth], true),
        new x509.SubjectAlternativeNameExtension(alternativeNames(names)),
      ]);
      return { keyPem: await privateKeyToPem(keys.privateKey), chainPem: `${issued}${certificatePem}` };
    },
    issueAgent: async (machine, requestPem) =>
      issue(`CN=${machine}`, await requestedKey(requestPem), [
        new x509.ExtendedKeyUsageExtension([ExtendedKeyUsage.clientAuth], true),
      ]),
    issueVolumeClient: async (name, lifetimeMs) => {
      if (!VOLUME_CLIENT_NAME.test(name)) {
        throw usageError(
          `"${name}" can't be the name of a volume client`,
          'Use up to 50 letters, digits, ".", "_", "-".',
        );
      }
      const keys = await generateKeys();
      const extensions = [new x509.ExtendedKeyUsageExtension([ExtendedKeyUsage.clientAuth], true)];
      const subject = `CN=${VOLUME_CLIENT_PREFIX}${name}`;
      const certificatePem = await issue(subject, keys.publicKey as never, extensions, lifetimeMs);
      return { keyPem: await privateKeyToPem(keys.privateKey), certificatePem };
    },
  };
}

async function parseAuthority(
  folder: string,
  keyPem: string,
  certificatePem: string,
): Promise<{ certificate: x509.X509Certificate; signingKey: SigningKey }> {
  try {
    return { certificate: new x509.X509Certificate(certificatePem), signingKey: await privateKeyFromPem(keyPem) };
  } catch (error) {
    throw corrupt(
      'ca-damaged',
      `the receiver's CA in ${folder} can't be read: ${messageOf(error)}`,
      'Restore the folder from a backup; or move it away: a new CA is made, and every agent has to be enrolled again.',
    );
  }
}

type SigningKey = Awaited<ReturnType<typeof privateKeyFromPem>>;
/** Without `lifetimeMs` it ends with the CA. */
type Issue = (
  subject: string,
  key: x509.PublicKey,
  extensions: x509.Extension[],
  lifetimeMs?: number,
) => Promise<string>;

function issuer(authority: x509.X509Certificate, signingKey: SigningKey, clock: Clock): Issue {
  return async (subject, key, extensions, lifetimeMs = Infinity) => {
    const endMs = Math.min(authority.notAfter.getTime(), clock.nowMs() + lifetimeMs);
    const certificate = await x509.X509CertificateGenerator.create({
      serialNumber: randomSerial(),
      subject,
      issuer: authority.subjectName,
      notBefore: new Date(clock.nowMs() - CERTIFICATE_BACKDATE_MS),
      notAfter: new Date(endMs),
      signingAlgorithm: EC_ALGORITHM as never,
      publicKey: key,
      signingKey: signingKey as never,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
        ...extensions,
        await x509.AuthorityKeyIdentifierExtension.create(authority.publicKey),
      ],
    });
    return `${certificate.toString('pem')}\n`;
  };
}

/** The public key of a certificate request, after its proof of possession was checked. */
async function requestedKey(requestPem: string): Promise<x509.PublicKey> {
  const invalid = usageError('the certificate request is not valid', 'Install the same version on agent and receiver.');
  try {
    const request = new x509.Pkcs10CertificateRequest(requestPem);
    const algorithm = request.publicKey.algorithm as { name: string; namedCurve?: string };
    if (algorithm.name !== EC_ALGORITHM.name || algorithm.namedCurve !== EC_ALGORITHM.namedCurve) throw invalid;
    if (!(await request.verify())) throw invalid;
    return request.publicKey;
  } catch {
    throw invalid;
  }
}

function alternativeNames(names: readonly string[]): x509.JsonGeneralNames {
  const addresses = Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map((i) => i.address));
  const all = [RECEIVER_TLS_NAME, 'localhost', hostname(), '127.0.0.1', '::1', ...addresses, ...names];
  // A link-local address carries its interface (`fe80::1%eth0`), which no certificate can hold.
  const usable = [...new Set(all)].filter((name) => name !== '' && !name.includes('%'));
  return usable.map((value) => ({ type: isIP(value) === 0 ? 'dns' : 'ip', value }));
}
