/**
 * Replication over one session: from the welcome until the connection ends. Decides what comes next (sweep, cycle, wait) and does it.
 * State that outlives the session is in the disks (hash store, carry) and in the tracker; everything here may be lost at any time.
 */
import { AfterimageError, messageOf } from '../shared/errors.js';
import { IDLE_POINT_INTERVAL_MS } from '../shared/limits.js';
import { DISK_LOOK_MS } from '../shared/limits-disks.js';
import type { Welcome } from '../shared/wire/messages.js';
import type { MessagePool } from './cycle/chunk-sender.js';
import {
  runCycle,
  CutNotReached,
  SeriesEnded,
  type AskedPoint,
  type CycleContext,
  type CycleResult,
} from './cycle/machine-cycle.js';
import type { ProtectedDisk } from './cycle/protected-disk.js';
import { sweep } from './cycle/sweep.js';
import type { WindowArena } from './cycle/window-arena.js';
import type { Sysfs } from './disks/sysfs.js';
import type { AbsentDisk } from './disks/absent.js';
import { DisksChanged, DisksHealth } from './disks-health.js';
import { cutWork, whyNotProtected } from './cut-work.js';
import { FinalCutOrders } from './final-cut-orders.js';
import { GroupOrders, isGroupOrder } from './group/group-orders.js';
import { changedBlocks } from './hello.js';
import { frozenNotePath } from './quiesce/frozen-note.js';
import { quiesceFor } from './machine-quiesce.js';
import { makeAsked, type AskedPointDeps } from './asked-point.js';
import { PointRequests } from './point-requests.js';
import { reportRegularly } from './progress-report.js';
import { Resends } from './resends.js';
import type { PointRequest } from './quiesce/machine-asked.js';
import type { FinalCutting } from './machine-parts.js';
import type { WorkLimits } from './load/work-limits.js';
import { heldBetween } from './load/lateness.js';
import type { OpenedDisk } from './open-disk.js';
import type { Order, ReceiverSession, SessionEnded } from './session/session.js';
import type { AgentStatus } from './status.js';
import type { MarkTracker } from './tracker/tracker.js';
import { applyVerdict, beginSweep } from './verdicts.js';

export interface ReplicationDeps extends AskedPointDeps {
  readonly sysfs: Sysfs;
  readonly tracker: MarkTracker | null;
  readonly pool: MessagePool;
  readonly arena: WindowArena;
  readonly random: () => number;
  readonly status: AgentStatus;
  readonly disks: readonly OpenedDisk[];
  /** Protected disks that are not open: points go on without them. */
  readonly absent: readonly AbsentDisk[];
  readonly isBack: (disk: AbsentDisk) => Promise<boolean>;
  readonly finalCut: FinalCutting;
  readonly limits: WorkLimits;
}

export class Replication {
  readonly #deps: ReplicationDeps;
  readonly #session: ReceiverSession;
  readonly #stop: AbortSignal;
  #nextPointAtMs = 0;
  /** Distance of points: as the receiver's policy says, else as our own configuration does. */
  #intervalMs: number;
  #lastPointAtMs: number;
  /** Why the next point is special: first copy, comparison. */
  #reason: string | null = null;
  #wake: AbortController = new AbortController();
  #onProgress: () => void = () => undefined;
  /** Aborted with the reason when the session has ended, or the agent stops. */
  readonly #end = new AbortController();
  /** Why the session has ended, once it has. */
  #over: SessionEnded | null = null;
  /** Asked for and not begun yet: a sweep must not begin while a cycle runs. */
  #comparison: string | null = null;
  #syncWaiters: ((result: CycleResult | Error) => void)[] = [];
  readonly #requests: PointRequests;
  readonly #finalCut: FinalCutOrders;
  readonly #groups: GroupOrders;
  readonly #resends = new Resends();
  readonly #health: DisksHealth;

  constructor(deps: ReplicationDeps, session: ReceiverSession, stop: AbortSignal) {
    this.#deps = deps;
    this.#session = session;
    this.#stop = stop;
    this.#health = new DisksHealth(deps);
    this.#requests = new PointRequests(deps.applicationPoints);
    const { finalCut, clock, disks } = deps;
    const say: ReceiverSession['say'] = (message) => session.say(message);
    this.#finalCut = new FinalCutOrders({ finalCut, clock, say, stop });
    this.#groups = new GroupOrders({
      requests: this.#requests,
      clock,
      say,
      whyNot: () => whyNotProtected(disks, deps.absent),
    });
    this.#intervalMs = deps.config.interval;
    this.#lastPointAtMs = deps.clock.monotonicMs();
    void session.ended.then((ended) => {
      this.#over = ended;
      this.#end.abort(ended);
      this.#finalCut.sessionEnded(ended);
      this.#groups.end();
      this.#wake.abort();
    });
  }

  /** Makes a point as soon as possible; resolves to it. */
  syncNow(): Promise<CycleResult> {
    return new Promise((resolve, reject) => {
      this.#syncWaiters.push((result) => (result instanceof Error ? reject(result) : resolve(result)));
      this.#wake.abort();
    });
  }

  /** Makes a point of the consistency that is asked for, or a weaker one with its reason; resolves to it. */
  makePoint(request: PointRequest): Promise<CycleResult> {
    const made = this.#requests.ask(request);
    this.#wake.abort();
    return made;
  }

  /** Compares all disks from end to end, as an operator asked; resolves when it is under way. */
  compareAll(reason: string): Promise<void> {
    this.#comparison = reason;
    this.#wake.abort();
    return Promise.resolve();
  }

  /**
   * Runs until the session has ended (resolves to why) or the agent stops.
   * `onProgress`: something became durable at the receiver, so the connection is worth coming back to soon.
   */
  async run(welcome: Welcome, onProgress: () => void): Promise<void> {
    const { log, clock, status } = this.#deps;
    this.#onProgress = onProgress;
    this.#session.onOrder((order) => this.#onOrder(order));
    await this.#finalCut.welcomed(welcome.holdWorkload);
    for (const { disk } of this.#deps.disks) {
      const said = welcome.disks.find((d) => d.disk === disk.id);
      if (said !== undefined) await applyVerdict(disk, said, welcome, this.#session, log);
    }
    const over = new AbortController();
    void reportRegularly(this.#session, status, clock, over.signal);
    const onStop = (): void => {
      this.#end.abort(this.#stop.reason);
      this.#wake.abort();
    };
    this.#stop.addEventListener('abort', onStop, { once: true });
    try {
      while (!this.#stop.aborted) await this.#step();
    } finally {
      over.abort();
      this.#stop.removeEventListener('abort', onStop);
      this.#rejectWaiters('the connection ended before the point was made');
    }
  }

  #rejectWaiters(why: string): void {
    const error = new AfterimageError(why, { code: 'session-ended', kind: 'disconnected' });
    for (const waiter of this.#syncWaiters.splice(0)) waiter(error);
    this.#requests.rejectAll(error);
  }

  #onOrder(order: Order): void {
    if (order.type === 'policy') {
      this.#pace(order.intervalMs);
      this.#deps.applicationPoints.policy(order.applicationIntervalMs);
    }
    if (order.type === 'final-cut' || order.type === 'final-cut-resume') this.#finalCut.heard(order);
    if (order.type === 'resend') this.#resends.heard(order);
    if (isGroupOrder(order)) this.#groups.heard(order);
    this.#wake.abort();
  }

  /** From now on: a point that is due later than the new distance says is due then. */
  #pace(intervalMs: number | null): void {
    const { config, clock, log } = this.#deps;
    this.#intervalMs = intervalMs ?? config.interval;
    this.#nextPointAtMs = Math.min(this.#nextPointAtMs, clock.monotonicMs() + this.#intervalMs);
    const by = intervalMs === null ? 'as configured here' : "as the receiver's policy says";
    log.info({ intervalMs: this.#intervalMs }, `points are made ${by}`);
  }

  #askAgain(): void {
    this.#onProgress();
    this.#session.close('asking whether the workload is to stay down');
  }

  /** One decision and its execution. Errors of a disk are handled here; errors of the connection end the session. */
  async #step(): Promise<void> {
    const { disks } = this.#deps;
    try {
      await this.#health.check();
      if (await this.#finalCut.next(() => cutWork(disks, this.#deps, () => this.#makePoint(disks, true)))) return;
      if (this.#finalCut.isPaused) {
        this.#rejectWaiters('a planned failover is under way: the last point was made');
        if (this.#finalCut.mustAskAgain) this.#askAgain();
        return await this.#wait(true);
      }
      if (this.#resends.begin(disks, this.#deps.log)) this.#nextPointAtMs = 0;
      await this.#beginComparison();
      const blocked = disks.some(({ disk }) => !disk.isReady && disk.inPoints && disk.state !== 'Failed');
      const ready = disks.filter(({ disk }) => disk.isReady);
      if (!blocked && ready.length > 0 && this.#isDue()) return await this.#cycle(ready);
      const next = disks.find(({ disk }) => disk.need !== null && disk.state !== 'Failed');
      if (next !== undefined) return await this.#sweep(next.disk, !blocked && ready.length > 0);
      await this.#wait(blocked || ready.length === 0);
    } catch (error) {
      await this.#handle(error);
    }
  }

  #isDue(): boolean {
    if (this.#syncWaiters.length > 0 || this.#requests.waitMs() === 0) return true;
    return this.#deps.clock.monotonicMs() >= this.#nextPointAtMs;
  }

  async #beginComparison(): Promise<void> {
    const reason = this.#comparison;
    if (reason === null) return;
    this.#comparison = null;
    for (const { disk } of this.#deps.disks) if (disk.isReady) await beginSweep(disk, 'comparison', reason);
  }

  async #wait(nothingToDo: boolean): Promise<void> {
    const { clock } = this.#deps;
    const untilDueMs = Math.min(this.#nextPointAtMs - clock.monotonicMs(), this.#requests.waitMs());
    const untilLookMs = this.#health.isLooking ? DISK_LOOK_MS : Infinity;
    const ms = nothingToDo ? 1000 : Math.max(1, Math.min(untilDueMs, untilLookMs));
    // One signal for all that can end the wait: racing promises that settle once a month would pile up, one for each wait.
    await clock.sleep(ms, this.#wake.signal);
    if (this.#over !== null) throw this.#over;
    if (this.#wake.signal.aborted) this.#wake = new AbortController();
  }

  async #sweep(disk: ProtectedDisk, othersAreReady: boolean): Promise<void> {
    const { clock, log, status, limits } = this.#deps;
    const need = disk.need;
    if (need === null) return;
    const firstSegment = disk.store.sweep?.nextSegment ?? 0;
    disk.progress ??= {
      processedBytes: 0,
      totalBytes: disk.geometry.sizeBytes,
      startedAtMs: clock.monotonicMs(),
      readBytesBefore: disk.counters.readBytes,
      sentBytesBefore: disk.counters.sentBytes,
    };
    const shouldPause = (): boolean => this.#stop.aborted || (othersAreReady && this.#isDue());
    // Points of the others come before the limits of a sweep: what it reads until it can pause is paid for afterwards.
    const pace = limits.pace({ kind: 'sweep', end: this.#end.signal, isUrgent: shouldPause });
    const endIdle = limits.beginIdle();
    const result = await sweep(
      disk,
      { kind: need.kind, only: null, firstSegment },
      { session: this.#session, pool: this.#deps.pool, onStaged: this.#onProgress, shouldPause, pace },
    ).finally(endIdle);
    if (result.kind === 'paused') return;
    const tookMs = clock.monotonicMs() - disk.progress.startedAtMs;
    const { readBytesBefore, sentBytesBefore } = disk.progress;
    const readBytes = disk.counters.readBytes - readBytesBefore;
    const sentBytes = disk.counters.sentBytes - sentBytesBefore;
    log.info(
      {
        disk: disk.id,
        kind: need.kind,
        reason: need.reason,
        seconds: Math.round(tookMs / 1000),
        readBytes,
        sentBytes,
      },
      `${need.kind} done, catching up`,
    );
    status.swept(disk, need, { readBytes, sentBytes });
    disk.progress = null;
    disk.need = null;
    this.#reason = need.kind === 'first-copy' ? 'first copy' : `comparison: ${need.reason}`;
    this.#nextPointAtMs = 0;
  }

  async #cycle(ready: readonly OpenedDisk[]): Promise<void> {
    const { clock } = this.#deps;
    const startMs = clock.monotonicMs();
    this.#nextPointAtMs = startMs + this.#intervalMs;
    const asked = this.#requests.take();
    const isAsked = this.#syncWaiters.length > 0 || asked !== null;
    if (
      !isAsked &&
      this.#reason === null &&
      (await this.#isIdle(ready)) &&
      startMs - this.#lastPointAtMs < IDLE_POINT_INTERVAL_MS
    )
      return;
    const waiters = this.#syncWaiters;
    this.#syncWaiters = [];
    try {
      const make = (point?: AskedPoint): Promise<CycleResult> => this.#makePoint(ready, isAsked, point);
      const result = await (asked === null ? make() : makeAsked(asked, this.#deps, () => this.#freeze(ready), make));
      for (const waiter of waiters) waiter(result);
    } catch (error) {
      const failure = error instanceof Error ? error : new Error(messageOf(error));
      for (const waiter of waiters) waiter(failure);
      asked?.answer(failure);
      throw error;
    }
  }

  /** `isAwaited`: somebody waits for this point; limits of load don't hold it up. */
  async #makePoint(ready: readonly OpenedDisk[], isAwaited: boolean, asked?: AskedPoint): Promise<CycleResult> {
    const { clock, log, status, limits } = this.#deps;
    const tracked = ready.filter((d) => d.still === null).map((d) => d.disk);
    const still = ready.flatMap((d) => d.still ?? []);
    const without = this.#health.without();
    const context = { ...this.#cycleContext(ready, isAwaited), without: without.disks };
    const heldBefore = limits.held();
    const result = await runCycle(
      tracked,
      still,
      reasonOf(this.#reason, without.text),
      asked === undefined ? context : { ...context, asked },
    ).catch((error: unknown) => {
      throw withLimits(error, heldBetween(heldBefore, limits.held()));
    });
    const wasLate = limits.status().late !== null;
    const late = limits.cycleEnded(heldBefore, result.durationMs, this.#intervalMs);
    // Said when it begins; the status and the metrics go on telling.
    if (late !== null)
      log[wasLate ? 'debug' : 'warn']({ point: result.point, reason: late }, 'limits of load make points late');
    else if (wasLate) log.info({ point: result.point }, 'limits of load make points late no longer');
    this.#reason = null;
    this.#lastPointAtMs = clock.monotonicMs();
    this.#onProgress();
    await this.#resends.made(ready, result.point, (message) => this.#session.say(message));
    for (const { disk } of ready) disk.setState('Protected', '');
    status.committed(
      result,
      ready.map((d) => d.disk),
    );
    log.info(
      {
        point: result.point,
        consistency: result.cut.consistency,
        changedBytes: result.changedBytes,
        sentBytes: result.sentBytes,
        passes: result.cut.passes,
        cutMs: Math.round(result.cut.cutMs),
        durationMs: Math.round(result.durationMs),
        ...(result.cut.recopiedBlocks > 0 ? { recopiedBlocks: result.cut.recopiedBlocks } : {}),
        ...(result.cut.freezeMs > 0 ? { freezeMs: Math.round(result.cut.freezeMs), reason: result.cut.reason } : {}),
        ...(result.group === null ? {} : { group: result.group.name, groupPoint: result.group.point }),
        ...(result.quiesce === null ? {} : { heldMs: result.quiesce.heldMs, quiescedMs: result.quiesce.totalMs }),
      },
      'recovery point committed',
    );
    return result;
  }

  #cycleContext(ready: readonly OpenedDisk[], isAwaited: boolean): CycleContext {
    const { tracker, pool, arena, clock, random, randomId, config, limits } = this.#deps;
    return {
      session: this.#session,
      tracker,
      bystanders: this.#deps.disks.filter((d) => !ready.includes(d) && d.still === null).map((d) => d.disk),
      pool,
      arena,
      clock,
      random,
      randomId,
      cutDeadlineMs: config.cut.deadline,
      quiesce: this.#freeze(ready).quiesce,
      pace: limits.pace({ kind: 'cycle', end: this.#end.signal, isUrgent: () => isAwaited }),
      testOnlyNaive: process.env['AFTERIMAGE_TEST_NAIVE_CUT'] === '1',
    };
  }

  #freeze(ready: readonly OpenedDisk[]): ReturnType<typeof quiesceFor> {
    const { sysfs, config, clock, log } = this.#deps;
    const sources = ready.map((d) => d.inspected.source);
    return quiesceFor(sysfs, sources, config.freeze, frozenNotePath(config.stateDir), clock, log);
  }

  async #isIdle(ready: readonly OpenedDisk[]): Promise<boolean> {
    for (const { disk, still } of ready) {
      if (disk.store.sweep !== null || disk.lastPoint === 0 || !disk.resend.isEmpty) return false;
      if (still !== null && !(await still.isUnchanged())) return false;
      if (still === null && changedBlocks(disk, this.#deps.tracker) > 0) return false;
    }
    return true;
  }

  async #handle(error: unknown): Promise<void> {
    const { log, status, tracker, disks, clock } = this.#deps;
    if (this.#stop.aborted) return;
    if (error instanceof SeriesEnded && tracker !== null) {
      const found = disks.find(({ disk }) => disk.id === error.disk);
      if (found === undefined) throw error;
      status.fellBack(error.why);
      log.warn({ disk: error.disk, reason: error.why }, 'change tracking is in doubt: a comparison follows');
      const armed = tracker.restartSeries(error.disk, error.why);
      found.disk.series = armed.series;
      await beginSweep(found.disk, 'comparison', error.why);
      return;
    }
    const aside = this.#health.setAside(error);
    if (aside !== null) return status.fellBack(aside);
    if (error instanceof CutNotReached) {
      status.fellBack(error.message);
      log.warn({ reason: error.message }, 'recovery point skipped');
      return;
    }
    if (error instanceof AfterimageError && error.code === 'hash-segment-disputed') {
      for (const { disk } of disks) if (disk.isReady) await beginSweep(disk, 'comparison', error.message);
      status.fellBack(error.message);
      log.warn({ reason: error.message }, 'a comparison follows');
      return;
    }
    const failed = disks.find(({ disk }) => disk.store.failure !== null);
    if (failed !== undefined) {
      // The store refuses everything until it is opened again; there may be room, or a working disk, by then.
      const why = messageOf(failed.disk.store.failure);
      status.fellBack(why);
      log.error({ disk: failed.disk.id, err: error }, `hash store failed: ${why}`);
      await clock.sleep(this.#intervalMs, this.#stop);
      throw new DisksChanged(why);
    }
    if (error instanceof AfterimageError && error.kind !== 'disconnected') {
      // Something local went wrong (a read error, no space for hashes): what was taken is handed back, the next interval tries again.
      status.fellBack(error.message);
      log.error({ err: error }, `cycle failed: ${error.message}`);
      await clock.sleep(this.#intervalMs, this.#stop);
      // A hash store that failed is usable again only after it was opened anew.
      if (error.code.startsWith('hash-store-')) throw new DisksChanged(error.message);
      return;
    }
    throw error;
  }
}

const reasonOf = (...reasons: readonly (string | null)[]): string | null =>
  reasons.filter((reason) => reason !== null).join('; ') || null;

/** A point that wasn't made says which limits had a part in it. */
function withLimits(error: unknown, held: string): unknown {
  if (!(error instanceof CutNotReached) || held === '') return error;
  return new CutNotReached(`${error.why}; limits of load held it up: ${held}`);
}
