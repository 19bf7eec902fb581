/**
 * Keys and certificates as both sides use them: ECDSA P-256 with SHA-256 through Node's web crypto. Owns no state.
 * (P-256: what every TLS library speaks, and the fastest to sign in OpenSSL.)
 */
import 'reflect-metadata';
import * as x509 from '@peculiar/x509';
import { webcrypto } from 'node:crypto';

export { fingerprintOf, sha256Hex } from './fingerprint.js';

x509.cryptoProvider.set(webcrypto as never);

export { x509 };
export const EC_ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

type CryptoKey = webcrypto.CryptoKey;
export type KeyPair = webcrypto.CryptoKeyPair;

export const generateKeys = (): Promise<KeyPair> =>
  webcrypto.subtle.generateKey(EC_ALGORITHM, true, ['sign', 'verify']);

export async function privateKeyToPem(key: CryptoKey): Promise<string> {
  return `${x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY')}\n`;
}

export const privateKeyFromPem = (pem: string): Promise<CryptoKey> =>
  webcrypto.subtle.importKey('pkcs8', x509.PemConverter.decodeFirst(pem), EC_ALGORITHM, false, ['sign']);

/** A certificate request that proves possession of the key. Its subject is ignored: the receiver names the machine. */
export async function createRequest(keys: KeyPair): Promise<string> {
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: 'CN=afterimage-agent',
    keys: keys as never,
    signingAlgorithm: EC_ALGORITHM as never,
  });
  return `${request.toString('pem')}\n`;
}
