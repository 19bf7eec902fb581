/**
 * Why a session was refused or ended: WebSocket close codes (RFC 6455 §7.4.2, private range 4000–4999) with what an operator must do.
 * `retry`: soon (backoff), seldom (an operator has to act first; keep asking in case they did), never within this process.
 */
export interface CloseReason {
  readonly code: number;
  readonly name: string;
  readonly retry: 'soon' | 'seldom';
  readonly hint: string;
}

const reason = (code: number, name: string, retry: CloseReason['retry'], hint: string): CloseReason => ({
  code,
  name,
  retry,
  hint,
});

export const CLOSE = {
  goingAway: reason(1001, 'going away', 'soon', 'The receiver is stopping; the agent reconnects by itself.'),
  protocol: reason(
    4400,
    'protocol error',
    'soon',
    'Agent and receiver do not understand each other; install the same version on both.',
  ),
  badCertificate: reason(
    4401,
    'bad certificate',
    'seldom',
    'Enrol the machine again: `afterimage-receiver token` there, `afterimage-agent enroll` here.',
  ),
  revoked: reason(
    4403,
    'revoked',
    'seldom',
    'The certificate was revoked or replaced. If this is the right machine, enrol it again with `afterimage-receiver token --machine NAME`.',
  ),
  alreadyConnected: reason(
    4409,
    'already connected',
    'soon',
    'Another agent with this identity is connected and alive. Stop one of them; a clone needs an enrolment of its own.',
  ),
  failedOver: reason(
    4410,
    'failed over',
    'seldom',
    'This machine runs in the recovery site, or was enrolled again elsewhere: what is written here is not replicated. Keep its workload stopped; bring it home with a failback at the receiver, or enrol it again.',
  ),
  clone: reason(
    4411,
    'clone',
    'seldom',
    'This identity belongs to other hardware. For a clone: enrol it as a machine of its own. If the hardware was changed: `afterimage-receiver token --machine NAME` and enrol again.',
  ),
  unrelated: reason(
    4412,
    'unrelated',
    'seldom',
    'What this agent has committed is not in this store. Check the receiver’s store setting; to start over, unprotect and protect the disk.',
  ),
  version: reason(4420, 'version mismatch', 'seldom', 'Install the same version of Afterimage on agent and receiver.'),
  fenced: reason(
    4421,
    'fenced',
    'soon',
    'Another receiver has taken this machine over; the agent goes on with whichever answers.',
  ),
  redirected: reason(
    4423,
    'redirected',
    'soon',
    'Another receiver is to take this machine; the agent goes there by itself.',
  ),
  /** The receiver goes on, unlike with goingAway: an agent that took it for gone would stay with another one. */
  comeAnew: reason(
    4424,
    'come anew',
    'soon',
    'What this machine is to do has changed; the agent connects again by itself, and is told.',
  ),
  corruptData: reason(
    4422,
    'corrupt data',
    'soon',
    'Data arrived damaged; it is sent again. If this repeats, check memory and network of both machines.',
  ),
  keyMissing: reason(
    4430,
    'key missing',
    'seldom',
    'This machine is encrypted and its keys are not at hand: see `encryption:` in the receiver’s configuration.',
  ),
  storeFull: reason(
    4507,
    'store full',
    'soon',
    'Free space in the receiver’s store; replication goes on by itself, tracking continues meanwhile.',
  ),
  internal: reason(4500, 'internal error', 'soon', 'See the receiver’s log.'),
} as const satisfies Record<string, CloseReason>;

export type CloseName = keyof typeof CLOSE;

const byCode = new Map<number, CloseReason>(Object.values(CLOSE).map((r) => [r.code, r]));
export const closeReasonOf = (code: number): CloseReason | undefined => byCode.get(code);
