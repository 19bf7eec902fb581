/**
 * Proves sampled points from end to end, as `afterimage verify` does: every block that the point needs against its hash, their sum against the digest. Finds what
 * the stored bytes can't tell: a layer that the catalog forgot, a block that was wrong before it was stored. The newest whole point is always in
 * the sample, the others are drawn.
 */
import { AfterimageError, messageOf } from '../../shared/errors.js';
import type { MachineId } from '../../shared/units.js';
import { damageOf, type DamageItem, type Finding } from '../catalog/damage.js';
import { loadDamage } from '../catalog/damage-io.js';
import type { Manifest, RecoveryPoint } from '../catalog/manifest.js';
import { manifestName } from '../catalog/names.js';
import { MachineReader, type PointDisk } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import { IndexCache } from '../volume/index-cache.js';
import { LayerReader } from '../volume/layer-reader.js';
import { planPoint } from '../volume/plan-point.js';
import { ChunkLedger, verifyDisk } from '../volume/verify.js';
import { concernOfLayer, isCorrupt } from './scrub-concern.js';
import { badExtents, checkLayer } from './scrub-layer.js';
import type { Pace } from './scrub-pace.js';

export interface ProofDeps {
  readonly store: ObjectStore;
  readonly pace: Pace;
  readonly signal: AbortSignal;
  /** In [0, 1). */
  readonly random: () => number;
}

export interface ProofResult {
  readonly proven: readonly number[];
  readonly findings: readonly Finding[];
}

/** `others`: how many points besides the newest are drawn. */
export async function provePoints(deps: ProofDeps, machine: MachineId, others: number): Promise<ProofResult> {
  const store = pacedReads(deps.store, deps.pace);
  const view = await MachineReader.open(store, machine);
  const { items } = (await loadDamage(deps.store, machine)) ?? { items: [] };
  const proven: number[] = [];
  const findings: Finding[] = [];
  const ledgers = new Map<string, ChunkLedger>();
  for (const point of await sample(view, items, others, deps.random)) {
    let isWhole = true;
    for (const disk of point.disks) {
      const ledger = ledgers.get(disk.disk) ?? new ChunkLedger();
      ledgers.set(disk.disk, ledger);
      const found = await proveDisk({ ...deps, store }, view, point, disk, ledger);
      findings.push(...found);
      isWhole &&= found.length === 0;
    }
    if (isWhole) proven.push(point.number);
  }
  return { proven, findings };
}

/** Points that are known to be damaged have nothing to prove. */
async function sample(
  view: MachineReader,
  damage: readonly DamageItem[],
  others: number,
  random: () => number,
): Promise<RecoveryPoint[]> {
  const all: RecoveryPoint[] = [];
  for await (const point of view.pointsNewestFirst()) if (damageOf(damage, point.number) === undefined) all.push(point);
  const chosen = all.splice(0, 1);
  while (chosen.length <= others && all.length > 0) chosen.push(...all.splice(Math.floor(random() * all.length), 1));
  return chosen;
}

async function proveDisk(
  deps: ProofDeps,
  view: MachineReader,
  point: RecoveryPoint,
  disk: PointDisk,
  ledger: ChunkLedger,
): Promise<Finding[]> {
  const { manifest } = view;
  const owner = { machine: manifest.machine.id, disk: disk.disk, blockBytes: disk.blockBytes };
  const reader = new LayerReader(deps.store, owner, new IndexCache());
  try {
    const plan = await planPoint(reader, disk, await view.layersFor(disk.disk, point.number), deps.signal);
    await verifyDisk({ reader, plan, point: point.number, disk, ledger, signal: deps.signal });
    return [];
  } catch (error) {
    if (!isCorrupt(error)) throw error;
    const layers = await badLayers(deps, view, point, disk);
    if (layers.length > 0) return layers;
    const { code } = error as AfterimageError;
    return [pointFinding(manifest, point, disk, code, messageOf(error))];
  }
}

/** Which of the point's layers are bad: blocks that don't match their hashes included. */
async function badLayers(
  { store, pace, signal }: ProofDeps,
  view: MachineReader,
  point: RecoveryPoint,
  disk: PointDisk,
): Promise<Finding[]> {
  const { manifest } = view;
  const owner = { machine: manifest.machine.id, disk: disk.disk, blockBytes: disk.blockBytes };
  const { bases, deltas } = await view.layersFor(disk.disk, point.number);
  const findings: Finding[] = [];
  for (const layer of [...bases, ...deltas]) {
    await pace(0);
    if (signal.aborted) break;
    const report = await checkLayer({ store, owner, layer, plain: true });
    const [first] = report.problems;
    if (first === undefined) continue;
    const extents = badExtents(report);
    const { points } = await concernOfLayer(store, manifest, { disk: disk.disk, layer, extents });
    findings.push({ kind: 'layer', object: report.name, ...first, disk: disk.disk, layer, extents, points });
  }
  return findings;
}

function pointFinding(manifest: Manifest, point: RecoveryPoint, disk: PointDisk, code: string, what: string): Finding {
  const page = manifest.pages.find((p) => p.firstPoint <= point.number && point.number <= p.lastPoint);
  const { number, cutAtMs } = point;
  return {
    kind: 'point',
    object: page?.name ?? manifestName(manifest.machine.id, manifest.number),
    code,
    what,
    disk: disk.disk,
    layer: null,
    extents: null,
    points: [{ first: number, last: number, firstCutAtMs: cutAtMs, lastCutAtMs: cutAtMs }],
  };
}

/** The same store, whose reads keep to a rate. */
function pacedReads(store: ObjectStore, pace: Pace): ObjectStore {
  const read: ObjectStore['read'] = async (name, offset, lengthBytes, room) => {
    await pace(lengthBytes);
    return store.read(name, offset, lengthBytes, room);
  };
  return new Proxy(store, {
    get(target, key): unknown {
      if (key === 'read') return read;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
}
