/**
 * `afterimage-agent tracking close` and `tracking arm`, as the units of shutdown and boot call them. Whatever they find, the machine goes down or up:
 * what can't be proven is compared later.
 */
import { loadProtection } from '../protection.js';
import type { AgentConfig } from '../config.js';
import { Sysfs } from '../disks/sysfs.js';
import { openTracker } from '../tracker/open.js';
import { systemClock } from '../../shared/clock.js';
import { createLogger } from '../../shared/log.js';
import { armDisks, type ArmDeps } from './arm.js';
import { bootedAtMs, bootId } from './boot-facts.js';
import { closeDisks } from './close.js';

async function withDeps<T>(config: AgentConfig, work: (deps: ArmDeps) => Promise<T>): Promise<T> {
  const clock = systemClock;
  const { tracker, reason } = openTracker(config, clock);
  try {
    return await work({
      stateDir: config.stateDir,
      runDir: config.reboot.runDir,
      sysfs: new Sysfs(),
      tracker,
      trackerReason: reason,
      clock,
      log: createLogger('afterimage-agent', config.log.level),
      bootId: bootId(),
      bootedAtMs: bootedAtMs(),
      withinMs: config.reboot.within,
      goesOn: config.reboot.continue,
    });
  } finally {
    tracker?.close();
  }
}

export const closeForReboot = (config: AgentConfig): Promise<unknown> =>
  withDeps(config, async (deps) => closeDisks(await loadProtection(config.stateDir), deps));

export const armAfterReboot = (config: AgentConfig): Promise<unknown> =>
  withDeps(config, async (deps) => armDisks(await loadProtection(config.stateDir), deps));
