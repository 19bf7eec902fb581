/**
 * The agent at home, brought to this receiver: what has to be asked of it can be asked only where its session is. The job is recorded as ours already,
 * so the machine belongs here (fleet/placement.ts): the receiver that has the agent sends it as soon as its cycle is committed, and one that is
 * killed meanwhile loses it to us.
 */
import { AfterimageError } from '../../../shared/errors.js';
import { CALL_OVER_MS, CALL_OVER_POLL_MS } from '../../../shared/limits-fleet.js';
import type { ManifestOwner } from '../../catalog/manifest.js';
import { loadHead } from '../../catalog/reader.js';
import { cancelled } from '../../volume/plan-point.js';
import { receiverText } from '../states.js';
import type { TaskContext } from '../task.js';

/** What is said of it; empty: it was here. Throws, with nothing asked of the agent, when it doesn't come. */
export async function callOver(context: TaskContext): Promise<string> {
  const { parts, machine, signal } = context;
  const isHere = (): boolean => parts.home.stateOf(machine) === 'replicating';
  const owner = isHere() ? null : ((await loadHead(parts.store, machine))?.owner ?? null);
  const at = parts.fleet?.others.find(({ receiver }) => receiver === owner?.receiver);
  // Here already, or nowhere that we know of: it may be on its way.
  if (parts.fleet === undefined || at === undefined) return '';
  context.progress(`the agent at home is at ${receiverText(at)}: it is called over`);
  const release = parts.fleet.call(machine);
  try {
    const endMs = parts.clock.monotonicMs() + CALL_OVER_MS;
    while (!isHere()) {
      if (signal.aborted) throw cancelled('calling the agent over');
      if (parts.clock.monotonicMs() >= endMs) throw notCome(at);
      await parts.clock.sleep(CALL_OVER_POLL_MS, signal);
    }
    return `its agent was called over from receiver ${at.name}`;
  } finally {
    release();
  }
}

const notCome = (at: ManifestOwner): AfterimageError =>
  new AfterimageError(`the agent at home, at ${receiverText(at)}, did not come here within ${CALL_OVER_MS / 1000} s`, {
    code: 'home-elsewhere',
    kind: 'refused',
    hint: `Nothing was changed. It may not reach this receiver, or makes a long cycle: give the command on the host of ${receiverText(at)}, or see \`afterimage-agent status\` at home.`,
  });
