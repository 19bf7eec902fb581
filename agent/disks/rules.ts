/**
 * Which disks of a machine are protected by rule: those that a rule of `include` fits and none of `exclude`. Pure.
 *
 * Only whole disks of their own are looked at: what stands on others (LVM, md, multipath), loop devices and memory are protected by name or not at all.
 */
import type { DiskId } from '../../shared/units.js';
import { SECTOR_BYTES } from '../../shared/units.js';
import type { BlockDevice } from './sysfs.js';

/** All that is given must fit. Texts may hold `*` and `?`. */
export interface DiskRule {
  readonly id?: string | undefined;
  readonly serial?: string | undefined;
  /** As in /dev: `sdb`, `nvme*`. */
  readonly name?: string | undefined;
  readonly minSize?: number | undefined;
  readonly maxSize?: number | undefined;
}

export interface DiskRules {
  readonly include: readonly DiskRule[];
  readonly exclude: readonly DiskRule[];
}

export interface Candidate {
  readonly device: BlockDevice;
  /** Null: it can't be told, e.g. as two disks carry the same number. */
  readonly id: DiskId | null;
}

export interface RuleVerdict {
  readonly name: string;
  readonly protect: boolean;
  readonly reason: string;
}

const pattern = (glob: string): RegExp =>
  new RegExp(
    `^${glob
      .replace(/[.+^${}()|[\]\\]/g, '\\$&')
      .replaceAll('*', '.*')
      .replaceAll('?', '.')}$`,
  );

function fits(rule: DiskRule, { device, id }: Candidate): boolean {
  const sizeBytes = device.sectorCount * SECTOR_BYTES;
  const text = (glob: string | undefined, value: string | null): boolean =>
    glob === undefined || (value !== null && pattern(glob).test(value));
  return (
    text(rule.id, id) &&
    text(rule.serial, device.serial) &&
    text(rule.name, device.name) &&
    sizeBytes >= (rule.minSize ?? 0) &&
    sizeBytes <= (rule.maxSize ?? Infinity)
  );
}

/** `id: x, name: sd*`, as it stands in the configuration. */
const textOf = (rule: DiskRule): string =>
  Object.entries(rule)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key}: ${value}`)
    .join(', ');

/** Names of the kernel's drivers for disks that are made of something else, or of memory. */
const NOT_OF_THEIR_OWN = /^(loop|ram|zram|dm-|md|nbd|sr|fd)\d/;

/** Null: no rule says anything about it. */
export function ruleVerdict(candidate: Candidate, { include, exclude }: DiskRules): RuleVerdict | null {
  const { device } = candidate;
  const wanted = include.find((rule) => fits(rule, candidate));
  if (wanted === undefined) return null;
  const leave = (reason: string): RuleVerdict => ({ name: device.name, protect: false, reason });
  const unwanted = exclude.find((rule) => fits(rule, candidate));
  if (unwanted !== undefined) return leave(`excluded by the rule { ${textOf(unwanted)} }`);
  const isNamed = wanted.name === device.name || (wanted.id !== undefined && wanted.id === candidate.id);
  if (!isNamed && (NOT_OF_THEIR_OWN.test(device.name) || device.slaves.length > 0))
    return leave('it is made of other disks, of a file or of memory: only a rule with its full name or id takes it');
  if (!isNamed && device.removable) return leave('it is removable: only a rule with its full name or id takes it');
  return { name: device.name, protect: true, reason: `included by the rule { ${textOf(wanted)} }` };
}
