/**
 * Where a machine belongs, and what follows for its agent and its upkeep. Pure; every answer has its reason.
 *
 * A machine that runs here as a copy, or has a job, belongs to the receiver that has the copy or the job: the agent of its home must be there to
 * be ordered home. All others belong where the hash puts them among the receivers that live; machines of a group where it puts the group, since only the
 * receiver that has the agents of all can have them cut together.
 */
import { HANDOVER_BACK_MS, HANDOVER_PAUSE_MS, REDIRECTS_MAX } from '../../shared/limits-fleet.js';
import type { MachineId } from '../../shared/units.js';
import type { Manifest } from '../catalog/manifest.js';
import type { Recovery } from '../catalog/recovery.js';
import type { Liveness, Return } from './roster.js';
import { wantedOwner } from './wanted.js';

export interface FleetMember {
  readonly id: string;
  readonly name: string;
  readonly addresses: readonly string[];
  readonly weight: number;
  readonly liveness: Liveness;
  /** Its last return, where one was seen from here. */
  readonly back?: Return | undefined;
}

export interface FleetView {
  /** Our own id; we are among the members, live. Null: an onlooker's view. */
  readonly self: string | null;
  readonly members: readonly FleetMember[];
  /** Whether the others were watched for long enough to call one gone. */
  readonly isSettled: boolean;
  /** So long it takes until all receivers have noticed the same. */
  readonly settleMs: number;
  /** Machines of a group belong together: of each, the group's id. Absent: none is in a group. */
  readonly together?: ReadonlyMap<MachineId, string>;
}

export interface Placement {
  /** Null when nobody lives. */
  readonly receiver: FleetMember | null;
  readonly reason: string;
}

/** Jobs that home has no part in: a copy on the side, which touches neither the chain nor home. */
const BESIDE_HOME: readonly string[] = ['test-failover', 'cleanup'];

/** The receiver that has the machine's copy, or a job that home may have a part in; null when there is neither. */
export function boundTo(recovery: Pick<Recovery, 'job' | 'failover'> | null): string | null {
  const job = recovery?.job ?? null;
  if (job !== null && !BESIDE_HOME.includes(job.operation)) return job.receiver;
  return recovery?.failover?.receiver ?? null;
}

export function placementOf(machine: MachineId, bound: string | null, view: FleetView): Placement {
  const binding = bound === null ? undefined : view.members.find((member) => member.id === bound);
  if (binding !== undefined && binding.liveness !== 'gone')
    return { receiver: binding, reason: `${binding.name} has its copy or its job` };
  const live = view.members.filter((member) => member.liveness === 'live');
  const id = wantedOwner(view.together?.get(machine) ?? machine, live);
  const receiver = live.find((member) => member.id === id) ?? null;
  if (receiver === null) return { receiver, reason: 'no receiver lives' };
  if (bound !== null) return { receiver, reason: `the receiver that has its copy or its job (${bound}) is gone` };
  return {
    receiver,
    reason: live.length === 1 ? 'the only receiver that lives' : `its share of ${live.length} receivers`,
  };
}

/** What an agent says of the way by which it came. */
export interface RouteSoFar {
  /** Redirects that it followed since it was last taken or refused. */
  readonly redirects: number;
  /** Receivers that it could not reach. */
  readonly unreachable: readonly string[];
}

export const NO_ROUTE: RouteSoFar = { redirects: 0, unreachable: [] };

/** An agent was taken although it belongs to another receiver, and is left alone for a while: it can't get there, or receivers did not agree yet. */
export interface Stranded {
  readonly from: string;
  readonly pauseMs: number;
}

/**
 * What an agent could not reach was another life of that receiver: when it may be sent there all the same. Null: it has not come back since. What an agent
 * says of its way may be a little older than its session.
 */
export function mayReturnAtMs({ back }: FleetMember, sinceMs: number): number | null {
  if (back === undefined || back.atMs <= sinceMs - HANDOVER_BACK_MS) return null;
  return back.atMs + Math.min(HANDOVER_PAUSE_MS, HANDOVER_BACK_MS * 2 ** (back.recent - 1));
}

export type Direction =
  | {
      readonly to: 'here';
      readonly reason: string;
      readonly stranded: Stranded | null;
    }
  | { readonly to: 'elsewhere'; readonly receiver: FleetMember; readonly reason: string };

/** Whether an agent that has come here stays. An agent can't go in circles: after REDIRECTS_MAX it is taken by whoever it has reached. */
export function directionOf({ receiver, reason }: Placement, view: FleetView, route: RouteSoFar): Direction {
  if (receiver === null || receiver.id === view.self) return { to: 'here', reason, stranded: null };
  // Not seen to move yet: it may be long gone.
  if (receiver.liveness !== 'live')
    return { to: 'here', reason: `${receiver.name} has not shown that it lives`, stranded: null };
  if (route.unreachable.includes(receiver.id))
    return {
      to: 'here',
      reason: `the agent can not reach ${receiver.name}`,
      stranded: { from: receiver.id, pauseMs: HANDOVER_PAUSE_MS },
    };
  if (route.redirects >= REDIRECTS_MAX)
    return {
      to: 'here',
      reason: `the agent was redirected ${route.redirects} times`,
      stranded: { from: receiver.id, pauseMs: view.settleMs },
    };
  return { to: 'elsewhere', receiver, reason };
}

export interface Claim {
  readonly ours: boolean;
  readonly reason: string;
}

/**
 * Whether this receiver does the upkeep of a machine that has no session here. Who owned it last goes on, if it lives: it may be replicating, or
 * the agent may come back to it. Only a hint against work done twice: two that both think so fence each other by the epoch.
 */
export function claimOf(
  machine: MachineId,
  manifest: Pick<Manifest, 'owner'> | null,
  recovery: Pick<Recovery, 'job' | 'failover'> | null,
  view: FleetView,
): Claim {
  const bound = boundTo(recovery);
  const holder = bound ?? manifest?.owner?.receiver ?? null;
  if (holder === view.self && holder !== null) return { ours: true, reason: 'this receiver had it last' };
  if (!view.isSettled) return { ours: false, reason: 'the other receivers were not watched for long enough yet' };
  const other = view.members.find((member) => member.id === holder);
  if (other !== undefined && other.liveness !== 'gone')
    return { ours: false, reason: `${other.name} has it and lives` };
  const { receiver, reason } = placementOf(machine, bound, view);
  return { ours: receiver !== null && receiver.id === view.self, reason };
}
