/**
 * The machine that this agent protects: its disks, and the loop of connecting, replicating and waiting to connect again.
 * An outage of the receiver costs bits in bitmaps and nothing else; a refusal is shown and asked about again, seldom.
 */
import type { Logger } from 'pino';
import type { Clock } from '../shared/clock.js';
import { AfterimageError, messageOf } from '../shared/errors.js';
import { FAILED_OVER_RETRY_MS, MESSAGE_BUFFERS, REFUSED_RETRY_MS } from '../shared/limits.js';
import { failpoint } from '../shared/failpoints.js';
import { CLOSE } from '../shared/wire/close-codes.js';
import { PROTOCOL_VERSION, type Hello } from '../shared/wire/messages.js';
import type { AgentConfig } from './config.js';
import { MessagePool } from './cycle/chunk-sender.js';
import type { CycleResult } from './cycle/machine-cycle.js';
import { ReadPool } from './cycle/read-pool.js';
import { WindowArena } from './cycle/window-arena.js';
import { FinalCut } from './final-cut.js';
import { describeMachine, hardwareId } from './describe.js';
import { Sysfs } from './disks/sysfs.js';
import { helloOf } from './hello.js';
import { closeDisk, openDisk, type OpenContext, type OpenedDisk } from './open-disk.js';
import { loadProtection } from './protection.js';
import { DisksChanged, Replication } from './replication.js';
import { Restoration } from './restore/restoration.js';
import { backoffMs } from './session/backoff.js';
import { connectToReceiver } from './session/connect.js';
import { keepGeneration, type Credentials } from './session/credentials.js';
import { ReceiverSession, SessionEnded } from './session/session.js';
import { Throttle } from './session/throttle.js';
import { AgentStatus } from './status.js';
import { EbpfTracker } from './tracker/ebpf/tracker.js';
import type { MarkTracker } from './tracker/tracker.js';

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
}

export class AgentMachine {
  readonly status: AgentStatus;
  readonly #deps: MachineDeps;
  readonly #sysfs = new Sysfs();
  readonly #tracker: MarkTracker | null;
  readonly #trackerReason: string;
  readonly #readPool = new ReadPool();
  readonly #messagePool = new MessagePool(MESSAGE_BUFFERS);
  readonly #arena = new WindowArena();
  readonly #throttle: Throttle;
  readonly #session: string;
  #disks: OpenedDisk[] = [];
  #replication: Replication | null = null;
  #reopen = new AbortController();
  #generation: number;
  #finalCut: FinalCut | null = null;
  /** Why the disks are not open. */
  problem: string | null = null;

  constructor(deps: MachineDeps) {
    this.#deps = deps;
    this.#session = deps.randomId();
    this.#throttle = new Throttle(deps.config.bandwidth, deps.clock);
    const opened = openTracker(deps.config, deps.clock);
    this.#tracker = opened.tracker;
    this.#trackerReason = opened.reason;
    if (opened.tracker === null)
      deps.log.warn({ reason: opened.reason }, 'change tracking is not possible on this machine');
    const { machine, name, generation, receiver } = deps.credentials;
    this.#generation = generation;
    this.status = new AgentStatus(
      deps.clock,
      { program: deps.program, machine: { id: machine, name, generation }, address: receiver },
      () => this.#disks,
      () => this.#tracker,
    );
  }

  /** Replicates until the signal is aborted. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#deps;
    while (!signal.aborted) {
      this.#reopen = new AbortController();
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
      }
    }
    this.#tracker?.close();
  }

  /** Opens the disks anew: the list of protected disks was changed. */
  reload(): void {
    this.#reopen.abort();
  }

  syncNow(): Promise<CycleResult> {
    return this.#connected().syncNow();
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
    let failures = 0;
    let said = '';
    while (!stop.aborted) {
      const ended = await this.#connectOnce(stop, () => (failures = 0));
      if (failures === 0) said = '';
      if (stop.aborted) return;
      failures++;
      if (ended instanceof SessionEnded && ended.close !== null && ended.close.retry === 'seldom') {
        this.status.refused(ended.close.name, messageOf(ended), ended.close.hint);
        // The receiver answers: when it is away for a moment later, a failback must not wait for a backoff that refusals have made long.
        failures = 1;
      }
      const waitMs = retryMs(ended, failures, random);
      this.status.disconnected(messageOf(ended), waitMs);
      const hint = ended instanceof AfterimageError ? ended.hint : undefined;
      // Said once: a machine that is failed over may go on asking for weeks.
      log[messageOf(ended) === said ? 'debug' : 'warn'](
        { reason: messageOf(ended), hint, retryInMs: Math.round(waitMs) },
        'not connected to the receiver',
      );
      said = messageOf(ended);
      await clock.sleep(waitMs, stop);
    }
  }

  /** One connection, from dialling to its end; resolves to why it ended. */
  async #connectOnce(stop: AbortSignal, onProgress: () => void): Promise<unknown> {
    const { clock, log, credentials, config, random, randomId } = this.#deps;
    let session: ReceiverSession | null = null;
    const onStop = (): void => session?.close('the agent is stopping');
    try {
      this.#finalCut ??= await FinalCut.open({ config, clock, log, status: this.status });
      const transport = await connectToReceiver(credentials, { clock, signal: stop });
      const open = new ReceiverSession(transport, this.#throttle, log);
      session = open;
      stop.addEventListener('abort', onStop, { once: true });
      const welcome = await open.hello(this.#hello());
      await this.#granted(welcome.generation);
      this.status.connected(welcome);
      log.info({ mode: welcome.mode, epoch: welcome.epoch, lastPoint: welcome.lastPoint }, 'connected to the receiver');
      const deps = {
        config,
        clock,
        log,
        sysfs: this.#sysfs,
        tracker: this.#tracker,
        random,
        status: this.status,
        disks: this.#disks,
      };
      if (welcome.mode === 'restore') {
        await new Restoration(deps, open, stop).run(onProgress);
      } else {
        const more = { pool: this.#messagePool, arena: this.#arena, randomId, finalCut: this.#finalCut };
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

  #hello(): Hello {
    const { credentials, program } = this.#deps;
    const self = {
      protocol: PROTOCOL_VERSION,
      program,
      machine: credentials.machine,
      generation: this.#generation,
      hardwareId: hardwareId(),
      session: this.#session,
      description: describeMachine(),
    };
    return helloOf(self, this.#disks, this.#tracker);
  }

  /** A higher generation is kept before anything is done under it: an agent that forgot it would be refused as one of the past. */
  async #granted(generation: number): Promise<void> {
    if (generation <= this.#generation) return;
    const { config, log } = this.#deps;
    await keepGeneration(config.stateDir, generation);
    failpoint('agent.generation.kept');
    log.info({ from: this.#generation, to: generation }, 'the receiver granted this machine a new generation');
    this.#generation = generation;
    this.status.generation(generation);
  }

  async #openDisks(): Promise<void> {
    const { config, clock, log, randomId } = this.#deps;
    const list = await loadProtection(config.stateDir);
    const context: OpenContext = {
      config,
      sysfs: this.#sysfs,
      clock,
      log,
      pool: this.#readPool,
      tracker: this.#tracker,
      trackerReason: this.#trackerReason,
      newUuid: randomId,
    };
    for (const entry of list.disks) this.#disks.push(await openDisk(entry, list, this.#disks, context));
  }

  async #closeDisks(): Promise<void> {
    for (const opened of this.#disks) {
      await closeDisk(opened, this.#deps.log);
      if (opened.disk.trackable !== null) this.#tracker?.release(opened.disk.id);
    }
    this.#disks = [];
  }
}

function openTracker(config: AgentConfig, clock: Clock): { tracker: MarkTracker | null; reason: string } {
  if (config.tracker.prefer === 'scan') return { tracker: null, reason: 'the configuration prefers scan' };
  try {
    const mode = config.tracker.mode;
    const tracker = new EbpfTracker({
      pinDirectory: config.tracker.pinDir,
      clock,
      ...(mode === 'auto' ? {} : { mode }),
    });
    return { tracker, reason: '' };
  } catch (error) {
    if (config.tracker.prefer === 'ebpf' || !(error instanceof AfterimageError)) throw error;
    return { tracker: null, reason: error.message };
  }
}

/** When to ask again: soon with backoff, seldom where an operator has to act first; a machine that is failed over is called home by its being there. */
function retryMs(ended: unknown, failures: number, random: () => number): number {
  if (!(ended instanceof SessionEnded) || ended.close?.retry !== 'seldom') return backoffMs(failures, random);
  return ended.close.code === CLOSE.failedOver.code ? FAILED_OVER_RETRY_MS : REFUSED_RETRY_MS;
}
