/**
 * Does the service run, will it after the next boot, and what does it say of itself? Pure.
 */
import { fail, ok, warn, type Check } from '../check.js';
import type { RebootFacts, ServiceFacts } from '../facts.js';

export function serviceCheck({ unit }: ServiceFacts): Check | null {
  const name = 'service';
  if (unit === null) return null;
  if (unit.fileState === '') {
    return warn(
      name,
      `${unit.name} is not installed`,
      'Install the package, or systemd/afterimage-agent.service by hand.',
    );
  }
  if (unit.activeState === 'failed')
    return fail(
      name,
      `${unit.name} has failed`,
      `See \`journalctl -u ${unit.name}\`, then \`systemctl restart ${unit.name}\`.`,
    );
  const starts = unit.fileState === 'enabled' || unit.fileState === 'enabled-runtime';
  if (unit.activeState === 'active' && starts) return ok(name, `${unit.name} runs, and starts at boot`);
  const lacks = [
    ...(unit.activeState === 'active' ? [] : ['does not run']),
    ...(starts ? [] : ['does not start at boot']),
  ];
  return warn(name, `${unit.name} ${lacks.join(' and ')}`, `systemctl enable --now ${unit.name}`);
}

export function runningCheck({ running }: ServiceFacts): Check {
  const name = 'agent';
  if (running === null) return warn(name, 'no agent runs', 'Start it: `systemctl enable --now afterimage-agent`.');
  if (running.refused !== null) {
    const { name: refusal, reason, hint } = running.refused;
    return fail(name, `refused by the receiver (${refusal}): ${reason}`, hint);
  }
  if (running.problem !== null) return fail(name, running.problem, 'See `afterimage-agent status`.');
  if (!running.connected) {
    return fail(name, `not connected: ${running.reason}`, 'See the receiver’s line above; the agent goes on trying.');
  }
  if (running.state === 'Failed') return fail(name, 'a disk has failed', 'See `afterimage-agent status`.');
  return ok(name, `connected, ${running.state}`);
}

/** Whether tracking can go on over a clean reboot. It can be lived without: then all disks are compared. */
export function rebootCheck({ wanted, units, isStateOnRoot, stateDir }: RebootFacts): Check | null {
  const name = 'reboot';
  if (units === null) return null;
  if (!wanted) return ok(name, 'all disks are compared after each reboot, as configured (reboot: { continue: false })');
  const off = units.filter(({ fileState }) => fileState !== 'enabled').map((unit) => unit.name);
  if (off.length > 0) {
    return warn(
      name,
      `all disks are compared after each reboot: not enabled: ${off.join(', ')}`,
      'Once the agent is enabled: `systemctl reenable afterimage-agent`.',
    );
  }
  if (!isStateOnRoot) {
    return warn(
      name,
      `all disks are compared after each reboot: ${stateDir} is not on the root filesystem`,
      'Set `stateDir` in agent.yaml to a folder on the root filesystem, and move what is there.',
    );
  }
  return ok(name, 'after a clean reboot, data disks that nobody else has used are not compared');
}
