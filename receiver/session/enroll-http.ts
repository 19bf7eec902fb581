/**
 * `POST /v1/enroll`: the one request that a peer without a certificate may make. Bounded body, refused attempts counted per address.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, messageOf, usageError } from '../../shared/errors.js';
import {
  ENROLL_ADDRESSES_MAX,
  ENROLL_BODY_BYTES_MAX,
  ENROLL_FAILURE_WINDOW_MS,
  ENROLL_FAILURES_MAX,
} from '../../shared/limits.js';
import type { Logger } from '../../shared/log.js';
import { enrollRequestSchema, type EnrollErrorBody, type EnrollResponse } from '../../shared/wire/enroll.js';
import type { Enrollment } from './enroll.js';

/** Refused enrolments per address. A secret can't be guessed; this keeps somebody who tries from filling the log. */
class FailureCounter {
  readonly #clock: Clock;
  readonly #byAddress = new Map<string, { count: number; sinceMs: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  isBlocked(address: string): boolean {
    const entry = this.#byAddress.get(address);
    if (entry === undefined) return false;
    if (this.#clock.monotonicMs() - entry.sinceMs < ENROLL_FAILURE_WINDOW_MS) return entry.count >= ENROLL_FAILURES_MAX;
    this.#byAddress.delete(address);
    return false;
  }

  add(address: string): void {
    const entry = this.#byAddress.get(address) ?? { count: 0, sinceMs: this.#clock.monotonicMs() };
    entry.count++;
    this.#byAddress.set(address, entry);
    const [oldest] = this.#byAddress.keys();
    if (this.#byAddress.size > ENROLL_ADDRESSES_MAX && oldest !== undefined) this.#byAddress.delete(oldest);
  }
}

export type RequestHandler = (request: IncomingMessage, response: ServerResponse) => void;

/** The HTTP handler of ENROLL_PATH. */
export function enrollHandler(enrollment: Enrollment, clock: Clock, log: Logger): RequestHandler {
  const failures = new FailureCounter(clock);
  return (request, response) => {
    const address = request.socket.remoteAddress ?? 'unknown';
    void answerEnroll(request, enrollment, failures, address).then(
      (body) => reply(response, 200, body),
      (error: unknown) => {
        failures.add(address);
        log.warn({ address, reason: messageOf(error) }, 'enrolment refused');
        reply(response, statusOf(error), errorBody(error));
      },
    );
  };
}

async function answerEnroll(
  request: IncomingMessage,
  enrollment: Enrollment,
  failures: FailureCounter,
  address: string,
): Promise<EnrollResponse> {
  if (failures.isBlocked(address)) {
    throw new AfterimageError('too many refused enrolments from this address', {
      code: 'enroll-rate',
      kind: 'refused',
      hint: 'Wait a minute, then use a fresh token.',
    });
  }
  const parsed = enrollRequestSchema.safeParse(await readJson(request));
  if (parsed.success) return enrollment.enroll(parsed.data);
  const [issue] = parsed.error.issues;
  throw usageError(`the enrolment request is not valid: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`);
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  // The length is asked for, so that the parser ends the body there and nothing has to be counted.
  const length = Number(request.headers['content-length'] ?? Number.NaN);
  if (!(length <= ENROLL_BODY_BYTES_MAX))
    throw usageError(`the enrolment request must have at most ${ENROLL_BODY_BYTES_MAX} bytes`);
  const chunks: Buffer[] = [];
  for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8')) as unknown;
  } catch {
    throw usageError('the enrolment request is not JSON');
  }
}

function statusOf(error: unknown): number {
  if (!(error instanceof AfterimageError)) return 500;
  if (error.code === 'enroll-rate') return 429;
  if (error.kind === 'usage') return 400;
  return error.kind === 'refused' ? 403 : 500;
}

/** What went wrong inside the receiver is for its log, not for a peer that nobody knows yet. */
function errorBody(error: unknown): EnrollErrorBody {
  if (error instanceof AfterimageError && (error.kind === 'refused' || error.kind === 'usage')) {
    return { code: error.code, message: error.message, hint: error.hint ?? null };
  }
  return { code: 'internal', message: 'the receiver could not enrol the machine', hint: 'See the receiver’s log.' };
}

function reply(response: ServerResponse, status: number, body: EnrollResponse | EnrollErrorBody): void {
  response.writeHead(status, { 'content-type': 'application/json', connection: 'close' });
  response.end(JSON.stringify(body));
}
