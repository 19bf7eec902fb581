/**
 * Everything that `doctor` looks at, collected at once. What can't be seen is a fact, too: nothing here fails.
 */
import type { Clock } from '../../../shared/clock.js';
import type { AgentConfig } from '../../config.js';
import { Sysfs } from '../../disks/sysfs.js';
import { isProblem, type Facts } from '../facts.js';
import { diskFacts, listedDisks, spaceFacts } from './disks.js';
import { enrolmentFacts } from './enrolment.js';
import { kernelFacts, privilegeFacts } from './kernel.js';
import { receiverFacts } from './receiver.js';
import { rebootFacts, serviceFacts } from './service.js';

const NOTHING = { disks: [], kept: [] };

export async function collectFacts(config: AgentConfig, clock: Clock): Promise<Facts> {
  const { credentials, facts: enrolment } = await enrolmentFacts(config.stateDir);
  const addresses = credentials === null ? [] : [...new Set([credentials.receiver, ...config.receivers])];
  const [receivers, list, service, reboot] = await Promise.all([
    Promise.all(
      addresses.flatMap((address, i) =>
        credentials === null ? [] : [receiverFacts(address, i === 0, credentials, clock)],
      ),
    ),
    listedDisks(config.stateDir),
    serviceFacts(config.controlSocket),
    rebootFacts(config),
  ]);
  const disks = isProblem(list) ? list : diskFacts(list, new Sysfs());
  return {
    nowMs: clock.nowMs(),
    kernel: kernelFacts(config),
    privileges: privilegeFacts(),
    enrolment,
    receivers,
    space:
      isProblem(disks) || isProblem(list)
        ? spaceFacts(config.stateDir, NOTHING, [])
        : spaceFacts(config.stateDir, list, disks),
    disks,
    service,
    reboot,
  };
}
