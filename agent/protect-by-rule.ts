/**
 * Adds the disks that rules take to the list of protected ones, while the agent runs. What can't be protected is said once, and tried again when
 * something about it has changed.
 */
import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { AfterimageError } from '../shared/errors.js';
import type { AgentConfig } from './config.js';
import { identityOf } from './disks/identity.js';
import { backingFacts, devicePath, wholeDisks } from './disks/locate.js';
import { ruleVerdict, type Candidate } from './disks/rules.js';
import type { BlockDevice, Sysfs } from './disks/sysfs.js';
import { loadProtection, type ProtectionList } from './protection.js';
import { protect } from './protect.js';

/** An id that no disk has: nothing is kept of a disk that is only looked at. */
const UNKNOWN_ID = '00000000-0000-4000-8000-000000000000';

export class RuleProtection {
  readonly #config: Pick<AgentConfig, 'stateDir' | 'disks'>;
  readonly #sysfs: Sysfs;
  readonly #log: Logger;
  readonly #said = new Map<string, string>();

  constructor(config: Pick<AgentConfig, 'stateDir' | 'disks'>, sysfs: Sysfs, log: Logger) {
    this.#config = config;
    this.#sysfs = sysfs;
    this.#log = log;
  }

  /** Protects what the rules take and isn't protected yet; returns whether there was any. */
  async look(): Promise<boolean> {
    const { stateDir, disks: rules } = this.#config;
    if (rules.include.length === 0) return false;
    const list = await loadProtection(stateDir);
    const whole = wholeDisks(this.#sysfs);
    let isNew = false;
    for (const device of whole) {
      const candidate = candidateOf(device, whole, list);
      const verdict = ruleVerdict(candidate, rules);
      if (verdict === null || list.disks.some(({ id }) => id === candidate.id)) continue;
      if (verdict.protect) isNew = (await this.#add(device, verdict.reason)) || isNew;
      else this.#sayOnce(device, `left alone: ${verdict.reason}`);
    }
    return isNew;
  }

  async #add(device: BlockDevice, reason: string): Promise<boolean> {
    try {
      const [added] = await protect(this.#config.stateDir, [devicePath(device.name)], randomUUID);
      const { id, warnings, tracker } = added ?? {};
      this.#log.info({ disk: id, device: device.name, tracker, reason, warnings }, 'disk is protected by a rule');
      return true;
    } catch (error) {
      if (!(error instanceof AfterimageError)) throw error;
      this.#sayOnce(device, `can't be protected: ${error.message}`);
      return false;
    }
  }

  #sayOnce({ name, diskseq }: BlockDevice, reason: string): void {
    const key = `${name}/${diskseq ?? ''}`;
    if (this.#said.get(key) === reason) return;
    this.#said.set(key, reason);
    this.#log.warn({ device: name, reason }, 'a disk that a rule takes is not protected');
  }
}

function candidateOf(device: BlockDevice, whole: readonly BlockDevice[], list: ProtectionList): Candidate {
  try {
    const subject = { kind: 'block', device, parent: device, backing: backingFacts(device) } as const;
    return { device, id: identityOf(subject, whole, list.kept, () => UNKNOWN_ID).id };
  } catch (error) {
    if (!(error instanceof AfterimageError)) throw error;
    return { device, id: null };
  }
}

/** The rule that would take a disk again as soon as it is given up; null when there is none. */
export function ruleThatTakes(
  config: Pick<AgentConfig, 'disks'>,
  sysfs: Sysfs,
  list: ProtectionList,
  id: string,
): string | null {
  const whole = wholeDisks(sysfs);
  for (const device of whole) {
    const candidate = candidateOf(device, whole, list);
    if (candidate.id !== id) continue;
    const verdict = ruleVerdict(candidate, config.disks);
    if (verdict?.protect === true) return verdict.reason;
  }
  return null;
}
