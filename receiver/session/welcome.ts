/**
 * The beginning of a session: decides whether the agent may write, takes the machine over, and says for each disk what has to be sent.
 */
import { geometryOf } from '../../shared/blocks/geometry.js';
import { messageOf } from '../../shared/errors.js';
import { STORE_FREE_BYTES_MIN, WINDOW_BYTES } from '../../shared/limits.js';
import { formatBytes } from '../../shared/units.js';
import { CLOSE, type CloseReason } from '../../shared/wire/close-codes.js';
import {
  PROTOCOL_VERSION,
  protocolError,
  type Hello,
  type HelloDisk,
  type Welcome,
} from '../../shared/wire/messages.js';
import type { DiskEntry, LayerRef, MachineIdentity, Manifest } from '../catalog/manifest.js';
import { readHighestManifest, writeLayerList } from '../catalog/manifest-io.js';
import { layerListName } from '../catalog/names.js';
import type { Recovery } from '../catalog/recovery.js';
import { loadRecovery } from '../catalog/recovery-io.js';
import { OwnedMachine, type CatalogDeps, type ManifestContent } from '../catalog/owned-machine.js';
import type { ObjectStore } from '../store/store.js';
import { diskEntryAtHello } from '../catalog/commit-content.js';
import { DiskIngest } from './disk-ingest.js';
import { keysOf } from '../catalog/store-keys.js';
import { keepStaged } from './staging.js';
import { NO_ROUTE, type Direction, type FleetMember, type Stranded } from '../fleet/placement.js';
import type { Fleet } from '../fleet/fleet.js';
import { diskVerdict, type DiskVerdict } from './verdict.js';

export interface Refusal {
  readonly refused: CloseReason;
  readonly reason: string;
}

/** Another receiver is to take the machine; nothing was taken over, nothing was written. */
export interface Elsewhere {
  readonly elsewhere: FleetMember;
  readonly reason: string;
}

/** The agent may pull points and commits nothing: nothing was taken over, nothing was written. */
export interface RestoreWelcome {
  readonly restore: Welcome;
  readonly stranded: Stranded | null;
}

/** What an agent that is let in may do. */
export interface Admission {
  readonly mode: Welcome['mode'];
  /** Its generation from now on. */
  readonly generation: number;
  readonly holdWorkload: boolean;
}

export interface OpenedSession {
  readonly owned: OwnedMachine;
  readonly disks: DiskIngest[];
  readonly welcome: Welcome;
  readonly stranded: Stranded | null;
  /** Id of the receiver that had the machine before; null: none, or unknown. */
  readonly from: string | null;
}

interface DiskDecision extends DiskVerdict {
  readonly disk: HelloDisk;
  readonly entry: DiskEntry | null;
  readonly staged: LayerRef[];
}

export interface WelcomeDeps extends CatalogDeps {
  readonly program: string;
  /** Absent: this receiver is alone on its store. */
  readonly fleet?: Pick<Fleet, 'direction'> | undefined;
}

/**
 * Whether this agent is let in for this machine, and what it may do. Pure. Hardware comes before all that could let it in: a copy of the machine that
 * runs with the agent's own keys inside is never granted anything, whatever failover says of its original.
 */
export function admit(
  hello: Hello,
  identity: MachineIdentity,
  manifest: Manifest | null,
  recovery: Recovery | null,
): Admission | Refusal {
  if (hello.protocol !== PROTOCOL_VERSION) {
    return {
      refused: CLOSE.version,
      reason: `agent speaks protocol ${hello.protocol}, this receiver ${PROTOCOL_VERSION}`,
    };
  }
  if (hello.machine !== identity.machine) {
    return {
      refused: CLOSE.badCertificate,
      reason: `certificate of machine ${identity.machine}, hello of ${hello.machine}`,
    };
  }
  if (hello.hardwareId !== identity.hardwareId) {
    return {
      refused: CLOSE.clone,
      reason: `this identity was enrolled on other hardware (${identity.hardwareId.slice(0, 12)}…), this is ${hello.hardwareId.slice(0, 12)}…`,
    };
  }
  const home = recovery?.home ?? null;
  if (home?.mode === 'refused') return { refused: CLOSE.failedOver, reason: home.reason };
  // The right to write is given when the machine is home again, not before.
  if (home?.mode === 'restore') return { mode: 'restore', generation: hello.generation, holdWorkload: true };
  const holdWorkload = isSourceHeld(recovery?.job ?? null);
  const generation = Math.max(identity.generation, manifest?.generation ?? 0);
  if (hello.generation >= generation) return { mode: 'replicate', generation: hello.generation, holdWorkload };
  // Granted only when what failover decided is what the manifest says: in between, one of the two is not written yet.
  if (home !== null && home.generation === generation && manifest?.generation === generation) {
    return { mode: 'replicate', generation, holdWorkload };
  }
  return {
    refused: CLOSE.failedOver,
    reason: `agent has generation ${hello.generation}, the machine is at ${generation}`,
  };
}

/**
 * A failover that has shut the workload down, or is about to: it stays down while that goes on. Not when it is put back, and never for a failback,
 * which begins in the same state: an agent held by one would stay so, since nobody tells it when the job has ended.
 */
function isSourceHeld(job: Recovery['job']): boolean {
  if (job === null || job.data['phase'] === 'undo') return false;
  return job.operation === 'planned-failover' || (job.operation === 'failover' && job.data['sourceDown'] === true);
}

export async function openSession(
  deps: WelcomeDeps,
  identity: MachineIdentity,
  hello: Hello,
): Promise<OpenedSession | RestoreWelcome | Elsewhere | Refusal> {
  const before = await readHighestManifest(deps.store, identity.machine);
  const recovery = await loadRecovery(deps.store, identity.machine);
  const admission = admit(hello, identity, before, recovery);
  // Who is refused is refused everywhere.
  if ('refused' in admission) return admission;
  const direction = directionFor(deps, hello, recovery);
  if (direction.to === 'elsewhere') return { elsewhere: direction.receiver, reason: direction.reason };
  const { stranded } = direction;
  checkDisks(hello);
  if (admission.mode === 'restore') return { restore: restoreWelcome(deps.program, hello, before), stranded };
  const full = await storeRefusal(deps.store);
  if (full !== null) return full;
  await keysOf(deps.store).beginWriting(identity.machine, hello.encryption ?? null);
  const first = await decideDisks(deps.store, hello, before);
  if ('refused' in first) return first;
  let decisions = first;
  let granted: Admission = admission;
  let from: string | null = null;
  const owned = await OwnedMachine.takeOver(deps, identity.machine, async (previous, epoch, nextSequence) => {
    // Another receiver may have changed the truth in between (a commit, a failover): what counts is the one that is taken over.
    const again = admit(hello, identity, previous, await loadRecovery(deps.store, identity.machine));
    if ('refused' in again) throw new RefusedMeanwhile(again);
    if (again.mode !== 'replicate') {
      throw new RefusedMeanwhile({ refused: CLOSE.failedOver, reason: 'the machine was failed over just now' });
    }
    const decided = await decideDisks(deps.store, hello, previous);
    if ('refused' in decided) throw new RefusedMeanwhile(decided);
    granted = again;
    from = previous?.owner?.receiver ?? null;
    decisions = decided;
    return contentAtHello(deps.store, identity, hello, previous, decisions, epoch, nextSequence);
  }).catch((error: unknown) => {
    if (error instanceof RefusedMeanwhile) return error.refusal;
    throw error;
  });
  if ('refused' in owned) return owned;
  return {
    owned,
    disks: decisions.map(
      ({ disk, staged }) =>
        new DiskIngest(
          { store: deps.store, owned, machine: identity.machine, hashCheck: hello.encryption?.hashCheck ?? '' },
          disk.id,
          geometryOf(disk.sizeBytes, disk.blockBytes),
          disk.series,
          [...staged],
        ),
    ),
    welcome: welcomeOf(deps.program, granted, owned.manifest, decisions),
    stranded,
    from,
  };
}

function directionFor({ fleet }: WelcomeDeps, hello: Hello, recovery: Recovery | null): Direction {
  if (fleet === undefined) return { to: 'here', reason: 'the only receiver', stranded: null };
  return fleet.direction(hello.machine, recovery, hello.route ?? NO_ROUTE);
}

class RefusedMeanwhile extends Error {
  constructor(readonly refusal: Refusal) {
    super(refusal.reason);
  }
}

/** A takeover writes a manifest: an agent that comes again and again must not eat the space that is left for commits. */
async function storeRefusal(store: ObjectStore): Promise<Refusal | null> {
  const free = await store.freeBytes();
  if (free === null || free >= STORE_FREE_BYTES_MIN) return null;
  return { refused: CLOSE.storeFull, reason: `store ${store.url} has ${formatBytes(free)} left` };
}

/** What a hello says of its disks beyond the schema. */
function checkDisks(hello: Hello): void {
  for (const disk of hello.disks) {
    if (hello.disks.some((other) => other !== disk && other.id === disk.id))
      throw protocolError(`disk ${disk.id} stands twice in hello`);
    try {
      geometryOf(disk.sizeBytes, disk.blockBytes);
    } catch (error) {
      throw protocolError(`disk ${disk.id}: ${messageOf(error)}`);
    }
  }
}

async function decideDisks(
  store: ObjectStore,
  hello: Hello,
  manifest: Manifest | null,
): Promise<DiskDecision[] | Refusal> {
  const lastCycle = manifest?.tail.points.at(-1)?.cycle ?? null;
  const inDoubtCommitted = hello.inDoubtCycle !== null && hello.inDoubtCycle === lastCycle;
  const decisions: DiskDecision[] = [];
  for (const said of hello.disks) {
    const entry = manifest?.disks.find((d) => d.id === said.id) ?? null;
    const heldByPoint = inDoubtCommitted && entry !== null && entry.lastPoint === manifest?.lastPoint;
    // What was staged before a commit that succeeded is part of its point now.
    const disk = heldByPoint ? { ...said, sweep: null } : said;
    const wanted = disk.sweep?.stagedLayers ?? 0;
    const staged =
      manifest === null || entry === null
        ? wanted === 0
          ? []
          : null
        : await keepStaged(store, manifest, entry, wanted);
    const verdict = diskVerdict({
      disk,
      entry,
      stagedLayers: staged?.length ?? null,
      inDoubtCommitted: heldByPoint,
      hashCheck: hello.encryption?.hashCheck ?? '',
    });
    if ('refused' in verdict) return { refused: CLOSE.unrelated, reason: verdict.reason };
    // A first copy that starts again begins with nothing; a comparison may start again on top of what is staged.
    // An agent whose state is older than the last point forgets what it had staged; so must we, or the counts of both sides would differ.
    const forgets =
      verdict.verdict === 'full' || (entry !== null && !heldByPoint && disk.committedPoint < entry.lastPoint);
    const kept = forgets ? [] : (staged ?? []);
    decisions.push({ ...verdict, disk, entry, staged: kept });
  }
  return decisions;
}

async function contentAtHello(
  store: ObjectStore,
  identity: MachineIdentity,
  hello: Hello,
  previous: Manifest | null,
  decisions: readonly DiskDecision[],
  epoch: number,
  nextSequence: () => number,
): Promise<ManifestContent> {
  const entries: DiskEntry[] = [];
  for (const { disk, entry, staged } of decisions) {
    const list =
      staged.length === 0
        ? null
        : await writeLayerList(store, layerListName(identity.machine, disk.id, epoch, nextSequence()), staged);
    entries.push(diskEntryAtHello(entry, disk, list));
  }
  // Disks that the agent no longer protects keep their points.
  const others = (previous?.disks ?? []).filter((d) => !entries.some((e) => e.id === d.id));
  return {
    generation: Math.max(identity.generation, previous?.generation ?? 0, 1),
    machine: { id: identity.machine, name: identity.name, description: hello.description },
    lastPoint: previous?.lastPoint ?? 0,
    disks: [...others.map((d) => ({ ...d, staged: null })), ...entries],
    pages: previous?.pages ?? [],
    tail: previous?.tail ?? { points: [], deltas: [] },
  };
}

function restoreWelcome(program: string, hello: Hello, manifest: Manifest | null): Welcome {
  return {
    type: 'welcome',
    protocol: PROTOCOL_VERSION,
    program,
    mode: 'restore',
    generation: hello.generation,
    holdWorkload: true,
    epoch: manifest?.epoch ?? 0,
    windowBytes: WINDOW_BYTES,
    lastPoint: manifest?.lastPoint ?? 0,
    lastCycle: null,
    disks: [],
  };
}

function welcomeOf(
  program: string,
  { mode, generation, holdWorkload }: Admission,
  manifest: Manifest,
  decisions: readonly DiskDecision[],
): Welcome {
  const last = manifest.tail.points.at(-1);
  return {
    type: 'welcome',
    protocol: PROTOCOL_VERSION,
    program,
    mode,
    generation,
    holdWorkload,
    epoch: manifest.epoch,
    windowBytes: WINDOW_BYTES,
    lastPoint: manifest.lastPoint,
    lastCycle: last?.cycle ?? null,
    disks: decisions.map(({ disk, entry, verdict, reason, staged }) => ({
      disk: disk.id,
      verdict,
      reason,
      committedPoint: entry?.lastPoint ?? 0,
      digest:
        manifest.tail.points.findLast((p) => p.number === entry?.lastPoint)?.disks.find((d) => d.disk === disk.id)
          ?.digest ?? null,
      stagedLayers: staged.length,
    })),
  };
}
