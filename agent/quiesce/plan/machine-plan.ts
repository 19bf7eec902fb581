/**
 * The quiesce plan of this machine as it is now, for the command line and for the agent's start.
 */
import type { AgentConfig } from '../../config.js';
import type { Source } from '../../disks/footprint.js';
import type { Sysfs } from '../../disks/sysfs.js';
import { configuredApplications } from '../applications/configured.js';
import { findHooks } from '../hooks/hook-files.js';
import { gatherFacts } from './facts.js';
import { quiescePlan, type QuiescePlan } from './plan.js';

export function planOfMachine(
  sysfs: Sysfs,
  sources: readonly Source[],
  config: AgentConfig,
  configPath: string,
  isAgent: boolean,
): QuiescePlan {
  const { stateDir, controlSocket, hooks, applications, freeze } = config;
  const files = findHooks(hooks);
  return quiescePlan(
    gatherFacts(sysfs, {
      sources,
      stateDir,
      controlSocket,
      hooksDir: hooks.dir,
      configPath,
      isAgent,
      freezeEnabled: freeze.enabled,
      configured: configuredApplications(applications),
      hooks: [
        ...files.hooks.map(({ name }) => ({ name, refused: null })),
        ...files.refused.map(({ name, why }) => ({ name, refused: why })),
      ],
    }),
  );
}
