/**
 * One running copy of a machine on this host: its volumes, the NBD server that serves them, its replication, its guest.
 *
 * Promises: replication begins only with everything marked that differs from the chain's newest point; once it is fenced, the guest is ended. A store that
 * is damaged takes nothing from a copy that has all of itself on this host: it is served and replicated all the same.
 * Order of the beginning: record of the copy, volumes, NBD; of the end: guest, replication, NBD, volumes. So a guest never meets a disk that is gone,
 * and after a crash of the process a guest waits on its reconnect while open() runs again.
 */
import type { Logger } from 'pino';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { HYDRATE_AFTER_MS } from '../../shared/limits.js';
import { asDiskId, type DiskId } from '../../shared/units.js';
import { resumeGeneration } from '../catalog/generation.js';
import type { Manifest } from '../catalog/manifest.js';
import type { OwnedMachine } from '../catalog/owned-machine.js';
import { MachineReader, type PointDisk } from '../catalog/reader.js';
import type { Instance } from '../catalog/recovery.js';
import type { PointContent } from '../volume/content.js';
import { LastingPoint } from '../volume/lasting-point.js';
import { cancelled } from '../volume/plan-point.js';
import type { CheckContext, ComputeProvider, LaunchSpec } from './compute/provider.js';
import { socketPathOf, specOf, volumeFolder, type CopyFile, type CopyRecords } from './copy-file.js';
import { differences } from './differ.js';
import type { InstanceView } from './operations.js';
import type { CopyReplicator, CopyVolume, FailoverParts, FailoverSettings } from './parts.js';
import { isTransient } from './steps.js';

/** One disk at one point, as the store has it now. */
interface DiskAt {
  readonly at: PointDisk;
  readonly open: (signal?: AbortSignal) => Promise<PointContent>;
}

async function diskAt(parts: FailoverParts, view: MachineReader, number: number, disk: string): Promise<DiskAt> {
  const point = await view.findPoint({ by: 'number', number });
  const at = view.diskOf(point, asDiskId(disk));
  return { at, open: (signal) => parts.openContent(view, point, at, signal) };
}

/** The store doesn't have it any more, or not whole. */
const isLost = (error: unknown): boolean =>
  error instanceof AfterimageError && (error.kind === 'corrupt' || error.code === 'point-unknown');

interface Replication {
  readonly replicator: CopyReplicator;
  readonly controller: AbortController;
  readonly done: Promise<void>;
}

export class Copy {
  readonly file: CopyFile;
  readonly spec: LaunchSpec;
  readonly provider: ComputeProvider;
  readonly #parts: FailoverParts;
  readonly #settings: FailoverSettings;
  readonly #log: Logger;
  readonly #volumes: CopyVolume[] = [];
  readonly #hydration = new AbortController();
  #nbd: { stop(): Promise<void> } | null = null;
  /** What the volumes stand on. */
  #point: LastingPoint | null = null;
  #replication: Replication | null = null;
  #starting: Promise<void> | null = null;
  #isClosed = false;
  /** Why this copy isn't replicated, or worse. */
  problem: string | null = null;
  guest = '';
  isFenced = false;

  private constructor(parts: FailoverParts, settings: FailoverSettings, file: CopyFile) {
    this.#parts = parts;
    this.#settings = settings;
    this.file = file;
    this.spec = specOf(settings.folder, file, (path, name) => parts.nbdUri(path, name));
    this.provider = parts.provider(file.instance.provider);
    this.#log = parts.log.child({ machine: file.machine.id, name: file.machine.name, instance: file.instance.id });
  }

  get instance(): Instance {
    return this.file.instance;
  }

  /** Volumes of an instance, new or those that this host has of it, open and served. */
  static async open(
    parts: FailoverParts,
    settings: FailoverSettings,
    records: CopyRecords,
    file: CopyFile,
    signal: AbortSignal,
  ): Promise<Copy> {
    const copy = new Copy(parts, settings, file);
    await records.keep(file);
    try {
      await copy.#serve(signal);
    } catch (error) {
      await copy.close();
      throw error;
    }
    // A test is soon thrown away.
    if (settings.hydrate !== null && file.instance.kind === 'failover')
      void copy.#hydrate(settings.hydrate.bytesPerSecond);
    return copy;
  }

  async #serve(signal: AbortSignal): Promise<void> {
    const { instance } = this.file;
    let damage: unknown = null;
    const unlessLost = (error: unknown): null => {
      if (!isLost(error)) throw error;
      damage ??= error;
      return null;
    };
    this.#point = await this.#standOn(instance).catch(unlessLost);
    for (const { disk } of instance.disks) {
      const at = this.#point?.view.diskOf(this.#point.point, disk) ?? null;
      const content = (await this.#point?.content(disk, signal).catch(unlessLost)) ?? null;
      const folder = volumeFolder(this.#settings.folder, instance.id, disk);
      const baseKey = at === null ? null : `${instance.point} ${at.digest}`;
      const opening = this.#parts.openVolume({ folder, disk, content, baseKey });
      const volume = await opening.catch((error: unknown) => {
        // One that lacks what the store doesn't have any more: that is what is wrong.
        throw isTransient(error) ? error : (damage ?? error);
      });
      this.#volumes.push(volume);
    }
    if (damage !== null)
      this.#log.warn(
        { err: damage },
        `the copy is served from this host alone, its point can't be read: ${messageOf(damage)}`,
      );
    await this.#letGoOfPoint();
    await this.#startServing();
  }

  async #standOn(instance: Instance): Promise<LastingPoint> {
    const holder = `${instance.kind === 'test' ? 'test failover' : 'failover'} ${instance.id} on ${instance.receiverName}`;
    const selector = { by: 'number', number: instance.point } as const;
    const point = await LastingPoint.open({ ...this.#parts, log: this.#log }, this.spec.machine.id, selector, holder);
    if (point.warning !== null) this.#log.warn(point.warning);
    return point;
  }

  /** A copy that is whole on this host needs its point no more, and doesn't keep it from retention and mending. */
  async #letGoOfPoint(): Promise<void> {
    const point = this.#point;
    if (point === null || !this.isWhole) return;
    this.#point = null;
    await point.release().catch((error: unknown) => {
      // Nobody renews its pin any more.
      this.#log.warn({ err: error }, `the point of a copy is kept for some time still: ${messageOf(error)}`);
    });
  }

  async #startServing(): Promise<void> {
    this.#nbd ??= await this.#parts.startNbd(
      socketPathOf(this.#settings.folder, this.instance.id),
      this.#volumes.map((device) => ({
        name: device.disk,
        description: `${this.file.machine.name} ${device.disk}`,
        device,
      })),
    );
  }

  /** Takes the disks away from whoever still uses them: what is written after a last cut would be acknowledged and lost. */
  async stopServing(): Promise<void> {
    await this.#nbd?.stop();
    this.#nbd = null;
  }

  /** Nothing of it is in the store alone. */
  get isWhole(): boolean {
    return this.#volumes.length > 0 && this.#volumes.every((volume) => volume.isComplete);
  }

  get isReplicating(): boolean {
    return this.#replication !== null;
  }

  /**
   * Takes the epoch and makes points from now on. Throws kind `fenced` when the machine is somebody else's by now.
   * When that is found later, the guest is ended.
   */
  startReplication(signal: AbortSignal): Promise<void> {
    // A job and the guardian may ask at once: two replicators of one copy would fence each other for ever.
    this.#starting ??= this.#startReplication(signal).finally(() => (this.#starting = null));
    return this.#starting;
  }

  async #startReplication(signal: AbortSignal): Promise<void> {
    if (this.#replication !== null) return;
    const { instance } = this.file;
    const owned = await resumeGeneration(this.#parts, this.spec.machine.id, instance.generation);
    const view = new MachineReader(this.#parts.store, owned.manifest);
    await this.#markDifferences(view, signal);
    const replicator = await this.#replicator(owned, view, signal);
    if (this.#isClosed) throw cancelled('the replication of a copy');
    const controller = new AbortController();
    const done = replicator.run(controller.signal).catch(async (error: unknown) => {
      this.problem = messageOf(error);
      this.#replication = null;
      this.#log.error({ err: error }, 'replication of the running copy ended');
      // What can't be read now is found at the guardian's next try to replicate.
      await this.#learn().catch(() => undefined);
    });
    this.#replication = { replicator, controller, done };
  }

  /** Whether the machine is still ours when its replication was fenced: a newer epoch alone is no reason to end a guest, its replication begins again. */
  async #learn(): Promise<void> {
    const { manifest } = await MachineReader.open(this.#parts.store, this.spec.machine.id);
    const { generation } = this.file.instance;
    if (manifest.generation !== generation) {
      await this.fence(`the machine is at generation ${manifest.generation}, this copy at ${generation}`);
    }
  }

  /** Ends the guest at once, because the machine is somebody else's by now. */
  async fence(reason: string): Promise<void> {
    if (this.isFenced) return;
    this.isFenced = true;
    this.problem = `fenced: ${reason}`;
    this.#log.error({ reason }, 'the machine was taken over elsewhere: its guest here is ended at once');
    const { signal } = new AbortController();
    const say = (line: string): void => this.#log.info({ line }, 'ending a fenced guest');
    await this.provider.kill(this.spec, { signal, say }).catch((error: unknown) => {
      this.problem = `fenced, and its guest could not be ended: ${messageOf(error)}`;
      this.#log.error({ err: error }, 'a fenced guest could not be ended; end it by hand');
    });
    await this.stopServing();
  }

  /** Until a point of its own stands, the chain ends in what somebody else wrote: everything in which the copy differs from that has changed. */
  async #markDifferences(view: MachineReader, signal: AbortSignal): Promise<void> {
    const { instance } = this.file;
    const newest = newestPoint(view.manifest);
    if (newest.generation === instance.generation || newest.number === instance.point) return;
    for (const volume of this.#volumes) {
      const end = endOf(view, volume.disk);
      if (end === instance.point) continue;
      const openAt = async (number: number): Promise<PointContent> =>
        (await diskAt(this.#parts, view, number, volume.disk)).open(signal);
      const compared = differences(
        () => openAt(instance.point),
        () => openAt(end),
        signal,
      );
      const blocks = await compared.catch((error: unknown) => {
        if (!isLost(error) || !volume.isComplete) throw error;
        this.#log.error({ err: error, disk: volume.disk }, `all of the disk counts as different: ${messageOf(error)}`);
        return allBlocks(volume);
      });
      this.#log.info({ disk: volume.disk, from: end, to: instance.point, blocks: blocks.size }, 'points differ');
      volume.markChanged(blocks);
    }
  }

  async #replicator(owned: OwnedMachine, view: MachineReader, signal: AbortSignal): Promise<CopyReplicator> {
    const { machine } = this.spec;
    const volumes = [];
    for (const source of this.#volumes) {
      const end = await diskAt(this.#parts, view, endOf(view, source.disk), source.disk);
      const reference = await end.open(signal).catch((error: unknown) => {
        if (!isLost(error)) throw error;
        this.#log.error({ err: error, disk: source.disk }, `the end of the chain can't be read: ${messageOf(error)}`);
        return null;
      });
      const reopenReference = async (point: number): Promise<PointContent> => {
        const now = await MachineReader.open(this.#parts.store, machine.id);
        const number = Math.min(point, endOf(now, source.disk));
        return (await diskAt(this.#parts, now, number, source.disk)).open();
      };
      const device = view.entryOf(source.disk)?.device ?? source.disk;
      volumes.push({ source, reference, end: end.at, reopenReference, device });
    }
    return this.#parts.replicator({ owned, volumes });
  }

  /** A point of what the guest has written so far; its number. */
  async pointNow(reason: string): Promise<number> {
    if (this.#replication !== null) return this.#replication.replicator.pointNow(reason);
    throw this.#notReplicated();
  }

  /** A point with these blocks in its own layers; its number. Throws code `not-replicated` while none is made. */
  async resend(
    disk: DiskId,
    extents: readonly (readonly [number, number])[],
    signal: AbortSignal,
  ): Promise<{ readonly point: number }> {
    if (this.#replication === null) throw this.#notReplicated();
    return { point: await this.#replication.replicator.resend(disk, extents, signal) };
  }

  #notReplicated(): AfterimageError {
    return new AfterimageError(
      `the copy of ${this.file.machine.name} is not replicated: ${this.problem ?? 'not started'}`,
      { code: 'not-replicated', kind: 'io', hint: 'See the receiver’s log.' },
    );
  }

  async stopReplication(): Promise<void> {
    const replication = this.#replication;
    this.#replication = null;
    replication?.controller.abort();
    await replication?.done;
  }

  /** Flushes and lets everything go but the guest, which waits for its disks to come back (or has ended). */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#hydration.abort();
    await this.stopReplication();
    await this.stopServing();
    // All of them, also when one fails: an open one could not be opened again.
    const closed = await Promise.allSettled(this.#volumes.splice(0).map((volume) => volume.close()));
    await this.#point?.release();
    this.#point = null;
    const failed = closed.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  async refreshGuest(): Promise<void> {
    this.guest = await this.provider.state(this.spec).then(
      (state) => state.detail,
      (error: unknown) => `unknown: ${messageOf(error)}`,
    );
  }

  async start(context: CheckContext): Promise<void> {
    await this.#startServing();
    await this.provider.start(this.spec, context);
  }

  view(): InstanceView {
    const status = this.#replication?.replicator.status ?? null;
    return {
      id: this.instance.id,
      guest: this.guest,
      disks: this.#volumes.map((volume) => {
        const { localBytes, hydratedPercent } = volume.stats();
        const uri = this.#parts.nbdUri(socketPathOf(this.#settings.folder, this.instance.id), volume.disk);
        const changedBytes = volume.changedBlocks * volume.geometry.blockBytes;
        return { disk: volume.disk, uri, sizeBytes: volume.sizeBytes, localBytes, hydratedPercent, changedBytes };
      }),
      dataAtRisk: this.instance.kind === 'test' ? null : (status?.dataAtRisk ?? null),
      lastPoint: status?.lastPoint ?? null,
      problem: this.problem ?? status?.problem ?? null,
    };
  }

  /** The newest point of this copy; null while it isn't replicated. */
  get lastPoint(): number | null {
    return this.#replication?.replicator.status.lastPoint ?? null;
  }

  get pointsCommitted(): number {
    return this.#replication?.replicator.status.pointsCommitted ?? 0;
  }

  /** One disk after the other, behind the guest's back. */
  async #hydrate(bytesPerSecond: number | null): Promise<void> {
    await this.#parts.clock.sleep(HYDRATE_AFTER_MS, this.#hydration.signal);
    for (const volume of [...this.#volumes]) {
      await volume.hydrate({ bytesPerSecond, signal: this.#hydration.signal }).catch((error: unknown) => {
        if (!this.#hydration.signal.aborted) this.#log.warn({ err: error, disk: volume.disk }, 'hydration stopped');
      });
    }
    await this.#letGoOfPoint();
  }
}

/** The point in which the chain of a disk ends: the newest, unless that lacks it. */
const endOf = (view: MachineReader, disk: string): number =>
  view.entryOf(asDiskId(disk))?.lastPoint ?? newestPoint(view.manifest).number;

function allBlocks({ geometry }: CopyVolume): BlockSet {
  const all = new BlockSet();
  all.addRange(0, geometry.blockCount);
  return all;
}

function newestPoint(manifest: Manifest): { number: number; generation: number } {
  const point = manifest.tail.points.at(-1);
  if (point !== undefined) return point;
  throw new AfterimageError(`machine ${manifest.machine.name} has no recovery point`, {
    code: 'machine-empty',
    kind: 'not-found',
  });
}
