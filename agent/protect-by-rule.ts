/**
 * Adds the disks that rules take to the list of protected ones, while the agent runs. What can't be protected is said once, and tried again when
 * something about it has changed.
 */
import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { AfterimageError } from '../shared/errors.js';
import type { DiskId } from '../shared/units.js';
import type { AgentConfig } from './config.js';
import { idByItself, identityOf } from './disks/identity.js';
import { backingFacts, devicePath, wholeDisks } from './disks/locate.js';
import { multipathAbove, waysTo } from './disks/multipath.js';
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
      if (verdict === null) continue;
      const listed = listedAs(device, whole, list);
      if (listed === null && verdict.protect) isNew = (await this.#add(device, whole, verdict.reason)) || isNew;
      else if (listed === null) this.#sayOnce(device, `left alone: ${verdict.reason}`);
      else if (listed.isOther)
        this.#sayOnce(device, `left alone: it is another path to disk ${listed.id}, which is protected`);
    }
    return isNew;
  }

  async #add(device: BlockDevice, whole: readonly BlockDevice[], reason: string): Promise<boolean> {
    const { stateDir } = this.#config;
    try {
      const [added] = await protect(stateDir, [devicePath(device.name)], randomUUID);
      const { id, warnings, tracker } = added ?? {};
      this.#log.info({ disk: id, device: device.name, tracker, reason, warnings }, 'disk is protected by a rule');
      return true;
    } catch (error) {
      if (!(error instanceof AfterimageError)) throw error;
      // Somebody was faster; whoever it was, the list has changed.
      if (listedAs(device, whole, await loadProtection(stateDir)) !== null) return true;
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

/** A path is taken by what it says of itself, as the disk that it is a path of: who gives that up is told of the rule. */
function candidateOf(device: BlockDevice, whole: readonly BlockDevice[], list: ProtectionList): Candidate {
  const disk = multipathAbove(device, (name) => whole.find((other) => other.name === name) ?? null) ?? device;
  try {
    const subject = { kind: 'block', device: disk, parent: disk, backing: backingFacts(disk) } as const;
    return { device, id: identityOf(subject, whole, list.kept, () => UNKNOWN_ID).id };
  } catch (error) {
    if (!(error instanceof AfterimageError)) throw error;
    return { device, id: null };
  }
}

/** The protected disk that this device is, by any of its paths; `isOther`: it is listed as a path that is neither this one nor stands above it. */
function listedAs(
  device: BlockDevice,
  whole: readonly BlockDevice[],
  { disks, kept }: ProtectionList,
): { readonly id: DiskId; readonly isOther: boolean } | null {
  for (const [i, way] of waysTo(device, whole).entries()) {
    const subject = { kind: 'block', device: way, parent: way, backing: backingFacts(way) } as const;
    const id = idByItself(subject, kept, () => UNKNOWN_ID);
    if (disks.some((disk) => disk.id === id)) return { id, isOther: i > 0 && way.name !== device.name };
  }
  return null;
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
