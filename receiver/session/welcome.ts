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
import { OwnedMachine, type CatalogDeps, type ManifestContent } from '../catalog/owned-machine.js';
import type { ObjectStore } from '../store/store.js';
import { diskEntryAtHello } from '../catalog/commit-content.js';
import { DiskIngest } from './disk-ingest.js';
import { keepStaged } from './staging.js';
import { diskVerdict, type DiskVerdict } from './verdict.js';

export interface Refusal {
  readonly refused: CloseReason;
  readonly reason: string;
}

export interface OpenedSession {
  readonly owned: OwnedMachine;
  readonly disks: DiskIngest[];
  readonly welcome: Welcome;
}

interface DiskDecision extends DiskVerdict {
  readonly disk: HelloDisk;
  readonly entry: DiskEntry | null;
  readonly staged: LayerRef[];
}

export interface WelcomeDeps extends CatalogDeps {
  readonly program: string;
}

/** Whether this agent may write for this machine at all. Pure. */
export function machineRefusal(hello: Hello, identity: MachineIdentity, manifest: Manifest | null): Refusal | null {
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
  const generation = Math.max(identity.generation, manifest?.generation ?? 0);
  if (hello.generation < generation) {
    return {
      refused: CLOSE.failedOver,
      reason: `agent has generation ${hello.generation}, the machine is at ${generation}`,
    };
  }
  if (hello.hardwareId !== identity.hardwareId) {
    return {
      refused: CLOSE.clone,
      reason: `this identity was enrolled on other hardware (${identity.hardwareId.slice(0, 12)}…), this is ${hello.hardwareId.slice(0, 12)}…`,
    };
  }
  return null;
}

export async function openSession(
  deps: WelcomeDeps,
  identity: MachineIdentity,
  hello: Hello,
): Promise<OpenedSession | Refusal> {
  const before = await readHighestManifest(deps.store, identity.machine);
  const refusal = machineRefusal(hello, identity, before) ?? (await storeRefusal(deps.store));
  if (refusal !== null) return refusal;
  checkDisks(hello);
  const first = await decideDisks(deps.store, hello, before);
  if ('refused' in first) return first;
  let decisions = first;
  const owned = await OwnedMachine.takeOver(deps, identity.machine, async (previous, epoch, nextSequence) => {
    // Another receiver may have changed the truth in between (a commit, a failover): what counts is the one that is taken over.
    const again = machineRefusal(hello, identity, previous) ?? (await decideDisks(deps.store, hello, previous));
    if ('refused' in again) throw new RefusedMeanwhile(again);
    decisions = again;
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
          { store: deps.store, owned, machine: identity.machine },
          disk.id,
          geometryOf(disk.sizeBytes, disk.blockBytes),
          disk.series,
          [...staged],
        ),
    ),
    welcome: welcomeOf(deps.program, owned.manifest, decisions),
  };
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
    const verdict = diskVerdict({ disk, entry, stagedLayers: staged?.length ?? null, inDoubtCommitted: heldByPoint });
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

function welcomeOf(program: string, manifest: Manifest, decisions: readonly DiskDecision[]): Welcome {
  const last = manifest.tail.points.at(-1);
  return {
    type: 'welcome',
    protocol: PROTOCOL_VERSION,
    program,
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
