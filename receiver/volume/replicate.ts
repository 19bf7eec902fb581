/**
 * Replicates a running copy of a machine: commits recovery points from its writable volumes to the machine's chain, with no agent.
 *
 * Promises: each point holds what all volumes held at one instant, and restores to exactly that. Changes are never lost: a cycle that fails, or
 * whose answer was lost, gives its cut back, and the next one finds them again. Whoever is fenced commits nothing more and says so. Where the chain is
 * damaged, so that what was there before can't be told, a copy that has all of itself is compared as a whole, and sends what can't be told.
 * Memory is bounded: two batches and a chunk at a time, and hashes up to REPLICATED_HASHES_MAX (see old-hashes.ts).
 * On a crash: the chain is whole; the volumes say after the restart what may have changed, and what didn't is found by hash and not sent.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import { digestFromText, digestToText } from '../../shared/blocks/hash.js';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, corrupt, messageOf } from '../../shared/errors.js';
import { failpoint } from '../../shared/failpoints.js';
import {
  COMPARE_WHOLE_AGAIN_MS,
  IDLE_POINT_INTERVAL_MS,
  REPLICATED_HASHES_MAX,
  REPLICATION_RETRY_MAX_MS,
  REPLICATION_RETRY_MIN_MS,
} from '../../shared/limits.js';
import { plainHasher } from '../../shared/crypto/block-hasher.js';
import type { Logger } from '../../shared/log.js';
import type { DiskId } from '../../shared/units.js';
import { InTurn } from '../../shared/in-turn.js';
import { contentAfterCommit, type DiskLayers } from '../catalog/commit-content.js';
import type { RecoveryPoint } from '../catalog/manifest.js';
import type { OwnedMachine } from '../catalog/owned-machine.js';
import type { PointDisk } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import type { PointContent } from './content.js';
import type { CutSource } from './cut.js';
import { cutAll, type MachineCut } from './cut-all.js';
import { OldHashes } from './old-hashes.js';
import { cancelled } from './plan-point.js';
import { checkVolumes } from './replicated-volumes.js';
import { keysOf } from '../catalog/store-keys.js';
import { OldUnknown, storeCut, type DiskCipher, type StoredCut } from './volume-cycle.js';

const REASON_LENGTH_MAX = 500;

export interface ReplicatedVolume {
  readonly source: CutSource;
  /** The disk where its chain ends when the replicator is made: at the newest point, or at the last that has it. Null: it can't be read. */
  readonly reference: PointContent | null;
  /** Its entry there; needed where the newest point lacks the disk. */
  readonly end?: PointDisk;
  /** The disk at a point that was committed since: asked for when more has changed than is kept in memory. */
  readonly reopenReference: (point: number) => Promise<PointContent>;
  /** For people. */
  readonly device: string;
}

export interface ReplicatorDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly randomId: () => string;
  readonly log: Logger;
}

export interface ReplicatorOptions {
  readonly owned: OwnedMachine;
  /** All disks of the newest point; also those that it lacks, where the copy has them. */
  readonly volumes: readonly ReplicatedVolume[];
  readonly intervalMs: number;
  /** Stands in each point that run() commits. */
  readonly reason: string;
  /** Blocks whose hashes are kept, for all volumes together. */
  readonly hashesMax?: number;
}

export interface ReplicatorStatus {
  readonly lastPoint: number;
  /** Wall time of its cut. */
  readonly lastPointAtMs: number;
  /** Written since the last point's cut: what would be lost now. */
  readonly pendingBytes: number;
  /** Why the last cycle failed; null when it didn't. */
  readonly problem: string | null;
  /** Since the replicator was made: points, what they take in the store, blocks that differed, blocks that had to be read. */
  readonly points: number;
  readonly storedBytes: number;
  readonly sentBlocks: number;
  readonly readBlocks: number;
  /** Of the last point: how long writes waited for its cut, and from the cut to the commit. */
  readonly heldMs: number;
  readonly cycleMs: number;
}

interface Volume {
  readonly source: CutSource;
  readonly old: OldHashes;
  readonly end: PointDisk | undefined;
  digest: bigint;
  /** The next cycle is about all of the disk. */
  isWhole: boolean;
  /** When the last such cycle was committed. */
  comparedAtMs: number;
  /** To be in the next point's own layers. */
  again: BlockSet;
}

/** A point that is committed, or may be. */
interface Commit {
  readonly point: RecoveryPoint;
  readonly digests: readonly bigint[];
  readonly sentBlocks: number;
  readonly readBlocks: number;
  readonly cycleMs: number;
}

const isFenced = (error: unknown): error is AfterimageError =>
  error instanceof AfterimageError && error.kind === 'fenced';

export class VolumeReplicator {
  readonly #deps: ReplicatorDeps;
  readonly #options: ReplicatorOptions;
  readonly #volumes: readonly Volume[];
  #log: Logger;
  #point: RecoveryPoint;
  /** The cycle under way, and those that wait for it. Never rejects. */
  readonly #turns = new InTurn();
  #cut: MachineCut | null = null;
  /** A commit that ended in an error: it may stand all the same. */
  #inDoubt: Commit | null = null;
  #fenced: AfterimageError | null = null;
  #committedAtMonotonicMs: number;
  #totals = { points: 0, storedBytes: 0, sentBlocks: 0, readBlocks: 0, heldMs: 0, cycleMs: 0 };
  #problem: string | null = null;

  /** Throws kind `refused` unless the volumes are the disks of the newest point, and of those that it lacks. */
  constructor(deps: ReplicatorDeps, options: ReplicatorOptions) {
    const { owned, volumes, hashesMax = REPLICATED_HASHES_MAX } = options;
    this.#deps = deps;
    this.#options = options;
    this.#point = checkVolumes(owned.manifest, volumes);
    const entriesMax = Math.floor(hashesMax / volumes.length);
    this.#volumes = volumes.map((volume) => ({
      source: volume.source,
      old: new OldHashes(volume.reference, volume.reopenReference, entriesMax),
      end: volume.end,
      digest: digestFromText((this.#entryOf(volume.source.disk) ?? volume.end)?.digest ?? ''),
      isWhole: false,
      comparedAtMs: -Infinity,
      again: new BlockSet(),
    }));
    this.#committedAtMonotonicMs = deps.clock.monotonicMs();
    const { id, name } = owned.manifest.machine;
    this.#log = deps.log.child({ machine: id, name, epoch: owned.epoch });
  }

  get status(): ReplicatorStatus {
    let pendingBytes = 0;
    for (const [i, { source }] of this.#volumes.entries()) {
      const blocks = source.changedBlocks + (this.#cut?.cuts[i]?.changed.size ?? 0);
      pendingBytes += blocks * source.geometry.blockBytes;
    }
    const { number, cutAtMs } = this.#point;
    return { lastPoint: number, lastPointAtMs: cutAtMs, pendingBytes, problem: this.#problem, ...this.#totals };
  }

  /**
   * Commits points at the interval while something changes, and seldom otherwise, until aborted; a cycle that is under way then is given up unless
   * its commit has begun. Rejects with kind `fenced` when another has taken the machine over.
   */
  async run(signal: AbortSignal): Promise<void> {
    const { clock } = this.#deps;
    const { intervalMs, reason } = this.#options;
    let failures = 0;
    while (!signal.aborted) {
      const startedMs = clock.monotonicMs();
      try {
        const isIdle = startedMs - this.#committedAtMonotonicMs >= IDLE_POINT_INTERVAL_MS;
        await this.#inTurn(() => this.#cycle(reason, isIdle, signal));
        failures = 0;
      } catch (error) {
        if (isFenced(error)) throw error;
        // Cancelled by the signal, or failed when nobody wants to go on: status has the reason, the changes are still there.
        if (signal.aborted) return;
        failures++;
        this.#log.warn({ err: error, failures }, `a point of the running copy failed: ${messageOf(error)}`);
      }
      const elapsedMs = clock.monotonicMs() - startedMs;
      await clock.sleep(failures === 0 ? Math.max(0, intervalMs - elapsedMs) : retryMs(failures), signal);
    }
  }

  /**
   * A point of now: resolves to it, or to the newest when nothing was written since and `evenIfUnchanged` isn't set. Rejects when it can't be had;
   * changes are kept for the next. Safe beside run().
   */
  pointNow(
    reason = this.#options.reason,
    evenIfUnchanged = false,
    signal = new AbortController().signal,
  ): Promise<RecoveryPoint> {
    return this.#inTurn(() => this.#cycle(reason, evenIfUnchanged, signal));
  }

  /**
   * A point that has these blocks in its own layers, since what the chain has of them is damaged. Throws code `copy-lacks-blocks`, and changes nothing,
   * when not all of them can be read here without it.
   */
  resend(
    disk: DiskId,
    extents: readonly (readonly [number, number])[],
    signal = new AbortController().signal,
  ): Promise<RecoveryPoint> {
    return this.#inTurn(async () => {
      // A commit in doubt that turns out to stand is of the cycle before, and has none of these.
      await this.#settle();
      const volume = this.#volumes.find(({ source }) => source.disk === disk);
      if (volume === undefined) throw new Error(`the copy has no disk ${disk}`);
      const wanted = new BlockSet();
      for (const [first, count] of extents) wanted.addRange(first, count);
      const held = volume.source.held(wanted);
      if (held.size < wanted.size) throw lacksBlocks(disk, wanted.size, held.size);
      volume.again.addAll(wanted);
      volume.source.markChanged(wanted);
      return this.#cycle('damaged blocks sent once more', true, signal);
    });
  }

  /** One cycle after the other; keeps what status shows of failures. */
  #inTurn(cycle: () => Promise<RecoveryPoint>): Promise<RecoveryPoint> {
    return this.#turns.run(async () => {
      if (this.#fenced !== null) throw this.#fenced;
      try {
        const point = await cycle();
        this.#problem = null;
        return point;
      } catch (error) {
        if (isFenced(error)) this.#fenced = error;
        if (!(error instanceof AfterimageError && error.kind === 'cancelled')) this.#problem = messageOf(error);
        throw error;
      }
    });
  }

  async #cycle(reason: string, evenIfUnchanged: boolean, signal: AbortSignal): Promise<RecoveryPoint> {
    await this.#settle();
    const { owned } = this.#options;
    if (!evenIfUnchanged && this.#volumes.every((v) => v.source.changedBlocks === 0)) return this.#point;
    for (;;) {
      for (const volume of this.#volumes) await volume.old.prepare(owned.manifest.lastPoint);
      if (signal.aborted) throw cancelled('a cycle of replication');
      try {
        return await this.#cutAndCommit(reason, signal);
      } catch (error) {
        if (!(error instanceof OldUnknown)) throw error;
        this.#compareWhole(error);
      }
    }
  }

  /** Each disk once at most in a cycle. Throws kind `corrupt` when it can't be: not all of it is here, or it was done just now and the chain is not mended yet. */
  #compareWhole(unknown: OldUnknown): void {
    const { clock } = this.#deps;
    const volume = this.#volumes.find(({ source }) => source.disk === unknown.disk);
    if (volume === undefined) throw unknown;
    const nowMs = clock.monotonicMs();
    if (!volume.source.isComplete) throw notWhole(unknown, 'the copy is not whole on this host');
    if (nowMs - volume.comparedAtMs < COMPARE_WHOLE_AGAIN_MS) throw notWhole(unknown, 'all of it was sent just now');
    this.#log.warn({ disk: unknown.disk }, `${unknown.message}: all of the disk is compared`);
    const all = new BlockSet();
    all.addRange(0, volume.source.geometry.blockCount);
    volume.source.markChanged(all);
    volume.isWhole = true;
  }

  async #cutAndCommit(reason: string, signal: AbortSignal): Promise<RecoveryPoint> {
    const sources = this.#volumes.map((v) => v.source);
    const cut = await cutAll(sources, this.#deps.clock);
    this.#cut = cut;
    let outcome: 'committed' | 'given-up' = 'given-up';
    try {
      const startedMs = this.#deps.clock.monotonicMs();
      failpoint('receiver.replicate.cut');
      const stored = await this.#store(cut, signal);
      failpoint('receiver.replicate.layers-durable');
      await this.#commit(cut, stored, reason, startedMs);
      outcome = 'committed';
      failpoint('receiver.replicate.committed');
      return this.#point;
    } finally {
      // What a commit in doubt noted is needed when it turns out to stand.
      if (this.#inDoubt === null) for (const volume of this.#volumes) volume.old.dropped();
      this.#cut = null;
      for (const one of cut.cuts) one.end(outcome);
    }
  }

  /** One disk after the other: memory doesn't grow with their number. */
  async #store(cut: MachineCut, signal: AbortSignal): Promise<StoredCut[]> {
    const { owned } = this.#options;
    const point = owned.manifest.lastPoint + 1;
    const stored: StoredCut[] = [];
    for (const [i, { source, old, isWhole, again }] of this.#volumes.entries()) {
      const one = cut.cuts[i];
      if (one === undefined) continue;
      const { blockBytes } = source.geometry;
      const identity = () => ({
        kind: 'delta' as const,
        blockBytes,
        segment: null,
        firstPoint: point,
        lastPoint: point,
        epoch: owned.epoch,
        sequence: owned.nextSequence(),
        machineId: owned.manifest.machine.id,
        diskId: source.disk,
        seriesId: '',
      });
      const cipher = await this.#cipherOf(source.disk);
      stored.push(await storeCut(this.#deps.store, one, old, { isWhole, again }, source, identity, cipher, signal));
    }
    if (signal.aborted) throw cancelled('a cycle of replication');
    return stored;
  }

  /** Hashes must go on as the newest point has them: its digest is carried on block by block. */
  async #cipherOf(disk: DiskId): Promise<DiskCipher> {
    const keys = keysOf(this.#deps.store);
    const machine = this.#options.owned.manifest.machine.id;
    const hashCheck = this.#hashCheckOf(disk);
    const cipher = await keys.cipherOf(machine);
    if (hashCheck !== '') return { hash: cipher.hasherFor(hashCheck, disk), sealer: cipher.sealerFor(hashCheck, disk) };
    // The source began to encrypt, and was gone before a point of that was made: the chain goes on without its keys.
    if (cipher.writesAs === 'agent') await keys.beginWriting(machine, null);
    return { hash: plainHasher, sealer: null };
  }

  #hashCheckOf(disk: DiskId): string {
    const end = this.#volumes.find(({ source }) => source.disk === disk)?.end;
    return (this.#entryOf(disk) ?? end)?.hashCheck ?? '';
  }

  #entryOf(disk: DiskId): PointDisk | undefined {
    return this.#point.disks.find((d) => d.disk === disk);
  }

  async #commit(cut: MachineCut, stored: readonly StoredCut[], reason: string, startedMs: number): Promise<void> {
    const { clock, randomId } = this.#deps;
    const { owned } = this.#options;
    const digests = this.#volumes.map((v, i) => (v.isWhole ? 0n : v.digest) ^ (stored[i]?.digestChange ?? 0n));
    const layers = new Map<string, DiskLayers>();
    const sizes = new Map<string, number>();
    let changedBytes = 0;
    let readBlocks = 0;
    for (const [i, { source }] of this.#volumes.entries()) {
      const entry = owned.manifest.disks.find((d) => d.id === source.disk);
      const made = stored[i];
      if (entry === undefined || made === undefined) throw new Error(`disk ${source.disk} is not in the manifest`);
      const storedBytes = made.layers.reduce((sum, layer) => sum + layer.sizeBytes, 0);
      layers.set(source.disk, {
        entry,
        bases: null,
        deltas: made.layers,
        storedBytes,
        hashCheck: this.#hashCheckOf(source.disk),
      });
      sizes.set(source.disk, source.geometry.sizeBytes);
      changedBytes += made.sentBlocks * source.geometry.blockBytes;
      readBlocks += cut.cuts[i]?.changed.size ?? 0;
    }
    const said = {
      type: 'commit' as const,
      cycle: randomId(),
      cutAtMs: cut.cutAtMs,
      consistency: 'crash' as const,
      reason: reason.slice(0, REASON_LENGTH_MAX),
      disks: this.#volumes.map((v, i) => ({
        disk: v.source.disk,
        series: layers.get(v.source.disk)?.entry.series ?? null,
        digest: digestToText(digests[i] ?? 0n),
      })),
      lastSequence: 0,
      stats: { passes: 1, cutMs: cut.heldMs, freezeMs: 0, changedBytes },
    };
    const sentBlocks = stored.reduce((sum, s) => sum + s.sentBlocks, 0);
    try {
      await owned.commit((current) => {
        const { content, point } = contentAfterCommit(current, said, layers, sizes, clock.nowMs());
        this.#inDoubt = { point, digests, sentBlocks, readBlocks, cycleMs: clock.monotonicMs() - startedMs };
        return content;
      });
    } catch (error) {
      if (isFenced(error)) this.#inDoubt = null;
      throw error;
    }
    this.#acceptInDoubt();
  }

  /** Learns what became of a commit that ended in an error, before anything else is done. */
  async #settle(): Promise<void> {
    const { owned } = this.#options;
    await owned.settle();
    const cycle = this.#inDoubt?.point.cycle;
    if (cycle === undefined) return;
    if (owned.manifest.tail.points.at(-1)?.cycle === cycle) this.#acceptInDoubt();
    else {
      this.#inDoubt = null;
      for (const volume of this.#volumes) volume.old.dropped();
    }
  }

  #acceptInDoubt(): void {
    const commit = this.#inDoubt;
    this.#inDoubt = null;
    if (commit !== null) this.#accept(commit);
  }

  #accept({ point, digests, sentBlocks, readBlocks, cycleMs }: Commit): void {
    for (const [i, volume] of this.#volumes.entries()) {
      volume.digest = digests[i] ?? volume.digest;
      if (volume.isWhole) volume.comparedAtMs = this.#deps.clock.monotonicMs();
      volume.isWhole = false;
      volume.again = new BlockSet();
      volume.old.committed();
    }
    this.#point = point;
    this.#committedAtMonotonicMs = this.#deps.clock.monotonicMs();
    const { storedBytes, cutMs } = point.stats;
    this.#totals.points++;
    this.#totals.storedBytes += storedBytes;
    this.#totals.sentBlocks += sentBlocks;
    this.#totals.readBlocks += readBlocks;
    this.#totals.heldMs = cutMs;
    this.#totals.cycleMs = cycleMs;
    this.#log.info(
      { point: point.number, reason: point.reason, storedBytes, sentBlocks, heldMs: cutMs },
      'recovery point of the running copy committed',
    );
  }
}

const lacksBlocks = (disk: DiskId, wanted: number, held: number): AfterimageError =>
  new AfterimageError(`the running copy has ${held} of ${wanted} blocks of disk ${disk} that are asked for`, {
    code: 'copy-lacks-blocks',
    kind: 'refused',
    hint: 'Bring the damaged object back from a copy of the store.',
  });

const notWhole = (unknown: OldUnknown, why: string): AfterimageError =>
  corrupt(
    'chain-damaged',
    `${unknown.message}; ${why}`,
    'Have the damage found and mended: `afterimage scrub NAME --now`, then `afterimage damage NAME`.',
  );

/** Wait after so many failures in a row. */
const retryMs = (failures: number): number =>
  Math.min(REPLICATION_RETRY_MAX_MS, REPLICATION_RETRY_MIN_MS * 2 ** (failures - 1));
