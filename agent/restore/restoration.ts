/**
 * A restoring session: brings this machine's disks to the points that the receiver names, one goal after the other, and commits nothing.
 *
 * Checks come before the first write: every disk of the point is here, large enough, and nobody uses it; it stays held exclusively from then until the
 * final goal is reached or the session ends. A goal is reached when the digest of the local hashes, which are the disk's, is the point's. After a
 * final goal a new series begins with empty marks while the disk is still held, so that replication goes on from exactly that point.
 * On a crash, at any instruction: the next session finds what is here by marks and hashes (local-hashes.ts) and goes on; a session that replicates
 * instead finds no point that it may believe, and compares.
 */
import type { Logger } from 'pino';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { geometryOf } from '../../shared/blocks/geometry.js';
import { digestToText } from '../../shared/blocks/hash.js';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { failpoint } from '../../shared/failpoints.js';
import { PROGRESS_INTERVAL_MS, RESTORE_ROUNDS_MAX, SCAN_QUIET_MS } from '../../shared/limits.js';
import { DISK_LOOK_MS } from '../../shared/limits-disks.js';
import { asPoint, formatBytes, type DiskId } from '../../shared/units.js';
import type { Restored, RestoreGoal } from '../../shared/wire/messages.js';
import type { AgentConfig } from '../config.js';
import type { ReadPool } from '../cycle/read-pool.js';
import type { Sysfs } from '../disks/sysfs.js';
import type { AbsentDisk } from '../disks/absent.js';
import { checkDisk } from '../disks/watch.js';
import { DisksChanged, DisksHealth } from '../disks-health.js';
import type { OpenedDisk } from '../open-disk.js';
import type { Order, ReceiverSession } from '../session/session.js';
import type { AgentStatus } from '../status.js';
import { fingerprint, isStill, type Fingerprint } from '../tracker/scan.js';
import type { MarkTracker } from '../tracker/tracker.js';
import { LocalHashes, takeMarks } from './local-hashes.js';
import { DiskPull } from './pull.js';
import { refusedRestore, type OpenTarget, type RestoreTarget } from './target.js';

export interface RestorationDeps {
  readonly config: AgentConfig;
  readonly clock: Clock;
  readonly log: Logger;
  readonly sysfs: Sysfs;
  readonly tracker: MarkTracker | null;
  readonly random: () => number;
  readonly status: AgentStatus;
  readonly disks: readonly OpenedDisk[];
  /** Protected disks that are not open. */
  readonly absent: readonly AbsentDisk[];
  /** Whether a disk that is away could be opened now. */
  readonly isBack: (disk: AbsentDisk) => Promise<boolean>;
  readonly openTarget: OpenTarget;
  /** Where chunks are decompressed and written from. */
  readonly chunks: ReadPool;
}

interface GoalDisk {
  readonly opened: OpenedDisk;
  readonly goal: RestoreGoal['disks'][number];
  readonly target: RestoreTarget;
  readonly local: LocalHashes;
}

const superseded = (): AfterimageError =>
  new AfterimageError('this goal is not wanted any more', { code: 'cancelled', kind: 'cancelled' });

export class Restoration {
  readonly #deps: RestorationDeps;
  readonly #session: ReceiverSession;
  readonly #stop: AbortSignal;
  readonly #targets = new Map<DiskId, RestoreTarget>();
  readonly #local = new Map<DiskId, LocalHashes>();
  /** Marked, and not yet read again by this session. */
  readonly #fresh = new Map<DiskId, BlockSet>();
  #running = new AbortController();
  #work: Promise<void> = Promise.resolve();
  #onReached = (): void => undefined;
  #saidAtMs = -Infinity;
  #isBusy = false;
  /** Why the last goal was not reached: the same is asked for again and again while home follows. */
  #failure = '';

  constructor(deps: RestorationDeps, session: ReceiverSession, stop: AbortSignal) {
    this.#deps = deps;
    this.#session = session;
    this.#stop = stop;
  }

  /**
   * Serves goals until the session ends or the agent stops. `onReached`: the disks hold a point that was asked for. Throws DisksChanged when they have to be
   * opened anew.
   */
  async run(onReached: () => void): Promise<void> {
    const { disks, log, status } = this.#deps;
    this.#onReached = onReached;
    for (const { disk } of disks) {
      disk.need = null;
      disk.setState('RestoreInProgress', 'this machine runs elsewhere; waiting for a point to restore');
    }
    const stopped = new Promise<void>((resolve) => {
      if (this.#stop.aborted) resolve();
      this.#stop.addEventListener('abort', () => resolve(), { once: true });
    });
    this.#session.onOrder((order) => this.#onOrder(order));
    const over = new AbortController();
    try {
      await Promise.race([this.#session.ended, stopped, this.#lookAtDisks(over.signal)]);
    } finally {
      over.abort();
      this.#giveUp();
      await this.#work;
      for (const target of this.#targets.values()) target.close();
      for (const { disk } of disks) disk.progress = null;
      status.restoring(null);
      log.info('the restoring session is over');
    }
  }

  /** Between goals, which find for themselves what is wrong: a disk that comes back is there for the next one. Never resolves before the signal. */
  async #lookAtDisks(signal: AbortSignal): Promise<void> {
    const health = new DisksHealth(this.#deps);
    while (!signal.aborted) {
      await this.#deps.clock.sleep(DISK_LOOK_MS, signal);
      if (signal.aborted || this.#isBusy) continue;
      this.#mustBeUsable();
      await health.check();
    }
  }

  /** A hash store that failed (its folder was full for a moment) refuses every goal until it is opened again. */
  #mustBeUsable(): void {
    for (const { disk } of this.#deps.disks)
      if (disk.store.failure !== null) throw new DisksChanged(messageOf(disk.store.failure));
  }

  #giveUp(): void {
    const error = superseded();
    this.#running.abort(error);
    this.#session.pull.giveUp(error);
  }

  #onOrder(order: Order): void {
    switch (order.type) {
      case 'restore-goal': {
        this.#giveUp();
        const running = new AbortController();
        this.#running = running;
        // The goal before comes to its end first: two of them must not write to one disk.
        this.#work = this.#work.then(() => this.#goal(order, running.signal));
        return;
      }
      case 'restore-stop':
        this.#giveUp();
        return;
      case 'final-cut':
        void this.#say({
          type: 'final-cut-done',
          request: order.request,
          ok: false,
          point: 0,
          reason: 'this machine is being restored: it does not run here',
        });
        return;
      case 'final-cut-resume':
        void this.#say({ type: 'home-resumed', request: order.request });
        return;
      case 'policy':
        // No points are made here.
        return;
    }
  }

  /** Never rejects. */
  async #goal(goal: RestoreGoal, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    this.#isBusy = true;
    await this.#tryGoal(goal, signal).finally(() => (this.#isBusy = false));
  }

  async #tryGoal(goal: RestoreGoal, signal: AbortSignal): Promise<void> {
    const { log, status } = this.#deps;
    this.#session.pull.begin();
    log.info({ point: goal.point, final: goal.final }, 'restoring');
    try {
      const disks = await this.#reach(goal, signal);
      log.info({ point: goal.point, final: goal.final, disks }, 'the disks hold the point');
      this.#onReached();
      this.#failure = '';
      status.restoring({ point: goal.point, step: 'reached', percent: 100 });
      await this.#say({ type: 'restored', goal: goal.goal, point: goal.point, disks });
      failpoint('agent.restore.reported');
    } catch (error) {
      if (signal.aborted) return this.#idle(goal);
      if (error instanceof AfterimageError && error.kind === 'disconnected') return;
      const isNews = this.#failure !== messageOf(error);
      this.#failure = messageOf(error);
      log[isNews ? 'error' : 'debug']({ err: error, point: goal.point }, `restore failed: ${this.#failure}`);
      status.restoring({ point: goal.point, step: `failed: ${messageOf(error)}`, percent: null });
      const { code, hint } = error instanceof AfterimageError ? error : { code: 'internal', hint: undefined };
      const reason = messageOf(error).slice(0, 2000);
      await this.#say({ type: 'restore-failed', goal: goal.goal, code, reason, hint: hint ?? 'See the agent’s log.' });
    }
  }

  /** The goal was given up: the status must not say that it is still being worked on. */
  #idle(goal: RestoreGoal): void {
    this.#deps.status.restoring({ point: goal.point, step: 'given up', percent: null });
    for (const { disk } of this.#deps.disks) {
      disk.progress = null;
      disk.setState('RestoreInProgress', `point ${goal.point} was given up; waiting for a point to restore`);
    }
  }

  async #reach(goal: RestoreGoal, signal: AbortSignal): Promise<Restored['disks']> {
    const disks = this.#prepare(goal);
    const written = new Map<DiskId, number>();
    let doubts: ReadonlyMap<DiskId, string> = new Map();
    for (let round = 1; ; round++) {
      const found = this.#take();
      for (const d of disks) this.#renewSeries(d, found.get(d.goal.disk));
      for (const d of disks) await d.local.begin(doubts.get(d.goal.disk) ?? found.get(d.goal.disk));
      for (const d of disks) {
        await this.#makeExact(d, goal, signal);
        const pull = new DiskPull(d.local, d.target, d.goal, {
          session: this.#session,
          pool: this.#deps.chunks,
          signal,
          point: goal.point,
          onSegment: (done, of) =>
            this.#step(goal, 'pulling', `${d.opened.disk.device}: segment ${done} of ${of}`, done / of),
        });
        await pull.run();
        written.set(d.goal.disk, (written.get(d.goal.disk) ?? 0) + pull.writtenBytes);
      }
      this.#step(goal, 'checking', 'digests', null);
      doubts = await this.#mismatches(disks, goal.point);
      failpoint('agent.restore.checked');
      if (doubts.size === 0) {
        if (!goal.final) break;
        const restless = await this.#settle(disks, goal, signal);
        if (restless === null) break;
        this.#step(goal, 'checking', restless, null);
        if (round === RESTORE_ROUNDS_MAX) throw stillWritten(restless);
      } else if (round === RESTORE_ROUNDS_MAX) throw wrongDigest([...doubts.values()].join('; '));
    }
    for (const d of disks) d.local.reached({ point: goal.point, digest: d.goal.digest });
    const reports = disks.map(({ goal: { disk, digest }, opened, local }) => ({
      disk,
      digest,
      series: goal.final ? opened.disk.series : null,
      reason: local.reason.slice(0, 2000),
      readBytes: local.readBytes,
      writtenBytes: written.get(disk) ?? 0,
    }));
    if (goal.final) this.#letGo();
    return reports;
  }

  /** Finds the disks, checks them and holds them. Nothing is changed when this throws. */
  #prepare(goal: RestoreGoal): GoalDisk[] {
    const { config, disks, absent, sysfs, openTarget } = this.#deps;
    if (!config.failback.allow) {
      throw refusedRestore(
        'failback-forbidden',
        'this machine’s configuration forbids that its disks are written: `failback: { allow: false }`',
        'Allow it in agent.yaml and restart the agent.',
      );
    }
    const found = goal.disks.map((wanted) => {
      const opened = disks.find(({ disk }) => disk.id === wanted.disk);
      const away = absent.find(({ id }) => id === wanted.disk);
      if (away !== undefined) {
        throw refusedRestore(
          'disk-missing',
          `${away.path} (disk ${away.id}) can't be restored: ${away.reason}`,
          `All disks of the copy must be there when it comes home. Connect it, or give its place to a new one: \`afterimage-agent protect --as ${away.id} DEVICE\`.`,
        );
      }
      if (opened === undefined) {
        throw refusedRestore(
          'disk-missing',
          `disk ${wanted.disk} of point ${goal.point} is not protected on this machine`,
          `Connect it; or give its place to a new one: \`afterimage-agent protect --as ${wanted.disk} DEVICE\`.`,
        );
      }
      checkFits(opened, wanted);
      checkKeys(opened, wanted, goal.point);
      const verdict = checkDisk(sysfs, opened.inspected.state);
      if (verdict.is !== 'unchanged')
        throw refusedRestore(
          'disk-changed',
          verdict.reason,
          'See that it is as it was; the agent opens its disks anew.',
        );
      return { opened, wanted };
    });
    return found.map(({ opened, wanted }) => {
      const { disk, inspected } = opened;
      let target = this.#targets.get(disk.id);
      if (target === undefined) {
        target = openTarget(inspected.source, disk.device, disk.geometry);
        this.#targets.set(disk.id, target);
      }
      let local = this.#local.get(disk.id);
      if (local === undefined) {
        local = new LocalHashes(disk);
        this.#local.set(disk.id, local);
        // Uncommitted marks of earlier sessions and processes.
        this.#fresh.set(disk.id, disk.carry.clone());
      }
      disk.setState('RestoreInProgress', `restoring point ${goal.point}`);
      return { opened, goal: wanted, target, local };
    });
  }

  #take(): Map<DiskId, string> {
    const { tracker, disks } = this.#deps;
    const tracked = disks.map(({ disk }) => disk).filter((disk) => disk.trackable !== null);
    return takeMarks(tracker, tracked, this.#fresh);
  }

  /** Marks in doubt stay so under their series: a new one begins before the disk is read, so that what is written from then on is known. */
  #renewSeries({ opened: { disk }, goal }: GoalDisk, doubt: string | undefined): void {
    const { tracker } = this.#deps;
    if (doubt === undefined || disk.trackable === null || tracker === null) return;
    disk.series = tracker.restartSeries(disk.id, doubt).series;
    disk.carry = new BlockSet();
    this.#fresh.set(goal.disk, new BlockSet());
  }

  async #makeExact({ opened: { disk }, local }: GoalDisk, goal: RestoreGoal, signal: AbortSignal): Promise<void> {
    const fresh = this.#fresh.get(disk.id) ?? new BlockSet();
    const startedAtMs = this.#deps.clock.monotonicMs();
    const { readBytes: readBytesBefore, sentBytes: sentBytesBefore } = disk.counters;
    await local.makeExact(fresh, this.#deps.random, {
      signal,
      onRead: (readBytes, totalBytes) => {
        disk.progress = { processedBytes: readBytes, totalBytes, startedAtMs, readBytesBefore, sentBytesBefore };
        const detail = `${disk.device}: ${formatBytes(readBytes)} of ${formatBytes(totalBytes)} (${local.reason})`;
        this.#step(goal, 'comparing', detail, totalBytes === 0 ? 1 : readBytes / totalBytes);
      },
    });
    disk.progress = null;
    this.#fresh.set(disk.id, new BlockSet());
  }

  /** Disks whose hashes don't add up to the point's digest. One that was read whole for it can't be helped by reading it again. */
  async #mismatches(disks: readonly GoalDisk[], point: number): Promise<Map<DiskId, string>> {
    const wrong = new Map<DiskId, string>();
    for (const d of disks) {
      const { goal, local } = d;
      if (await holdsPoint(d)) continue;
      const why = `the digest of disk ${goal.disk} is not that of point ${point}`;
      if (local.wasReadWhole) throw wrongDigest(why);
      this.#deps.log.warn({ disk: goal.disk, point }, `${why}: all of it is read`);
      wrong.set(goal.disk, why);
    }
    return wrong;
  }

  /**
   * Ends a final restore: reads back what was written, begins a new series, commits the hash stores. Returns why it has to be done again (somebody
   * else wrote); null when it is done.
   */
  async #settle(disks: readonly GoalDisk[], goal: RestoreGoal, signal: AbortSignal): Promise<string | null> {
    const { tracker } = this.#deps;
    for (const { target } of disks) {
      await target.durable();
      target.closeWriter();
    }
    const before = await this.#fingerprints(disks);
    const doubts = this.#take();
    for (const d of disks) {
      const doubt = doubts.get(d.goal.disk);
      if (doubt !== undefined) {
        this.#renewSeries(d, doubt);
        return doubt;
      }
      if (d.opened.disk.trackable === null) await readBack(d.local);
      await this.#makeExact(d, goal, signal);
    }
    for (const d of disks) {
      if (!(await holdsPoint(d))) return `somebody else wrote to disk ${d.goal.disk} while it was restored`;
    }
    for (const { opened } of disks) {
      if (opened.disk.trackable === null || tracker === null) continue;
      opened.disk.series = tracker.restartSeries(opened.disk.id, `restored to point ${goal.point}`).series;
      opened.disk.carry = new BlockSet();
      this.#fresh.set(opened.disk.id, new BlockSet());
    }
    failpoint('agent.restore.series-restarted');
    // A write between the last look at the marks and the new series would be seen by neither.
    const after = await this.#fingerprints(disks);
    for (const [i, fingerprintBefore] of before.entries()) {
      const verdict = isStill(fingerprintBefore, after[i] as Fingerprint);
      if (!verdict.still) return `somebody else writes to the disk: ${verdict.reason}`;
    }
    for (const { opened } of disks) {
      await opened.disk.store.endRestore(asPoint(goal.point), opened.disk.series);
      opened.disk.lastPoint = goal.point;
    }
    failpoint('agent.restore.committed');
    return null;
  }

  async #fingerprints(disks: readonly GoalDisk[]): Promise<Fingerprint[]> {
    const { clock, sysfs } = this.#deps;
    // What we wrote ourselves must not look as if it were written just now.
    if (disks.some(({ opened }) => opened.inspected.source.kind === 'file')) await clock.sleep(SCAN_QUIET_MS * 2);
    return Promise.all(disks.map(({ opened }) => fingerprint(sysfs, opened.inspected.source, clock)));
  }

  #letGo(): void {
    for (const target of this.#targets.values()) target.close();
    this.#targets.clear();
    for (const { disk } of this.#deps.disks) disk.setState('RestoreInProgress', 'restored; waiting to take over');
  }

  #step(goal: RestoreGoal, step: string, detail: string, share: number | null): void {
    const { clock, status } = this.#deps;
    const percent = share === null ? null : Math.round(share * 1000) / 10;
    status.restoring({ point: goal.point, step: `${step} (${detail})`, percent });
    const nowMs = clock.monotonicMs();
    if (share !== null && share < 1 && nowMs - this.#saidAtMs < PROGRESS_INTERVAL_MS) return;
    this.#saidAtMs = nowMs;
    void this.#say({ type: 'restore-step', goal: goal.goal, step, detail: detail.slice(0, 2000), percent });
  }

  /** Nobody hears it when the session is over; whoever needs to know finds out at the next welcome. */
  #say(message: Parameters<ReceiverSession['say']>[0]): Promise<void> {
    return this.#session.say(message).catch(() => undefined);
  }
}

/** Nobody marks what others write to a disk without tracking: only a look at all of it, while it stands still, proves what it holds. */
async function readBack(local: LocalHashes): Promise<void> {
  const { reason } = local;
  await local.begin('what was written is read back');
  local.reason = reason;
}

/** Hashes of another key can't be compared with those of this disk. */
function checkKeys({ disk }: OpenedDisk, { hashCheck = '' }: RestoreGoal['disks'][number], point: number): void {
  if (disk.cipher.hashCheck === hashCheck) return;
  const made = hashCheck === '' ? 'in the clear' : `with the source’s hash key ${hashCheck}`;
  const here =
    disk.cipher.hashCheck === '' ? 'this agent has no key' : `this agent has hash key ${disk.cipher.hashCheck}`;
  throw refusedRestore(
    'key-differs',
    `point ${point} of disk ${disk.id} was made ${made}, and ${here}`,
    hashCheck === ''
      ? 'Take `encryption:` out of agent.yaml until the machine is home, and restart the agent.'
      : 'Set `encryption: { keyFile }` in agent.yaml to the key file that it was made with, and restart the agent.',
  );
}

/** Whether the hashes of what the disk holds add up to the point's digest. */
async function holdsPoint({ goal, local }: GoalDisk): Promise<boolean> {
  const digest = await local.digest(geometryOf(goal.sizeBytes, goal.blockBytes).blockCount);
  return digest !== null && digestToText(digest) === goal.digest;
}

function checkFits({ disk }: OpenedDisk, wanted: RestoreGoal['disks'][number]): void {
  const { sizeBytes, blockBytes } = disk.geometry;
  if (sizeBytes < wanted.sizeBytes) {
    throw refusedRestore(
      'disk-too-small',
      `${disk.device} has ${formatBytes(sizeBytes)}, disk ${disk.id} of the point has ${formatBytes(wanted.sizeBytes)}`,
      `Connect a larger one and give it the disk's place: \`afterimage-agent protect --as ${disk.id} DEVICE\`.`,
    );
  }
  if (blockBytes !== wanted.blockBytes) {
    throw refusedRestore(
      'disk-block-size',
      `${disk.device} is protected with blocks of ${blockBytes} bytes, the point has blocks of ${wanted.blockBytes}`,
      `Protect it again: \`afterimage-agent protect --as ${disk.id} --block-bytes ${wanted.blockBytes} ${disk.device}\`.`,
    );
  }
}

const wrongDigest = (why: string): AfterimageError =>
  new AfterimageError(`${why}, although all that differed was written`, {
    code: 'restore-digest',
    kind: 'corrupt',
    hint: 'Run `afterimage verify` for the point, and look for errors of the disk in the kernel log.',
  });

const stillWritten = (why: string): AfterimageError =>
  refusedRestore('disk-not-still', why, 'Find what writes to the disk (nothing may), stop it, and try again.');
