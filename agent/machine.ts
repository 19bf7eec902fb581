/**
 * The machine that this agent protects: its disks, and the loop of connecting, replicating and waiting to connect again.
 * An outage of the receiver costs bits in bitmaps and nothing else; a refusal is shown and asked about again, seldom.
 */
import type { Logger } from 'pino';
import type { Clock } from '../shared/clock.js';
import { AfterimageError, messageOf } from '../shared/errors.js';
import {
  CONNECT_TIMEOUT_MS,
  FAILED_OVER_RETRY_MS,
  RECONNECT_BACKOFF_MIN_MS,
  REFUSED_RETRY_MS,
} from '../shared/limits.js';
import { DISK_RULES_LOOK_MS } from '../shared/limits-disks.js';
import { FLEET_CONNECT_TIMEOUT_MS } from '../shared/limits-fleet.js';
import { failpoint } from '../shared/failpoints.js';
import { CLOSE } from '../shared/wire/close-codes.js';
import { PROTOCOL_VERSION, type Hello } from '../shared/wire/messages.js';
import type { AgentConfig } from './config.js';
import type { CycleResult } from './cycle/machine-cycle.js';
import { isOfOneDisk, type AbsentDisk } from './disks/absent.js';
import { DisksChanged } from './disks-health.js';
import { helloOf } from './hello.js';
import type { FinalCutting, MachineParts } from './machine-parts.js';
import type { SourceKeys } from './keys/source-keys.js';
import { WorkLimits } from './load/work-limits.js';
import { canBeOpened, closeDisk, type OpenContext, type OpenedDisk } from './open-disk.js';
import { Replication } from './replication.js';
import { Restoration } from './restore/restoration.js';
import { ApplicationPoints } from './quiesce/points/application-points.js';
import type { PointRequest } from './quiesce/machine-asked.js';
import { backoffMs } from './session/backoff.js';
import type { Credentials } from './session/credentials.js';
import { NO_FLEET, Route } from './session/route.js';
import { ReceiverSession, SessionEnded } from './session/session.js';
import { AgentStatus } from './status.js';

/** Wait before disks that could not be opened are tried again. */
const REOPEN_MS = 5_000;

export interface MachineDeps {
  readonly config: AgentConfig;
  readonly credentials: Credentials;
  readonly clock: Clock;
  readonly log: Logger;
  readonly program: string;
  readonly random: () => number;
  readonly randomId: () => string;
  readonly parts: MachineParts;
}

export class AgentMachine {
  readonly status: AgentStatus;
  readonly #deps: MachineDeps;
  readonly #limits: WorkLimits;
  readonly #session: string;
  #disks: OpenedDisk[] = [];
  /** Protected, and not open. */
  #absent: AbsentDisk[] = [];
  #replication: Replication | null = null;
  #reopen = new AbortController();
  /** Resolves when the disks that are open now are closed. */
  #closed: Promise<void> = Promise.resolve();
  #generation: number;
  #keys: SourceKeys | null = null;
  #finalCut: FinalCutting | null = null;
  #route: Route | null = null;
  #keeping: Promise<void> = Promise.resolve();
  #quiesceWarnings: ReadonlySet<string> = new Set();
  readonly #applicationPoints: ApplicationPoints;
  #undone: Promise<void> = Promise.resolve();
  /** Why the disks are not open. */
  problem: string | null = null;

  constructor(deps: MachineDeps) {
    this.#deps = deps;
    this.#session = deps.randomId();
    this.#limits = new WorkLimits(deps.config, deps.clock, deps.parts.load ?? null);
    this.#applicationPoints = new ApplicationPoints({
      config: deps.config.applicationPoints,
      clock: deps.clock,
      random: deps.random,
      store: deps.parts.pointHistory,
    });
    const { machine, name, generation, receiver } = deps.credentials;
    this.#generation = generation;
    this.status = new AgentStatus(
      deps.clock,
      { program: deps.program, machine: { id: machine, name, generation }, address: receiver },
      () => this.#disks,
      () => this.#absent,
      () => deps.parts.tracker.tracker,
      () => this.#applicationPoints.status(),
      () => this.#limits.status(),
    );
  }

  /** Replicates until the signal is aborted. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log, parts } = this.#deps;
    await this.#applicationPoints.load();
    this.#undone = (parts.undoQuiesce?.() ?? Promise.resolve()).catch((error: unknown) => {
      log.error({ err: error }, `hooks could not be called to let applications go: ${messageOf(error)}`);
    });
    await this.#lookByRules();
    void this.#followRules(signal);
    while (!signal.aborted) {
      this.#reopen = new AbortController();
      let closed = (): void => undefined;
      this.#closed = new Promise((resolve) => (closed = resolve));
      const stop = AbortSignal.any([signal, this.#reopen.signal]);
      try {
        await this.#openDisks();
        this.problem = null;
        if (this.#disks.length === 0) {
          this.status.disconnected('no disk is protected', null);
          log.warn('no disk is protected: `afterimage-agent protect DEVICE`');
          await clock.sleep(2 ** 31 - 1, stop);
        } else {
          await this.#connectForEver(stop);
        }
      } catch (error) {
        // No session without disks: the status must not say that the last one still stands.
        this.status.disconnected(messageOf(error), REOPEN_MS);
        if (!(error instanceof DisksChanged)) {
          this.problem = messageOf(error);
          log.error({ err: error }, `disks can't be opened: ${messageOf(error)}`);
          await clock.sleep(REOPEN_MS, stop);
        }
      } finally {
        await this.#closeDisks();
        closed();
      }
    }
    this.#finalCut?.close();
    this.#deps.parts.tracker.tracker?.close();
  }

  /** A disk that appears is protected, without a word from anybody, when a rule takes it. */
  async #followRules(signal: AbortSignal): Promise<void> {
    const { clock, parts } = this.#deps;
    while (parts.protectByRule !== undefined && !signal.aborted) {
      await clock.sleep(DISK_RULES_LOOK_MS, signal);
      if (!signal.aborted && (await this.#lookByRules())) void this.reload();
    }
  }

  /** Whether there is a new disk. */
  async #lookByRules(): Promise<boolean> {
    const { log, parts } = this.#deps;
    try {
      return (await parts.protectByRule?.()) ?? false;
    } catch (error) {
      log.error({ err: error }, `rules of disks can't be followed: ${messageOf(error)}`);
      return false;
    }
  }

  /**
   * Opens the disks anew: the list of protected disks was changed. Resolves when those that were open are closed: what was kept of one that is given up can
   * be removed then.
   */
  reload(): Promise<void> {
    const closed = this.#closed;
    this.#reopen.abort();
    return closed;
  }

  syncNow(): Promise<CycleResult> {
    return this.#connected().syncNow();
  }

  makePoint(request: PointRequest): Promise<CycleResult> {
    return this.#connected().makePoint(request);
  }

  compareAll(reason: string): Promise<void> {
    return this.#connected().compareAll(reason);
  }

  #connected(): Replication {
    if (this.#replication !== null) return this.#replication;
    throw new AfterimageError('the agent is not connected to its receiver', {
      code: 'not-connected',
      kind: 'refused',
      hint: 'See `afterimage-agent status` for the reason.',
    });
  }

  async #connectForEver(stop: AbortSignal): Promise<void> {
    const { clock, log, random } = this.#deps;
    const route = await this.#openRoute();
    let failures = 0;
    let said = '';
    while (!stop.aborted) {
      const attempt = { address: route.next(), connected: false, welcomed: false };
      const ended = await this.#connectOnce(attempt, route, stop, () => (failures = 0));
      if (failures === 0) said = '';
      if (stop.aborted) return;
      if (ended instanceof SessionEnded && ended.close?.code === CLOSE.failedOver.code) this.#finalCut?.answered(true);
      this.#finalCut?.unanswered();
      const pace = route.ended({ ...attempt, ended: ended instanceof SessionEnded ? ended : null });
      if (pace === 'now') {
        this.status.disconnected(messageOf(ended), 0);
        log.info({ reason: messageOf(ended) }, 'going to another receiver');
        continue;
      }
      if (pace === 'round') failures++;
      if (ended instanceof SessionEnded && ended.close !== null && ended.close.retry === 'seldom') {
        this.status.refused(ended.close.name, messageOf(ended), ended.close.hint);
        // The receiver answers: when it is away for a moment later, a failback must not wait for a backoff that refusals have made long.
        failures = 1;
      }
      const waitMs = pace === 'next' ? RECONNECT_BACKOFF_MIN_MS * random() : retryMs(ended, failures, random);
      this.status.disconnected(messageOf(ended), waitMs);
      const hint = ended instanceof AfterimageError ? ended.hint : undefined;
      // Said once: a machine that is failed over may go on asking for weeks.
      log[messageOf(ended) === said ? 'debug' : 'warn'](
        { receiver: attempt.address, reason: messageOf(ended), hint, retryInMs: Math.round(waitMs) },
        'not connected to the receiver',
      );
      said = messageOf(ended);
      await clock.sleep(waitMs, stop);
      this.#mustBeUsable();
    }
  }

  /** A hash store that failed, wherever in a session that was, refuses everything until it is opened again. */
  #mustBeUsable(): void {
    for (const { disk } of this.#disks) {
      const { failure } = disk.store;
      if (failure !== null) throw new DisksChanged(messageOf(failure));
    }
  }

  /** One connection, from dialling to its end; resolves to why it ended. */
  async #connectOnce(
    attempt: { readonly address: string; connected: boolean; welcomed: boolean },
    route: Route,
    stop: AbortSignal,
    onProgress: () => void,
  ): Promise<unknown> {
    const { clock, log, credentials, config, random, randomId, parts } = this.#deps;
    let session: ReceiverSession | null = null;
    const onStop = (): void => session?.close('the agent is stopping');
    try {
      this.#finalCut ??= await parts.finalCut({ config, clock, log, status: this.status });
      this.status.dialling(attempt.address);
      const timeoutMs = route.hasOthers ? FLEET_CONNECT_TIMEOUT_MS : CONNECT_TIMEOUT_MS;
      const receiver = { ...credentials, receiver: attempt.address };
      const transport = await parts.connect(receiver, { clock, signal: stop, timeoutMs });
      attempt.connected = true;
      const open = new ReceiverSession(transport, this.#limits.bandwidth, log, clock);
      session = open;
      open.onFleet((fleet) => {
        if (route.learnt(fleet)) this.#keepRoute(route);
      });
      stop.addEventListener('abort', onStop, { once: true });
      const welcome = await open.hello(this.#hello(route));
      attempt.welcomed = true;
      this.#finalCut.answered(welcome.mode === 'restore');
      if (route.welcomed(attempt.address)) this.#keepRoute(route);
      await this.#granted(welcome.generation);
      this.status.connected(welcome);
      const { mode, epoch, lastPoint } = welcome;
      log.info({ receiver: attempt.address, mode, epoch, lastPoint }, 'connected to the receiver');
      const deps = {
        config,
        clock,
        log,
        sysfs: parts.sysfs,
        tracker: parts.tracker.tracker,
        random,
        status: this.status,
        disks: this.#disks,
        absent: this.#absent,
        isBack: (disk: AbsentDisk) => this.#isBack(disk),
      };
      if (welcome.mode === 'restore') {
        const { openTarget, chunks } = parts.restore;
        await new Restoration({ ...deps, openTarget, chunks: chunks() }, open, stop).run(onProgress);
      } else {
        const { messages: pool, arena } = parts.memory;
        const points = { applicationPoints: this.#applicationPoints, undone: this.#undone };
        const more = { pool, arena, randomId, finalCut: this.#finalCut, limits: this.#limits, ...points };
        const replication = new Replication({ ...deps, ...more }, open, stop);
        this.#replication = replication;
        await replication.run(welcome, onProgress);
      }
      return await open.ended;
    } catch (error) {
      if (error instanceof DisksChanged) throw error;
      if (session === null || error instanceof SessionEnded) return error;
      if (error instanceof AfterimageError && error.kind === 'disconnected') {
        // Whatever was being sent knows only that the connection is gone; the session knows why.
        session.close('session over');
        return await session.ended;
      }
      log.error({ err: error }, `session given up: ${messageOf(error)}`);
      return error;
    } finally {
      this.#replication = null;
      stop.removeEventListener('abort', onStop);
      session?.close('session over');
      await session?.ended;
    }
  }

  async #openRoute(): Promise<Route> {
    const { credentials, config, random, parts } = this.#deps;
    const fixed = [...new Set([credentials.receiver, ...config.receivers])];
    this.#route ??= new Route(fixed, (await parts.fleet?.load()) ?? NO_FLEET, random);
    return this.#route;
  }

  /** Without it the agent goes on all the same; after a restart it may have to look longer. */
  #keepRoute(route: Route): void {
    const { parts, log } = this.#deps;
    // One after the other: an older list must not be written over a newer one.
    this.#keeping = this.#keeping
      .then(() => parts.fleet?.keep(route.fleet))
      .catch((error: unknown) => {
        log.warn({ err: error }, `the receivers that are known could not be kept: ${messageOf(error)}`);
      });
  }

  #hello(route: Route): Hello {
    const { credentials, program, parts } = this.#deps;
    const self = {
      protocol: PROTOCOL_VERSION,
      program,
      machine: credentials.machine,
      generation: this.#generation,
      hardwareId: parts.hardwareId(),
      session: this.#session,
      description: parts.describe(),
      ...(this.#keys === null ? {} : { encryption: this.#keys.hello }),
    };
    const { soFar } = route;
    return { ...helloOf(self, this.#disks, parts.tracker.tracker), ...(soFar === undefined ? {} : { route: soFar }) };
  }

  /** A higher generation is kept before anything is done under it: an agent that forgot it would be refused as one of the past. */
  async #granted(generation: number): Promise<void> {
    if (generation <= this.#generation) return;
    const { parts, log } = this.#deps;
    await parts.keepGeneration(generation);
    failpoint('agent.generation.kept');
    log.info({ from: this.#generation, to: generation }, 'the receiver granted this machine a new generation');
    this.#generation = generation;
    this.status.generation(generation);
  }

  async #openDisks(): Promise<void> {
    const { credentials, parts } = this.#deps;
    const list = await parts.protection();
    this.#keys = (await parts.sourceKeys?.(credentials.machine)) ?? null;
    const context = await this.#openContext();
    const before = this.#absent;
    this.#absent = [];
    let first: AfterimageError | null = null;
    for (const entry of list.disks) {
      try {
        this.#disks.push(await parts.openDisk(entry, list, this.#disks, context));
      } catch (error) {
        if (!isOfOneDisk(error)) throw error;
        first ??= error;
        this.#setAside({ id: entry.id, path: entry.path, reason: error.message }, before, error.hint);
      }
    }
    if (this.#disks.length === 0 && first !== null) throw first;
    this.#checkQuiesce();
  }

  /** One disk that can't be opened is no reason to leave the others without points. Said once for each reason. */
  #setAside(disk: AbsentDisk, before: readonly AbsentDisk[], hint: string | undefined): void {
    this.#absent.push(disk);
    // Whatever was tracked of it ends here: what comes back may be another disk, or this one with other content.
    this.#deps.parts.tracker.tracker?.disarm(disk.id);
    if (before.some(({ id, reason }) => id === disk.id && reason === disk.reason)) return;
    this.status.fellBack(disk.reason);
    this.#deps.log.error({ disk: disk.id, reason: disk.reason, hint }, 'disk is not open: points go on without it');
  }

  async #isBack({ id }: AbsentDisk): Promise<boolean> {
    const list = await this.#deps.parts.protection();
    const entry = list.disks.find((disk) => disk.id === id);
    return entry !== undefined && (await canBeOpened(entry, list, this.#disks, await this.#openContext()));
  }

  async #openContext(): Promise<OpenContext> {
    const { config, clock, log, randomId, parts } = this.#deps;
    return {
      config,
      sysfs: parts.sysfs,
      clock,
      log,
      pool: parts.memory.reads,
      tracker: parts.tracker.tracker,
      trackerReason: parts.tracker.reason,
      newUuid: randomId,
      rebootReasons: (await parts.rebootReasons?.()) ?? new Map(),
      ...(this.#keys === null ? {} : { keys: this.#keys }),
    };
  }

  /** Better known now than when the first stronger point is made. Each warning is said once as long as it stands. */
  #checkQuiesce(): void {
    const { parts, log, config } = this.#deps;
    const plan = this.#disks.length === 0 ? undefined : parts.quiescePlan?.(this.#disks.map((d) => d.inspected.source));
    const warnings = plan?.warnings ?? [];
    // Who asks for no stronger points need not be warned about them.
    const { every, cron } = config.applicationPoints;
    const areWanted = plan?.strongest === 'application' || every !== undefined || cron !== undefined;
    for (const { code, text, hint } of warnings) {
      if (this.#quiesceWarnings.has(text)) continue;
      log[areWanted || code === 'hook-refused' ? 'warn' : 'info']({ code, hint }, `stronger points: ${text}`);
    }
    this.#quiesceWarnings = new Set(warnings.map(({ text }) => text));
  }

  async #closeDisks(): Promise<void> {
    for (const opened of this.#disks) await closeDisk(opened, this.#deps.log);
    const { tracker } = this.#deps.parts.tracker;
    // All at once: whoever asks for the status meanwhile asks for those that are there.
    const closed = this.#disks;
    this.#disks = [];
    for (const { disk } of closed) {
      if (disk.trackable === null) continue;
      if (disk.mustBeCompared) tracker?.disarm(disk.id);
      else tracker?.release(disk.id);
    }
  }
}

/** When to ask again: soon with backoff, seldom where an operator has to act first; a machine that is failed over is called home by its being there. */
function retryMs(ended: unknown, failures: number, random: () => number): number {
  if (!(ended instanceof SessionEnded) || ended.close?.retry !== 'seldom') return backoffMs(failures, random);
  return ended.close.code === CLOSE.failedOver.code ? FAILED_OVER_RETRY_MS : REFUSED_RETRY_MS;
}
