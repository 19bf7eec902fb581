/**
 * SHA-256 fingerprints, apart from x509.ts: a running agent needs these alone, and the library for making certificates costs 15 MiB.
 */
import { createHash, X509Certificate } from 'node:crypto';

export const sha256Hex = (bytes: NodeJS.ArrayBufferView | string): string =>
  createHash('sha256').update(bytes).digest('hex');

/** SHA-256 of a PEM certificate's DER, hex. */
export const fingerprintOf = (certificatePem: string): string => sha256Hex(new X509Certificate(certificatePem).raw);
