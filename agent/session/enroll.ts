/**
 * Enrolment, the agent's half. The token says where the receiver is and which CA it must have.
 *
 * First a TLS handshake that trusts nothing and sends nothing, to fetch the CA's certificate; it is compared with the pin. Then a second connection
 * that trusts that CA alone carries the secret. So whoever answers at the address learns nothing unless it is the receiver.
 * Nothing is stored before the receiver has answered; a crash before that leaves this machine as it was.
 */
import { request } from 'node:https';
import { connect, type DetailedPeerCertificate } from 'node:tls';
import type { z } from 'zod';
import { AfterimageError, usageError } from '../../shared/errors.js';
import { CONNECT_TIMEOUT_MS, ENROLL_BODY_BYTES_MAX } from '../../shared/limits.js';
import {
  ENROLL_PATH,
  enrollErrorSchema,
  enrollResponseSchema,
  machineNameSchema,
  parseToken,
  RECEIVER_TLS_NAME,
  TLS_CIPHERS,
  type EnrollRequest,
  type EnrollResponse,
} from '../../shared/wire/enroll.js';
import { parseHostPort, type HostPort } from '../../shared/wire/host-port.js';
import { createRequest, generateKeys, privateKeyToPem, sha256Hex, x509 } from '../../shared/x509.js';
import { connectError } from './connect-errors.js';
import { saveCredentials, type Credentials } from './credentials.js';

export interface EnrollOptions {
  readonly stateDir: string;
  /** The whole text of the token. */
  readonly token: string;
  /** Name of this machine at the receiver. */
  readonly name: string;
  readonly hardwareId: string;
  /** host:port, where the receiver is reached by another address than the token's. */
  readonly address?: string;
}

/** Enrols this machine and stores its credentials. */
export async function enroll(options: EnrollOptions): Promise<Credentials> {
  const token = parseToken(options.token);
  const name = machineNameSchema.safeParse(options.name);
  if (!name.success)
    throw usageError(`machine name "${options.name}": ${name.error.issues[0]?.message ?? ''}`, 'Give --name.');
  const address = options.address ?? token.address;
  const target = parseHostPort(address);
  if (target === null) throw usageError(`${address} is not an address`, 'Give it as host:port or [IPv6 address]:port.');
  const caPem = await fetchPinnedCa(target, address, token.caFingerprint);
  const keys = await generateKeys();
  const answer = await postEnroll(target, address, caPem, {
    secret: token.secret,
    csr: await createRequest(keys),
    name: name.data,
    hardwareId: options.hardwareId,
  });
  const credentials: Credentials = {
    machine: answer.machine,
    name: answer.name,
    generation: answer.generation,
    receiver: address,
    keyPem: await privateKeyToPem(keys.privateKey),
    certificatePem: answer.certificate,
    caPem,
  };
  await saveCredentials(options.stateDir, credentials);
  return credentials;
}

const TLS_OPTIONS = { servername: RECEIVER_TLS_NAME, minVersion: 'TLSv1.3', ciphers: TLS_CIPHERS } as const;

/** The certificate of the CA that stands above what answers at the address, if its fingerprint is the pin. */
function fetchPinnedCa(target: HostPort, address: string, pin: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ ...target, ...TLS_OPTIONS, rejectUnauthorized: false });
    const fail = (error: unknown): void => {
      socket.destroy();
      reject(connectError(address, error));
    };
    socket.setTimeout(CONNECT_TIMEOUT_MS, () => fail(new Error('no answer in time')));
    socket.once('error', fail);
    socket.once('secureConnect', () => {
      const ca = pinnedIn(socket.getPeerCertificate(true), pin);
      if (ca === null) return fail(wrongPin(address));
      socket.destroy();
      resolve(ca);
    });
  });
}

/** Walks up the chain that the server sent. */
function pinnedIn(leaf: DetailedPeerCertificate, pin: string): string | null {
  const CHAIN_MAX = 5;
  let certificate: DetailedPeerCertificate | undefined = leaf;
  for (let depth = 0; depth < CHAIN_MAX && certificate?.raw !== undefined; depth++) {
    if (sha256Hex(certificate.raw) === pin)
      return `${x509.PemConverter.encode(new Uint8Array(certificate.raw), 'CERTIFICATE')}\n`;
    certificate = certificate.issuerCertificate === certificate ? undefined : certificate.issuerCertificate;
  }
  return null;
}

const wrongPin = (address: string): AfterimageError =>
  new AfterimageError(`what answers at ${address} is not the receiver that issued the token`, {
    code: 'pin-mismatch',
    kind: 'refused',
    hint: 'Check the address, and what stands between (a proxy that opens TLS is not supported); nothing was sent.',
  });

function postEnroll(target: HostPort, address: string, caPem: string, body: EnrollRequest): Promise<EnrollResponse> {
  const text = Buffer.from(JSON.stringify(body), 'utf8');
  return new Promise((resolve, reject) => {
    const post = request({
      ...target,
      ...TLS_OPTIONS,
      ca: caPem,
      method: 'POST',
      path: ENROLL_PATH,
      agent: false,
      timeout: CONNECT_TIMEOUT_MS,
      headers: { 'content-type': 'application/json', 'content-length': text.length },
    });
    const fail = (error: unknown): void => reject(connectError(address, error));
    post.once('error', fail);
    post.once('timeout', () => post.destroy(new Error('no answer in time')));
    post.once('response', (response) => {
      readAll(response)
        .then((answer) => resolve(answerOf(response.statusCode ?? 0, answer)), fail)
        .catch(reject);
    });
    post.end(text);
  });
}

async function readAll(stream: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of stream) {
    length += chunk.length;
    if (length > ENROLL_BODY_BYTES_MAX) throw new Error('the answer is too long');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function answerOf(status: number, text: string): EnrollResponse {
  if (status === 200) {
    const answer = parsed(text, enrollResponseSchema);
    if (answer !== null) return answer;
  }
  const refusal = parsed(text, enrollErrorSchema);
  if (refusal !== null) {
    const { code, message, hint } = refusal;
    throw new AfterimageError(`the receiver refused: ${message}`, {
      code,
      kind: 'refused',
      ...(hint === null ? {} : { hint }),
    });
  }
  throw new AfterimageError(`the receiver gave an answer that is not understood (HTTP status ${status})`, {
    code: 'protocol',
    kind: 'corrupt',
    hint: 'Install the same version of Afterimage on agent and receiver.',
  });
}

function parsed<T>(text: string, schema: z.ZodType<T>): T | null {
  try {
    return schema.parse(JSON.parse(text));
  } catch {
    return null;
  }
}
