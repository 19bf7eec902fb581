/**
 * The fleet as somebody sees it who has the store alone: receivers, what they own, what is to move and why. Read-only; for people.
 *
 * A single look can't see a number move, so here, and only here, clocks are compared: a receiver whose clock is off shows as gone. Nothing is decided
 * upon this.
 */
import { RECEIVER_MISSES_MAX } from '../../shared/limits-fleet.js';
import type { MachineId } from '../../shared/units.js';
import { groupsOf, togetherOf } from '../catalog/groups.js';
import { listMachines, type MachineSummary } from '../catalog/machines.js';
import { loadRecovery } from '../catalog/recovery-io.js';
import type { ObjectStore } from '../store/store.js';
import { boundTo, placementOf, type FleetView } from './placement.js';
import { highestNumbers, readReceiverRecord, type ReceiverRecord } from './record.js';

export interface ReceiverSeen {
  readonly record: ReceiverRecord;
  readonly state: 'live' | 'gone' | 'left';
  /** Names of the machines whose newest manifest names it. */
  readonly owns: readonly string[];
}

export interface Move {
  readonly machine: MachineId;
  readonly name: string;
  /** Null: nobody owns it, or nobody knows. */
  readonly from: string | null;
  readonly to: string;
  readonly reason: string;
}

export interface FleetSeen {
  readonly receivers: readonly ReceiverSeen[];
  readonly moves: readonly Move[];
  /** What could not be read. */
  readonly problems: readonly string[];
}

export function stateOf(record: ReceiverRecord, nowMs: number): ReceiverSeen['state'] {
  if (record.state === 'leaving') return 'left';
  return nowMs - record.writtenAtMs > RECEIVER_MISSES_MAX * record.heartbeatMs ? 'gone' : 'live';
}

export async function lookAtFleet(store: ObjectStore, nowMs: number): Promise<FleetSeen> {
  const problems: string[] = [];
  const records: ReceiverRecord[] = [];
  for (const [id, number] of await highestNumbers(store)) {
    const record = await readNewest(store, id, number).catch((error: unknown) => {
      problems.push(`receiver ${id}: ${String(error)}`);
      return null;
    });
    if (record !== null) records.push(record);
  }
  const machines = await listMachines(store);
  const receivers = records
    .map((record) => ({
      record,
      state: stateOf(record, nowMs),
      owns: machines.filter((m) => m.manifest?.owner?.receiver === record.id).map((m) => m.name),
    }))
    .sort((a, b) => a.record.name.localeCompare(b.record.name) || (a.record.id < b.record.id ? -1 : 1));
  const groups = await groupsOf(store).catch((error: unknown) => {
    problems.push(`groups: ${String(error)}`);
    return [];
  });
  const view: FleetView = {
    self: null,
    members: receivers.map(({ record, state }) => ({ ...record, liveness: state === 'live' ? 'live' : 'gone' })),
    isSettled: true,
    settleMs: 0,
    together: togetherOf(groups),
  };
  const moves = (await Promise.all(machines.map((machine) => moveOf(store, machine, view, problems)))).flat();
  return { receivers, moves, problems };
}

/** Its number may have moved on between listing and reading: then the newest is asked for once more. */
async function readNewest(store: ObjectStore, id: string, number: number): Promise<ReceiverRecord | null> {
  const record = await readReceiverRecord(store, id, number);
  if (record !== null) return record;
  const newer = (await highestNumbers(store)).get(id);
  return newer === undefined ? null : readReceiverRecord(store, id, newer);
}

async function moveOf(
  store: ObjectStore,
  { id, name, manifest, problem }: MachineSummary,
  view: FleetView,
  problems: string[],
): Promise<Move[]> {
  if (problem !== null) problems.push(`machine ${name}: ${problem}`);
  if (manifest === null) return [];
  const recovery = await loadRecovery(store, id).catch((error: unknown) => {
    problems.push(`machine ${name}: ${String(error)}`);
    return null;
  });
  const { receiver, reason } = placementOf(id, boundTo(recovery), view);
  if (receiver === null || receiver.id === manifest.owner?.receiver) return [];
  const from = manifest.owner?.name ?? null;
  const owner = view.members.find((member) => member.id === manifest.owner?.receiver);
  const why = owner?.liveness === 'gone' ? `${owner.name} is gone; ${reason}` : reason;
  return [{ machine: id, name, from, to: receiver.name, reason: why }];
}
