/**
 * The failover engine: what operators ask for becomes jobs, one at a time per machine, and copies that run here are kept.
 *
 * Promises: of two operations at once create-if-absent of the recovery object lets one begin, the other is refused and told what runs; a job that
 * was interrupted goes on at the next start. Owns nothing that the store or the copies' folders don't hold.
 */
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { TASK_BACKOFF_MAX_MS, TASK_BACKOFF_MIN_MS } from '../../shared/limits.js';
import type { DiskId, MachineId } from '../../shared/units.js';
import { isUuid } from '../../shared/units.js';
import { listMachines } from '../catalog/machines.js';
import type { Manifest } from '../catalog/manifest.js';
import { parsePointSelector } from '../catalog/point-selector.js';
import { loadHead, MachineReader } from '../catalog/reader.js';
import { initialRecovery, type Job, type Recovery } from '../catalog/recovery.js';
import { loadRecovery } from '../catalog/recovery-io.js';
import { listJobs } from '../catalog/recovery-records.js';
import { Copies } from './copies.js';
import { HomeFollowers } from './follow.js';
import { Guardian } from './guardian.js';
import { beginJob, contentOf, endJob, LOST_WITH_RECEIVER } from './jobs.js';
import {
  operationRequestSchema,
  type OperationRequest,
  type RecoveryService,
  type RecoveryView,
} from './operations.js';
import { DEFINITIONS } from './operations/index.js';
import { askOwner } from './ownership.js';
import type { FailoverParts, FailoverSettings } from './parts.js';
import { JobRunner } from './runner.js';
import { allowedOperations, type Allowed, type Facts } from './states.js';
import { isTransient, Steps } from './steps.js';

interface Running {
  readonly runner: JobRunner;
  readonly done: Promise<void>;
}

/** What is counted for metrics, since the start. */
export interface FailoverFigures {
  readonly jobs: Readonly<Record<Job['state'], number>>;
  readonly copies: readonly Copies['all'][number][];
}

export class FailoverEngine implements RecoveryService {
  readonly #parts: FailoverParts;
  readonly #settings: FailoverSettings;
  readonly #copies: Copies;
  readonly #followers: HomeFollowers;
  readonly #guardian: Guardian;
  readonly #running = new Map<MachineId, Running>();
  readonly #stopped = new AbortController();
  #started: Promise<void> = Promise.resolve();
  readonly #ended: Record<Job['state'], number> = { InProgress: 0, Succeeded: 0, Failed: 0, Cancelled: 0 };

  constructor(parts: FailoverParts, settings: FailoverSettings) {
    this.#parts = parts;
    this.#settings = settings;
    this.#copies = new Copies(parts, settings);
    this.#followers = new HomeFollowers(parts);
    this.#guardian = new Guardian({
      parts,
      settings,
      copies: this.#copies,
      followers: this.#followers,
      busy: this.#running,
      stopped: this.#stopped.signal,
    });
  }

  get figures(): FailoverFigures {
    return { jobs: { ...this.#ended, InProgress: this.#running.size }, copies: this.#copies.all };
  }

  /** Serves the copies of this host again and goes on with interrupted jobs; resolves when that is under way. */
  start(): Promise<void> {
    this.#started = this.#start();
    return this.#started;
  }

  async #start(): Promise<void> {
    this.#guardian.answer();
    const first = await this.#guardian.remembered();
    await Promise.all(first.map((machine) => this.#resume(machine)));
    this.#guardian.start();
    for (const id of await this.#machines()) {
      if (this.#stopped.signal.aborted) return;
      if (!first.includes(id)) await this.#resume(id);
    }
  }

  /** However long the store takes to answer: nothing else looks at a job whose machine has no copy on this host yet, and nobody may take it from us. */
  async #machines(): Promise<MachineId[]> {
    const { store, clock, log } = this.#parts;
    const { signal } = this.#stopped;
    for (let waitMs = TASK_BACKOFF_MIN_MS; ; waitMs = Math.min(waitMs * 2, TASK_BACKOFF_MAX_MS)) {
      try {
        return (await listMachines(store)).map(({ id }) => id);
      } catch (error) {
        if (!isTransient(error) || signal.aborted) throw error;
        if (waitMs === TASK_BACKOFF_MIN_MS)
          log.warn({ err: error }, `interrupted jobs go on when the store answers: ${messageOf(error)}`);
        await clock.sleep(waitMs, signal);
      }
    }
  }

  /** Jobs are interrupted, copies are let go: guests go on and wait for the next start. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    // Its failure was told to whoever called start().
    await this.#started.catch(() => undefined);
    await Promise.allSettled([...this.#running.values()].map((running) => running.done));
    await this.#followers.stopAll();
    await this.#guardian.settled();
    await this.#copies.close();
  }

  async list(): Promise<readonly RecoveryView[]> {
    const views: RecoveryView[] = [];
    for (const { id } of await listMachines(this.#parts.store)) views.push(await this.view(id));
    return views;
  }

  async view(machine: MachineId): Promise<RecoveryView> {
    const recovery = await loadRecovery(this.#parts.store, machine);
    const head = await this.#head(machine);
    const live = this.#running.get(machine)?.runner.job ?? null;
    const shown =
      recovery !== null && live !== null && recovery.job?.id === live.id ? { ...recovery, job: live } : recovery;
    const facts = this.#facts(machine, head);
    return {
      machine: { id: machine, name: head?.machine.name ?? machine },
      lastPoint: head?.lastPoint ?? 0,
      generation: head?.generation ?? 0,
      recovery: shown,
      allowedOperations: allowedOperations(recovery, facts),
      instances: this.#copies.of(machine).map((copy) => copy.view()),
      homeAgent: facts.homeAgent,
      homeAt: facts.homeAt,
    };
  }

  async begin(machine: MachineId, input: OperationRequest): Promise<Job> {
    const request = operationRequestSchema.parse(input);
    const recovery = await loadRecovery(this.#parts.store, machine);
    const head = await this.#head(machine);
    if (head === null) throw this.#refused(machine, 'it has no recovery point yet');
    const asked = await this.#askForJob(machine, recovery);
    const facts = { ...this.#facts(machine, head), ...asked };
    const verdict = allowedOperations(recovery, facts).find((a) => a.operation === request.operation);
    if (verdict?.allowed !== true) throw this.#refused(head.machine.name, verdict?.reason ?? 'unknown', verdict);
    await this.#mustFind(head, request);
    const running = this.#running.get(machine);
    if (request.operation === 'cancel' && running !== undefined) return this.#cancel(machine, running);
    // Its cancel would be taken for that of the failover, which may not be allowed: home's disks may be half restored.
    if (recovery?.job?.receiver === this.#settings.receiver) {
      throw this.#refused(head.machine.name, `job ${recovery.job.operation} was interrupted and has not gone on yet`);
    }
    return this.#begin(machine, request, recovery, head);
  }

  /** A point that doesn't exist, or that lacks a disk, is bad input: no job begins for it. */
  async #mustFind(head: Manifest, request: OperationRequest): Promise<void> {
    if (!('point' in request)) return;
    const view = new MachineReader(this.#parts.store, head);
    const selector = parsePointSelector(request.point);
    // A planned failover makes its point itself; which disks that can hold, the agent at home knows.
    if (request.operation === 'planned-failover') await view.findPoint(selector);
    else await view.findWhole(selector, request.withoutDisks ?? []);
  }

  async job(machine: MachineId, id: string): Promise<Job> {
    const live = this.#running.get(machine)?.runner.job;
    if (live?.id === id) return live;
    const recovery = isUuid(id) ? await loadRecovery(this.#parts.store, machine) : null;
    const recent = [recovery?.job, ...(recovery?.jobs ?? [])].find((job) => job?.id === id);
    if (recent != null) return recent;
    for await (const job of listJobs(this.#parts.store, machine)) if (job.id === id) return job;
    throw new AfterimageError(`machine ${machine} has no job ${id}`, {
      code: 'job-unknown',
      kind: 'not-found',
      hint: 'See `afterimage jobs`.',
    });
  }

  /**
   * Has the machine's copy send damaged blocks once more, as its agent at home would; null: none is replicated here, ask at home. Throws code
   * `copy-lacks-blocks` when the copy doesn't have them either.
   */
  resend(
    machine: MachineId,
    disk: DiskId,
    extents: readonly (readonly [number, number])[],
    signal: AbortSignal,
  ): Promise<{ readonly point: number }> | null {
    const copy = this.#copies.of(machine).find((one) => one.isReplicating);
    return copy === undefined ? null : copy.resend(disk, extents, signal);
  }

  /** Id of the machine's copy, if it runs here and has all of itself on this host. */
  wholeCopy(machine: MachineId): string | null {
    return this.#copies.of(machine).find((one) => one.isReplicating && one.isWhole)?.instance.id ?? null;
  }

  /** Resolves when no job of the machine runs here. */
  async settled(machine: MachineId): Promise<void> {
    await this.#running.get(machine)?.done.catch(() => undefined);
  }

  async #begin(machine: MachineId, request: OperationRequest, recovery: Recovery | null, head: Manifest): Promise<Job> {
    const { parts, settings } = { parts: this.#parts, settings: this.#settings };
    const nowMs = parts.clock.nowMs();
    const before =
      recovery === null
        ? initialRecovery(machine, head.generation)
        : endJob(contentOf(recovery), nowMs, LOST_WITH_RECEIVER);
    const content = beginJob(before, {
      id: parts.randomId(),
      receiver: settings.receiver,
      request,
      tasks: DEFINITIONS[request.operation].tasks.map((task) => task.name),
      nowMs,
      data: {
        instance: parts.randomId(),
        previousInstance: before.failover?.id ?? null,
        originTest: before.testFailover.state,
      },
    });
    const steps = await Steps.begin(parts, recovery, content, this.#stopped.signal).catch(async (error: unknown) => {
      // It may have been recorded all the same: then it is ours to go on with, as soon as the store says so.
      if (isTransient(error)) void this.#resume(machine);
      if (!(error instanceof AfterimageError && error.code === 'recovery-moved')) throw error;
      const other = await loadRecovery(parts.store, machine);
      throw this.#refused(head.machine.name, `${other?.job?.operation ?? 'another operation'} came first`);
    });
    const { job } = steps.current;
    if (job === null) throw new Error('a job was not recorded');
    this.#launch(machine, steps);
    return job;
  }

  #launch(machine: MachineId, steps: Steps): void {
    const deps = { parts: this.#parts, settings: this.#settings, copies: this.#copies };
    const runner = new JobRunner(deps, machine, steps, this.#stopped.signal);
    const done = this.#followers
      .stop(machine)
      .then(() => runner.run())
      .then(
        () => {
          const state = steps.current.jobs[0]?.state;
          if (state !== undefined) this.#ended[state]++;
        },
        (error: unknown) => {
          if (!this.#stopped.signal.aborted)
            this.#parts.log.error({ err: error, machine }, `a job is left alone: ${messageOf(error)}`);
        },
      )
      .finally(() => this.#running.delete(machine));
    this.#running.set(machine, { runner, done });
  }

  async #cancel(machine: MachineId, running: Running): Promise<Job> {
    const id = running.runner.job?.id ?? '';
    running.runner.cancel();
    await running.done;
    const job = await this.job(machine, id);
    if (job.state === 'Cancelled') return job;
    throw this.#refused(machine, `the cancel came too late: job ${job.operation} has ${job.state.toLowerCase()}`);
  }

  async #resume(machine: MachineId): Promise<void> {
    try {
      const recovery = await this.#guardian.read(machine);
      await this.#guardian.resume(machine, recovery);
      if (recovery?.job?.receiver !== this.#settings.receiver || this.#running.has(machine)) return;
      const { job } = recovery;
      this.#parts.log.info({ machine, job: job.id, operation: job.operation }, 'an interrupted job goes on');
      this.#launch(machine, new Steps(this.#parts, recovery, this.#stopped.signal));
    } catch (error) {
      // One machine that can't be resumed must not keep the others from it; the guardian looks again.
      this.#parts.log.error({ err: error, machine }, `a machine could not be resumed: ${messageOf(error)}`);
    }
  }

  /** A job of another receiver stands in the way unless that receiver is gone. */
  async #askForJob(machine: MachineId, recovery: Recovery | null): Promise<Pick<Facts, 'answering' | 'silent'>> {
    const owner = recovery?.job?.receiver;
    if (owner === undefined || owner === this.#settings.receiver) return { answering: [], silent: [] };
    const answer = await askOwner(this.#parts, this.#settings, machine, owner, this.#stopped.signal);
    return answer === null ? { answering: [], silent: [owner] } : { answering: [owner], silent: [] };
  }

  #facts(machine: MachineId, head: Manifest | null): Facts {
    const homeAgent = this.#parts.home.stateOf(machine);
    const others = this.#parts.fleet?.others ?? [];
    return {
      receiver: this.#settings.receiver,
      hasPoint: (head?.lastPoint ?? 0) > 0,
      homeAgent,
      homeAt: homeAgent === null ? (others.find((o) => o.receiver === head?.owner?.receiver) ?? null) : null,
      others,
      answering: [],
      silent: [],
      lost: this.#guardian.lost,
    };
  }

  async #head(machine: MachineId): Promise<Manifest | null> {
    return loadHead(this.#parts.store, machine);
  }

  #refused(name: string, reason: string, verdict?: Allowed): AfterimageError {
    const what = verdict === undefined ? '' : `${verdict.operation} of `;
    return new AfterimageError(`${what}machine ${name} is refused: ${reason}`, {
      code: 'operation-refused',
      kind: 'refused',
      hint: 'See `afterimage status` for what is going on and what is allowed.',
    });
  }
}
