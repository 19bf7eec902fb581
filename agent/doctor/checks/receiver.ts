/**
 * Is this machine enrolled, does the receiver answer, is it the right one, and do both agree on the time? Pure.
 */
import { CERTIFICATE_ENDING_MS, CLOCK_OFF_FAIL_MS, CLOCK_OFF_WARN_MS } from '../../../shared/limits-service.js';
import { formatDuration } from '../../../shared/units.js';
import { fail, ok, warn, type Check } from '../check.js';
import { isProblem, type CertificateFacts, type EnrolmentFacts, type Facts, type ReceiverFacts } from '../facts.js';

const ENROLL_TODO = '`afterimage-receiver token` at the receiver, then `afterimage-agent enroll TOKEN` here.';
const day = (ms: number): string => new Date(ms).toISOString().slice(0, 10);

export function enrolmentCheck(enrolment: Facts['enrolment']): Check {
  const name = 'enrolment';
  if (enrolment === null) return fail(name, 'this machine is not enrolled', ENROLL_TODO);
  if (isProblem(enrolment)) return fail(name, enrolment.message, enrolment.hint ?? ENROLL_TODO);
  const { name: machine, machine: id, receiver, generation } = enrolment;
  return ok(name, `${machine} (${id}), generation ${generation}, at ${receiver}`);
}

/** Null: valid and will be for long. */
function validity({ validFromMs, validToMs }: CertificateFacts, nowMs: number): Omit<Check, 'name'> | null {
  if (nowMs < validFromMs) {
    const message = `not valid before ${day(validFromMs)}`;
    return { verdict: 'fail', message, todo: 'Set this machine’s clock.' };
  }
  if (nowMs > validToMs)
    return { verdict: 'fail', message: `ended on ${day(validToMs)}`, todo: `Enrol again: ${ENROLL_TODO}` };
  if (validToMs - nowMs > CERTIFICATE_ENDING_MS) return null;
  return { verdict: 'warn', message: `ends on ${day(validToMs)}`, todo: `Enrol again before that: ${ENROLL_TODO}` };
}

export function ownCertificateCheck({ certificate, caFingerprint }: EnrolmentFacts, nowMs: number): Check {
  const name = 'own certificate';
  const again = `Enrol again: ${ENROLL_TODO}`;
  if (!certificate.hasKey) return fail(name, 'it does not belong to the private key beside it', again);
  if (!certificate.isOfCa) return fail(name, 'it is not of the receiver’s CA beside it', again);
  const flaw = validity(certificate, nowMs);
  if (flaw !== null) return { name, ...flaw };
  return ok(name, `of the pinned CA ${caFingerprint.slice(0, 16)}…, valid until ${day(certificate.validToMs)}`);
}

export function receiverChecks(receivers: readonly ReceiverFacts[], nowMs: number): Check[] {
  return receivers.flatMap((receiver) => {
    const { address, problem, certificate, isPrimary } = receiver;
    const name = `receiver ${address}`;
    if (problem !== null) {
      const todo = problem.hint ?? 'Check the address, the network between, and whether the receiver runs.';
      return [isPrimary ? fail(name, problem.message, todo) : warn(name, problem.message, todo)];
    }
    const checks = [ok(name, 'answers, and is the one that this machine was enrolled with')];
    const flaw = certificate === null ? null : validity(certificate, nowMs);
    if (flaw !== null) checks.push({ name: `certificate of ${address}`, ...flaw });
    return checks;
  });
}

/** By the first receiver that told its time. */
export function clockCheck(receivers: readonly ReceiverFacts[]): Check {
  const name = 'clock';
  const told = receivers.flatMap(({ clock, address }) => (clock === null ? [] : [{ ...clock, address }]))[0];
  if (told === undefined)
    return warn(name, 'no receiver told its time', 'See to the receiver first, then run this again.');
  // Only what is certain counts against it.
  const offMs = Math.max(0, Math.abs(told.offsetMs) - told.uncertaintyMs);
  const way = told.offsetMs > 0 ? 'behind' : 'ahead of';
  const message = `${formatDuration(offMs)} ${way} the receiver ${told.address}`;
  const todo = 'Let both synchronise their clocks (systemd-timesyncd, chrony).';
  if (offMs > CLOCK_OFF_FAIL_MS) return fail(name, message, todo);
  if (offMs > CLOCK_OFF_WARN_MS) return warn(name, message, todo);
  return ok(
    name,
    `the receiver ${told.address} has the same time, within ${formatDuration(Math.max(told.uncertaintyMs, offMs))}`,
  );
}
