/**
 * What the receiver's CA signs: its own certificate, servers', agents', volume clients'. Owns no state. Loaded when something is to be signed: the
 * library takes a fifth of a receiver's start, and most starts sign nothing.
 */
import { randomBytes } from 'node:crypto';
import { isIP } from 'node:net';
import type { Clock } from '../../shared/clock.js';
import { usageError } from '../../shared/errors.js';
import { CA_LIFETIME_MS, CERTIFICATE_BACKDATE_MS } from '../../shared/limits.js';
import type { MachineId } from '../../shared/units.js';
import { RECEIVER_TLS_NAME } from '../../shared/wire/enroll.js';
import { EC_ALGORITHM, generateKeys, privateKeyFromPem, privateKeyToPem, x509 } from '../../shared/x509.js';
import type { ServerCredentials } from './ca.js';

const { KeyUsageFlags, ExtendedKeyUsage } = x509;

interface KeyAndCertificate {
  readonly keyPem: string;
  readonly certificatePem: string;
}

/** A new CA. */
export async function selfSigned(clock: Clock): Promise<KeyAndCertificate> {
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
  return {
    keyPem: await privateKeyToPem(keys.privateKey),
    certificatePem: `${certificate.toString('pem')}\n`,
  };
}

/** Signs with the CA's key. */
export interface Issuer {
  server(names: readonly string[]): Promise<ServerCredentials>;
  agent(machine: MachineId, requestPem: string): Promise<string>;
  client(commonName: string, lifetimeMs: number): Promise<KeyAndCertificate>;
}

export async function openIssuer(authorityKeyPem: string, authorityPem: string, clock: Clock): Promise<Issuer> {
  const authority = new x509.X509Certificate(authorityPem);
  const issue = issuer(authority, await privateKeyFromPem(authorityKeyPem), clock);
  return {
    server: async (names) => {
      const keys = await generateKeys();
      const issued = await issue(`CN=${RECEIVER_TLS_NAME}`, keys.publicKey as never, [
        new x509.ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth], true),
        new x509.SubjectAlternativeNameExtension(
          names.map((value) => ({ type: isIP(value) === 0 ? 'dns' : 'ip', value })),
        ),
      ]);
      return { keyPem: await privateKeyToPem(keys.privateKey), chainPem: `${issued}${authorityPem}` };
    },
    agent: async (machine, requestPem) =>
      issue(`CN=${machine}`, await requestedKey(requestPem), [
        new x509.ExtendedKeyUsageExtension([ExtendedKeyUsage.clientAuth], true),
      ]),
    client: async (commonName, lifetimeMs) => {
      const keys = await generateKeys();
      const extensions = [new x509.ExtendedKeyUsageExtension([ExtendedKeyUsage.clientAuth], true)];
      const certificatePem = await issue(`CN=${commonName}`, keys.publicKey as never, extensions, lifetimeMs);
      return { keyPem: await privateKeyToPem(keys.privateKey), certificatePem };
    },
  };
}

const randomSerial = (): string => `01${randomBytes(15).toString('hex')}`;

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
