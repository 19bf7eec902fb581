/**
 * The recovery service of a running receiver, asked over its control socket. Errors of the receiver are thrown as what they were there, so that
 * exit codes are right. Holds no connection between calls: a receiver that is started again is simply asked again.
 */
import { request, type IncomingMessage } from 'node:http';
import { z } from 'zod';
import { AfterimageError, errnoOf, messageOf, type ErrorKind } from '../../shared/errors.js';
import { CONTROL_ANSWER_BYTES_MAX, CONTROL_ANSWER_TIMEOUT_MS } from '../../shared/limits.js';
import { GROUP_ANSWER_TIMEOUT_MS } from '../../shared/limits-groups.js';
import { UPKEEP_ANSWER_TIMEOUT_MS } from '../../shared/limits-upkeep.js';
import type { MachineId } from '../../shared/units.js';
import type { TaskResult, UpkeepTask } from '../upkeep/task-result.js';
import type { DamageItem } from '../catalog/damage.js';
import type { Attempt } from '../catalog/group-attempts.js';
import type { Job } from '../catalog/recovery.js';
import type { RecoveryService, RecoveryView } from '../failover/operations.js';

export const NO_DAEMON = 'receiver-not-running';

const KINDS = {
  usage: true,
  refused: true,
  'not-found': true,
  corrupt: true,
  io: true,
  unsupported: true,
  fenced: true,
  disconnected: true,
  cancelled: true,
  internal: true,
} as const satisfies Record<ErrorKind, true>;

const errorSchema = z.object({
  code: z.string(),
  message: z.string(),
  hint: z.string().nullish(),
  kind: z.enum(Object.keys(KINDS) as [ErrorKind, ...ErrorKind[]]),
});

/** Upkeep of a machine in the running receiver: resolves when it is done. */
export async function askUpkeep(
  socketPath: string,
  signal: AbortSignal,
  machine: MachineId,
  tasks: readonly UpkeepTask[],
): Promise<TaskResult[]> {
  const peer = { socketPath, signal, timeoutMs: UPKEEP_ANSWER_TIMEOUT_MS };
  const answer = await roundTrip(peer, 'POST', `/v1/machines/${machine}/upkeep`, { tasks });
  return (answer as { results: TaskResult[] }).results;
}

/** The running receiver mends what the scrub has marked: resolves to the list afterwards. */
export async function askRepair(
  socketPath: string,
  signal: AbortSignal,
  machine: MachineId,
): Promise<readonly DamageItem[]> {
  const peer = { socketPath, signal, timeoutMs: UPKEEP_ANSWER_TIMEOUT_MS };
  const answer = await roundTrip(peer, 'POST', `/v1/machines/${machine}/repair`, {});
  return (answer as { items: readonly DamageItem[] }).items;
}

/** A point of a group, made by the running receiver: resolves when all members have committed, else throws why there is none. */
export async function askGroupPoint(
  socketPath: string,
  signal: AbortSignal,
  group: string,
  label: string | undefined,
): Promise<Attempt> {
  const peer = { socketPath, signal, timeoutMs: GROUP_ANSWER_TIMEOUT_MS };
  const body = label === undefined ? {} : { label };
  return (await roundTrip(peer, 'POST', `/v1/groups/${encodeURIComponent(group)}/points`, body)) as Attempt;
}

/** `signal` gives up waiting for an answer; what the receiver was asked to begin goes on there. */
export function controlClient(socketPath: string, signal: AbortSignal): RecoveryService {
  const ask = (method: string, path: string, body?: unknown): Promise<unknown> =>
    roundTrip({ socketPath, signal }, method, path, body);
  return {
    list: async () => ((await ask('GET', '/v1/machines')) as { machines: RecoveryView[] }).machines,
    view: async (machine) => (await ask('GET', `/v1/machines/${machine}`)) as RecoveryView,
    begin: async (machine, operation) => (await ask('POST', `/v1/machines/${machine}/operations`, operation)) as Job,
    job: async (machine, id) => (await ask('GET', `/v1/machines/${machine}/jobs/${encodeURIComponent(id)}`)) as Job,
  };
}

interface Peer {
  readonly socketPath: string;
  readonly signal: AbortSignal;
  readonly timeoutMs?: number;
}

async function roundTrip(peer: Peer, method: string, path: string, body?: unknown): Promise<unknown> {
  const { status, text } = await exchange(peer, method, path, body).catch((error: unknown) => {
    throw unreachable(peer, error);
  });
  const answer = parsedAnswer(peer, text);
  if (status < 300) return answer;
  const error = errorSchema.safeParse(answer);
  if (!error.success) throw notOurs(peer, `HTTP ${status}: ${text.slice(0, 200)}`);
  const { code, message, hint, kind } = error.data;
  throw new AfterimageError(message, { code, kind, ...(hint == null ? {} : { hint }) });
}

function exchange(
  { socketPath, signal, timeoutMs: timeout = CONTROL_ANSWER_TIMEOUT_MS }: Peer,
  method: string,
  path: string,
  body?: unknown,
): Promise<{ readonly status: number; readonly text: string }> {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { 'content-type': 'application/json' };
    const sent = request({ socketPath, method, path, headers, signal, timeout, agent: false }, (response) => {
      textOf(response).then((text) => resolve({ status: response.statusCode ?? 0, text }), reject);
    });
    sent.on('timeout', () => sent.destroy(new Error(`no answer within ${timeout / 1000} s`)));
    sent.on('error', reject);
    sent.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

async function textOf(response: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  let sizeBytes = 0;
  for await (const part of response as AsyncIterable<Buffer>) {
    sizeBytes += part.length;
    if (sizeBytes > CONTROL_ANSWER_BYTES_MAX)
      throw new Error(`an answer of more than ${CONTROL_ANSWER_BYTES_MAX} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts).toString('utf8');
}

function parsedAnswer(peer: Peer, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw notOurs(peer, `no JSON: ${text.slice(0, 200)}`);
  }
}

const notOurs = ({ socketPath }: Peer, what: string): AfterimageError =>
  new AfterimageError(`what answers on ${socketPath} is not this version of the receiver (${what})`, {
    code: 'control-answer',
    kind: 'unsupported',
    hint: 'Give the control socket of the receiver with --socket, and use the same version of both programs.',
  });

function unreachable({ socketPath, signal }: Peer, error: unknown): AfterimageError {
  if (signal.aborted) {
    return new AfterimageError('cancelled while the receiver was asked', {
      code: 'cancelled',
      kind: 'cancelled',
      hint: 'What it had begun already goes on: see `afterimage status`.',
    });
  }
  const errno = errnoOf(error);
  if (errno === 'ENOENT' || errno === 'ECONNREFUSED') {
    return new AfterimageError(`no receiver listens on ${socketPath}`, {
      code: NO_DAEMON,
      kind: 'disconnected',
      hint: 'Start it (`systemctl start afterimage-receiver`, or `afterimage-receiver run`), or give its control socket with --socket.',
      cause: error,
    });
  }
  return new AfterimageError(`the receiver can't be asked on ${socketPath}: ${messageOf(error)}`, {
    code: 'control-socket',
    kind: 'disconnected',
    hint: errno === 'EACCES' ? 'Run as root, or as the user of the receiver.' : 'Look at its log, then try again.',
    cause: error,
  });
}
