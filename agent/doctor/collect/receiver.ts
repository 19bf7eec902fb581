/**
 * Asks a receiver who it is and what time it has, on a connection of its own: a question that it answers with "not found", and the hour. No session is
 * opened, so an agent that runs is not disturbed.
 */
import { request } from 'node:https';
import { TLSSocket } from 'node:tls';
import type { Clock } from '../../../shared/clock.js';
import { DOCTOR_CONNECT_TIMEOUT_MS } from '../../../shared/limits-service.js';
import { RECEIVER_TLS_NAME, TLS_CIPHERS } from '../../../shared/wire/enroll.js';
import { parseHostPort } from '../../../shared/wire/host-port.js';
import { connectError } from '../../session/connect-errors.js';
import type { Credentials } from '../../session/credentials.js';
import type { CertificateFacts, ReceiverFacts } from '../facts.js';
import { validityOf } from './enrolment.js';
import { problemOf } from './problem.js';

/** The header Date has whole seconds. */
const DATE_STEP_MS = 1_000;

export async function receiverFacts(
  address: string,
  isPrimary: boolean,
  credentials: Credentials,
  clock: Clock,
): Promise<ReceiverFacts> {
  const silent = { address, isPrimary, certificate: null, clock: null };
  const target = parseHostPort(address);
  if (target === null) return { ...silent, problem: { message: `${address} is not an address`, hint: null } };
  try {
    const sentMs = clock.nowMs();
    const { date, certificate } = await ask(target, credentials);
    return {
      address,
      isPrimary,
      problem: null,
      certificate,
      clock: date === null ? null : clockOf(Date.parse(date), sentMs, clock.nowMs()),
    };
  } catch (error) {
    return { ...silent, problem: problemOf(connectError(address, error)) };
  }
}

/** The receiver's second began at `dateMs`, at some time between asking and hearing. */
export function clockOf(dateMs: number, sentMs: number, heardMs: number): ReceiverFacts['clock'] {
  if (Number.isNaN(dateMs)) return null;
  return {
    offsetMs: dateMs + DATE_STEP_MS / 2 - (sentMs + heardMs) / 2,
    uncertaintyMs: (DATE_STEP_MS + heardMs - sentMs) / 2,
  };
}

interface Answer {
  readonly date: string | null;
  readonly certificate: CertificateFacts | null;
}

function ask(
  target: { readonly host: string; readonly port: number },
  { keyPem, certificatePem, caPem }: Credentials,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const get = request({
      ...target,
      path: '/',
      agent: false,
      servername: RECEIVER_TLS_NAME,
      minVersion: 'TLSv1.3',
      ciphers: TLS_CIPHERS,
      ca: caPem,
      cert: certificatePem,
      key: keyPem,
      timeout: DOCTOR_CONNECT_TIMEOUT_MS,
    });
    get.once('error', reject);
    get.once('timeout', () => get.destroy(new Error('no answer in time')));
    get.once('response', (response) => {
      const { socket } = response;
      const certificate = socket instanceof TLSSocket ? socket.getPeerX509Certificate() : undefined;
      response.resume();
      resolve({
        date: response.headers.date ?? null,
        certificate: certificate === undefined ? null : validityOf(certificate),
      });
      get.destroy();
    });
    get.end();
  });
}
