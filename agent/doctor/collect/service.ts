/**
 * What systemd and the running agent say. Reads only.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { SYSTEMCTL_TIMEOUT_MS } from '../../../shared/limits-service.js';
import { ask } from '../../client.js';
import type { AgentSnapshot } from '../../status.js';
import type { RunningFacts, ServiceFacts, UnitFacts } from '../facts.js';

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
