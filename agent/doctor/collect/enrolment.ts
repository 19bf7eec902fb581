/**
 * Who this machine is to its receiver, and whether key, certificate and CA belong together. Reads the state directory.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { fingerprintOf } from '../../../shared/fingerprint.js';
import { loadCredentials, type Credentials } from '../../session/credentials.js';
import type { CertificateFacts, EnrolmentFacts, Problem } from '../facts.js';
import { problemOf } from './problem.js';

export interface Enrolled {
  /** Null: there are none to dial with. */
  readonly credentials: Credentials | null;
  readonly facts: EnrolmentFacts | Problem | null;
}

export const validityOf = (certificate: X509Certificate): CertificateFacts => ({
  validFromMs: Date.parse(certificate.validFrom),
  validToMs: Date.parse(certificate.validTo),
});

export async function enrolmentFacts(stateDir: string): Promise<Enrolled> {
  try {
    const credentials = await loadCredentials(stateDir);
    return { credentials, facts: credentials === null ? null : factsOf(credentials) };
  } catch (error) {
    return { credentials: null, facts: problemOf(error) };
  }
}

function factsOf({ machine, name, generation, receiver, keyPem, certificatePem, caPem }: Credentials): EnrolmentFacts {
  const certificate = new X509Certificate(certificatePem);
  return {
    machine,
    name,
    generation,
    receiver,
    caFingerprint: fingerprintOf(caPem),
    certificate: {
      ...validityOf(certificate),
      isOfCa: certificate.verify(new X509Certificate(caPem).publicKey),
      hasKey: certificate.checkPrivateKey(createPrivateKey(keyPem)),
    },
  };
}
