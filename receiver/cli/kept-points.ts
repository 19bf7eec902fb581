/**
 * Why each point of a machine is kept, or goes, for `afterimage points`: by the policy that counts, holds, pins and running copies. A listing must not
 * fail for it: what can't be told is a concern.
 */
import { AfterimageError } from '../../shared/errors.js';
import { readHolds, type Hold } from '../catalog/holds.js';
import type { RecoveryPoint } from '../catalog/manifest.js';
import { tierText, type RetentionPolicy } from '../catalog/policy.js';
import { loadPolicy } from '../catalog/policy-io.js';
import type { MachineReader } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import { loadHeld } from '../upkeep/retention-held.js';
import { planRetention, type DropCode, type KeepCode } from '../upkeep/retention.js';
import { configuredPolicy } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';

/** A column has to stay narrow; all of it is in --json. */
const SHORT_CHARS_MAX = 48;

export interface KeptAs {
  readonly kept: boolean;
  readonly code: KeepCode | DropCode;
  readonly reason: string;
  /** For a column. */
  readonly short: string;
}

export interface KeptPoints {
  readonly byPoint: ReadonlyMap<number, KeptAs>;
  readonly holds: readonly Hold[];
}

export async function keptPoints(
  store: ObjectStore,
  view: MachineReader,
  options: GlobalOptions,
  io: CliIo,
): Promise<KeptPoints> {
  try {
    const { id } = view.manifest.machine;
    const nowMs = io.clock.nowMs();
    const held = await loadHeld(store, id, nowMs);
    const { retention } = (await loadPolicy(store, id))?.policy ?? (await configuredPolicy(options));
    const points: RecoveryPoint[] = [];
    for await (const point of view.points()) points.push(point);
    view.concerns.push(...held.blockers);
    return { byPoint: explained(points, retention, nowMs, held.points), holds: await readHolds(store, id) };
  } catch (error) {
    if (!(error instanceof AfterimageError)) throw error;
    view.concerns.push(`why points are kept can not be told: ${error.message}`);
    return { byPoint: new Map(), holds: [] };
  }
}

function explained(
  points: readonly RecoveryPoint[],
  policy: RetentionPolicy,
  nowMs: number,
  held: ReadonlyMap<number, readonly string[]>,
): Map<number, KeptAs> {
  const { keep, drop } = planRetention(points, policy, nowMs, held);
  const found = new Map<number, KeptAs>();
  for (const { point, code, reason, tier } of keep) {
    const of = code === 'tier' && tier !== null ? policy.tiers[tier] : undefined;
    found.set(point.number, { kept: true, code, reason, short: shortened(of === undefined ? reason : tierText(of)) });
  }
  for (const { point, code, reason } of drop) {
    found.set(point.number, { kept: false, code, reason, short: `goes: ${code}` });
  }
  return found;
}

const shortened = (text: string): string =>
  text.length <= SHORT_CHARS_MAX ? text : `${text.slice(0, SHORT_CHARS_MAX - 1)}…`;
