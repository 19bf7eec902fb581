/**
 * The content of a point's disks for as long as volumes stand on it: pinned, and planned anew from the newest manifest when the plan can't be relied
 * upon any more (the pin was lost, or a layer of it is gone, as it may be without a pin). Readers notice nothing but a wait.
 *
 * Promises: the content is that of one point, proven as ever; a plan that is replaced is the same bytes in other layers. When the point is listed no
 * more, the plan stays as it is and reads of what was deleted fail.
 */
import type { Logger } from 'pino';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { REPLAN_RETRY_MS } from '../../shared/limits-retention.js';
import type { DiskId, MachineId } from '../../shared/units.js';
import type { RecoveryPoint } from '../catalog/manifest.js';
import type { PinDeps } from '../catalog/pin-holder.js';
import { openPinned, type OpenView, type PinnedPoint } from '../catalog/pinned-point.js';
import type { PointSelector } from '../catalog/point-selector.js';
import type { MachineReader, PointDisk } from '../catalog/reader.js';
import type { ContentRun, PointContent, TakeExtra } from './content.js';
import type { SharedRoom } from './threads/shared-room.js';

/** Plans one disk of a point: openPointContent with what it needs besides. */
export type OpenContent = (
  view: MachineReader,
  point: RecoveryPoint,
  disk: PointDisk,
  signal?: AbortSignal,
) => Promise<PointContent>;

export interface LastingDeps extends PinDeps {
  readonly log: Logger;
  readonly openContent: OpenContent;
  /** How the machine is looked up; see openPinned(). */
  readonly openView?: OpenView;
}

export class LastingPoint {
  readonly #deps: LastingDeps;
  readonly #machine: MachineId;
  readonly #holder: string;
  readonly #contents = new Map<DiskId, LastingContent>();
  readonly #ended = new AbortController();
  #pinned: PinnedPoint;
  #planning: Promise<void> | null = null;
  #plannedAtMs = -Infinity;

  private constructor(deps: LastingDeps, machine: MachineId, holder: string, pinned: PinnedPoint) {
    this.#deps = deps;
    this.#machine = machine;
    this.#holder = holder;
    this.#pinned = pinned;
    this.#watch();
  }

  static async open(
    deps: LastingDeps,
    machine: MachineId,
    selector: PointSelector,
    holder: string,
  ): Promise<LastingPoint> {
    const pinned = await openPinned(deps, machine, selector, holder, deps.openView);
    return new LastingPoint(deps, machine, holder, pinned);
  }

  /** As it was seen last. */
  get view(): MachineReader {
    return this.#pinned.view;
  }

  get point(): RecoveryPoint {
    return this.#pinned.point;
  }

  /** Why it is read without a pin; null when there is one. */
  get warning(): string | null {
    return this.#pinned.warning;
  }

  async content(disk: DiskId, signal?: AbortSignal): Promise<PointContent> {
    const { view, point } = this.#pinned;
    const content = await this.#deps.openContent(view, point, view.diskOf(point, disk), signal);
    const lasting = new LastingContent(content, () => this.#replanSeldom());
    this.#contents.set(disk, lasting);
    return lasting;
  }

  /** Nothing of it is open any more. */
  async release(): Promise<void> {
    this.#ended.abort();
    await this.#planning?.catch(() => undefined);
    await this.#pinned.release();
  }

  #watch(): void {
    const { lost } = this.#pinned;
    const onLost = (): void => void this.#replanUntilDone(lost.reason);
    lost.addEventListener('abort', onLost, { once: true, signal: this.#ended.signal });
  }

  async #replanUntilDone(reason: unknown): Promise<void> {
    const { log, clock } = this.#deps;
    log.warn(
      { reason: messageOf(reason), point: this.point.number },
      'the pin of an open point is lost: it is planned anew',
    );
    while (!this.#ended.signal.aborted) {
      try {
        await this.#replan();
        return;
      } catch (error) {
        log.error({ err: error, point: this.point.number }, 'an open point could not be planned anew');
        await clock.sleep(REPLAN_RETRY_MS, this.#ended.signal);
      }
    }
  }

  /** For readers that miss a layer: one that is gone from the newest plan as well must not have every read plan anew. */
  async #replanSeldom(): Promise<void> {
    const nowMs = this.#deps.clock.monotonicMs();
    if (this.#planning === null && nowMs - this.#plannedAtMs < REPLAN_RETRY_MS) return;
    this.#plannedAtMs = nowMs;
    await this.#replan();
  }

  /** All disks, from a pin and a head that are newer than this call. Whoever asks while it is done waits for the same. */
  #replan(): Promise<void> {
    this.#planning ??= this.#planNow().finally(() => (this.#planning = null));
    return this.#planning;
  }

  async #planNow(): Promise<void> {
    const { number } = this.point;
    const pinned = await openPinned(
      this.#deps,
      this.#machine,
      { by: 'number', number },
      this.#holder,
      this.#deps.openView,
    );
    try {
      for (const [disk, lasting] of this.#contents) {
        const at = pinned.view.diskOf(pinned.point, disk);
        lasting.replace(await this.#deps.openContent(pinned.view, pinned.point, at, this.#ended.signal));
      }
    } catch (error) {
      await pinned.release();
      throw error;
    }
    const before = this.#pinned;
    this.#pinned = pinned;
    this.#watch();
    await before.release();
  }
}

const isGone = (error: unknown): boolean => error instanceof AfterimageError && error.code === 'layer-missing';

/** Hands everything to the newest plan; once more when a layer of the plan was gone. */
class LastingContent implements PointContent {
  #current: PointContent;
  readonly #replan: () => Promise<void>;

  constructor(current: PointContent, replan: () => Promise<void>) {
    this.#current = current;
    this.#replan = replan;
  }

  get isNear(): boolean {
    return this.#current.isNear;
  }

  get canReadBeside(): boolean {
    return this.#current.canReadBeside === true;
  }

  get geometry(): PointContent['geometry'] {
    return this.#current.geometry;
  }

  replace(content: PointContent): void {
    this.#current = content;
  }

  runs(first: number, count: number): Promise<readonly ContentRun[]> {
    return this.#do((content) => content.runs(first, count));
  }

  read(first: number, count: number, into: Buffer, extra?: TakeExtra): Promise<void> {
    return this.#do((content) => content.read(first, count, into, extra));
  }

  async readBeside(first: number, count: number, room: SharedRoom, offset: number): Promise<boolean> {
    // Whatever is in its way, a missing layer among it, is for read() to meet.
    return (await this.#current.readBeside?.(first, count, room, offset)) ?? false;
  }

  hashes(first: number, count: number): Promise<BigUint64Array> {
    return this.#do((content) => content.hashes(first, count));
  }

  async #do<T>(use: (content: PointContent) => Promise<T>): Promise<T> {
    const tried = this.#current;
    try {
      return await use(tried);
    } catch (error) {
      if (!isGone(error)) throw error;
      // Planned anew by somebody else meanwhile: try that first.
      if (this.#current === tried) await this.#replan().catch(() => undefined);
      if (this.#current === tried) throw error;
      return use(this.#current);
    }
  }
}
