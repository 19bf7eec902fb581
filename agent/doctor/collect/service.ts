/**
 * What systemd and the running agent say. Reads only.
 */
import { execFile } from 'node:child_process';
import { statSync } from 'node:fs';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { SYSTEMCTL_TIMEOUT_MS } from '../../../shared/limits-service.js';
import { ask } from '../../client.js';
import type { AgentConfig } from '../../config.js';
import type { AgentSnapshot } from '../../status.js';
import type { RebootFacts, RunningFacts, ServiceFacts, UnitFacts } from '../facts.js';

const run = promisify(execFile);
export const AGENT_UNIT = 'afterimage-agent.service';

/** Properties as `systemctl show` prints them, a line each. */
export function unitOf(name: string, text: string): UnitFacts {
  const value = (property: string): string => new RegExp(`^${property}=(.*)$`, 'm').exec(text)?.[1] ?? '';
  return { name, fileState: value('UnitFileState'), activeState: value('ActiveState') };
}

async function unitFacts(name: string): Promise<UnitFacts | null> {
  try {
    const { stdout } = await run('systemctl', ['show', name, '-p', 'UnitFileState', '-p', 'ActiveState'], {
      timeout: SYSTEMCTL_TIMEOUT_MS,
    });
    return unitOf(name, stdout);
  } catch {
    // No systemd, or none that answers.
    return null;
  }
}

const REBOOT_UNITS = ['afterimage-close.service', 'afterimage-arm.service'];

export async function rebootFacts({ reboot, stateDir }: AgentConfig): Promise<RebootFacts> {
  const units = await Promise.all(REBOOT_UNITS.map(unitFacts));
  return {
    wanted: reboot.continue,
    units: units.every((unit) => unit !== null) ? units : null,
    isStateOnRoot: isOnRoot(stateDir),
    stateDir,
  };
}

/** A folder that isn't there yet will be made where the one above it is. */
function isOnRoot(path: string): boolean {
  try {
    return statSync(path).dev === statSync('/').dev;
  } catch {
    return isOnRoot(dirname(path));
  }
}

async function runningFacts(controlSocket: string): Promise<RunningFacts | null> {
  try {
    const status = (await ask(controlSocket, 'GET', '/status')) as AgentSnapshot & { problem: string | null };
    const { connected, reason, refused } = status.receiver;
    return { state: status.state, connected, reason, refused, problem: status.problem };
  } catch {
    return null;
  }
}

export async function serviceFacts(controlSocket: string): Promise<ServiceFacts> {
  const [unit, running] = await Promise.all([unitFacts(AGENT_UNIT), runningFacts(controlSocket)]);
  return { unit, running };
}
