/**
 * Keeps this host and the recovery objects in step: reopens copies after a restart, keeps them replicated, ends those that are ours no more,
 * answers other receivers.
 *
 * The store decides. A guest whose volumes are gone waits on its reconnect, so copies that this host remembers come first.
 */
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { OWNERSHIP_POLL_MS, TASK_BACKOFF_MAX_MS, TASK_BACKOFF_MIN_MS } from '../../shared/limits.js';
import type { MachineId } from '../../shared/units.js';
import type { Instance, Recovery } from '../catalog/recovery.js';
import { loadRecovery } from '../catalog/recovery-io.js';
import { PAUSED_BY_ERROR, type GuestState } from './compute/provider.js';
import type { Copies } from './copies.js';
import type { CopyFile } from './copy-file.js';
import type { Copy } from './copy.js';
import type { HomeFollowers } from './follow.js';
import { Answerer } from './ownership.js';
import type { FailoverParts, FailoverSettings } from './parts.js';
import { isTransient } from './steps.js';

export interface GuardianDeps {
  readonly parts: FailoverParts;
  readonly settings: FailoverSettings;
  readonly copies: Copies;
  readonly followers: HomeFollowers;
  /** Machines with a job that runs here: what is open for them is the job's business. */
  readonly busy: ReadonlyMap<MachineId, unknown>;
  readonly stopped: AbortSignal;
}

/** Whether points of the copy are wanted: always, but for a job that has taken its last one. */
export function isReplicationWanted({ job }: Pick<Recovery, 'job'>): boolean {
  if (job?.operation === 'failback') return job.data['replicationStopped'] !== true;
  return !((job?.operation === 'cancel' || job?.operation === 'change-point') && job.data['passed'] === true);
}

/** Whether anybody may use the disks of the machine's copy: not once the point was made that home is brought to. */
const isServiceWanted = ({ job }: Pick<Recovery, 'job'>): boolean =>
  job?.operation !== 'failback' || job.data['replicationStopped'] !== true;

/**
 * A guest that ran and was ended by nobody inside it: its host was restarted, or it was killed. Or one that was stopped since its disks were away for
 * too long.
 */
export const shallRunAgain = (state: GuestState): boolean =>
  state.running
    ? state.detail === PAUSED_BY_ERROR
    : state.startedAtMs !== null && !state.detail.startsWith('ended: powered off');

export class Guardian {
  readonly #deps: GuardianDeps;
  readonly #answerer: Answerer;
  readonly #lost = new Set<string>();
  readonly #problems = new Map<MachineId, string>();
  readonly #unreadable = new Set<string>();
  #loop: Promise<void> = Promise.resolve();
  #answers: Promise<void> = Promise.resolve();

  constructor(deps: GuardianDeps) {
    this.#deps = deps;
    this.#answerer = new Answerer(deps.parts, deps.settings);
  }

  /** Copies that are recorded as ours and that this host can't serve. */
  get lost(): readonly string[] {
    return [...this.#lost];
  }

  /** Machines of which this host has copies, as it remembers. */
  async remembered(): Promise<MachineId[]> {
    return [...new Set((await this.#records()).map((file) => file.machine.id as MachineId))];
  }

  /** Records of the copies on this host. One that can't be read is said once, and keeps nobody from the others. */
  async #records(): Promise<CopyFile[]> {
    const { copies, parts } = this.#deps;
    const found: CopyFile[] = [];
    for (const id of await copies.onDisk()) {
      try {
        const file = await copies.fileOf(id);
        if (file !== null) found.push(file);
      } catch (error) {
        if (!this.#unreadable.has(id)) parts.log.error({ err: error, instance: id }, messageOf(error));
        this.#unreadable.add(id);
      }
    }
    return found;
  }

  /** The recovery object, however long the store takes to answer; null when there is none or the process stops. */
  async read(machine: MachineId): Promise<Recovery | null> {
    const { parts, stopped } = this.#deps;
    for (let waitMs = TASK_BACKOFF_MIN_MS; ; waitMs = Math.min(waitMs * 2, TASK_BACKOFF_MAX_MS)) {
      try {
        return await loadRecovery(parts.store, machine);
      } catch (error) {
        if (!isTransient(error) || stopped.aborted) throw error;
        this.#say(machine, error);
        await parts.clock.sleep(waitMs, stopped);
      }
    }
  }

  /** After a start: copies of a machine are served again, its guests run again. What fails is tried again at the next look. */
  async resume(machine: MachineId, recovery: Recovery | null): Promise<void> {
    await this.#endStrangers(machine, recovery);
    for (const instance of this.#ours(recovery)) {
      if (recovery === null || (instance.kind === 'failover' && !isServiceWanted(recovery))) continue;
      const copy = await this.#reopen(machine, instance, recovery.job !== null);
      if (copy === null) continue;
      await this.#replicate(machine, copy, recovery);
      if (recovery.job === null) await this.#runAgain(machine, copy);
      await copy.refreshGuest();
    }
    if (recovery?.job === null) this.#follow(machine, recovery);
  }

  async #runAgain(machine: MachineId, copy: Copy): Promise<void> {
    const { parts, stopped } = this.#deps;
    // One that was fenced just now was ended for good.
    if (copy.isFenced || !shallRunAgain(await copy.provider.state(copy.spec))) return;
    parts.log.warn({ machine, instance: copy.instance.id }, 'a guest does not run and is started again');
    const say = (line: string): void => parts.log.info({ machine, line }, 'starting a guest again');
    await copy.start({ signal: stopped, say });
  }

  /** From now on others who ask hear that this receiver lives, whatever else takes its time: a slow start, a provider's program. */
  answer(): void {
    this.#answers = this.#answerAll();
  }

  start(): void {
    this.#loop = this.#run();
  }

  async settled(): Promise<void> {
    await this.#loop;
    await this.#answers;
  }

  /** One look at a machine: what is recorded, what is here. */
  async look(machine: MachineId): Promise<void> {
    const { parts, copies, busy, stopped } = this.#deps;
    if (busy.has(machine)) return;
    const recovery = await loadRecovery(parts.store, machine);
    // A job may have begun meanwhile, and what was read is old then.
    if (busy.has(machine) || stopped.aborted) return;
    await this.#endStrangers(machine, recovery);
    if (recovery === null) return;
    for (const instance of this.#ours(recovery)) {
      const open = copies.get(instance.id);
      const copy = open ?? (recovery.job === null ? await this.#reopen(machine, instance, false) : null);
      if (copy === null) continue;
      await this.#replicate(machine, copy, recovery);
      // What could not be opened at the start has its guest still waiting.
      if (open === undefined) await this.#runAgain(machine, copy);
      await copy.refreshGuest();
    }
    this.#follow(machine, recovery);
  }

  async #run(): Promise<void> {
    const { parts, stopped } = this.#deps;
    while (!stopped.aborted) {
      await parts.clock.sleep(OWNERSHIP_POLL_MS, stopped);
      for (const machine of await this.#machines()) {
        if (stopped.aborted) return;
        await this.look(machine).then(
          () => this.#problems.delete(machine),
          (error: unknown) => this.#say(machine, error),
        );
      }
    }
  }

  async #answerAll(): Promise<void> {
    const { parts, stopped } = this.#deps;
    while (!stopped.aborted) {
      await parts.clock.sleep(OWNERSHIP_POLL_MS, stopped);
      if (stopped.aborted) return;
      const answers = [...(await this.#machines())].map((machine) =>
        this.#answerer.answer(machine).catch((error: unknown) => this.#say(machine, error)),
      );
      await Promise.all(answers);
    }
  }

  async #machines(): Promise<Set<MachineId>> {
    const { copies, busy } = this.#deps;
    const machines = new Set<MachineId>([...busy.keys(), ...copies.all.map((copy) => copy.spec.machine.id)]);
    for (const machine of await this.remembered().catch(() => [])) machines.add(machine);
    return machines;
  }

  /** Said once for each problem, not at each look. */
  #say(machine: MachineId, error: unknown): void {
    if (this.#problems.get(machine) === messageOf(error) || this.#deps.stopped.aborted) return;
    this.#problems.set(machine, messageOf(error));
    this.#deps.parts.log.warn(
      { err: error, machine },
      `copies of a machine could not be looked after: ${messageOf(error)}`,
    );
  }

  #ours(recovery: Recovery | null): Instance[] {
    const listed = [recovery?.failover ?? null, recovery?.testFailover.instance ?? null];
    return listed.filter((i): i is Instance => i !== null && i.receiver === this.#deps.settings.receiver);
  }

  /** Ends what this host has of the machine and the store doesn't list for it. */
  async #endStrangers(machine: MachineId, recovery: Recovery | null): Promise<void> {
    const { copies, parts, stopped, settings } = this.#deps;
    const ours = this.#ours(recovery).map((instance) => instance.id);
    // A job of ours has copies under way that are not listed any more, and ends them itself.
    if (recovery?.job?.receiver === settings.receiver) return;
    for (const file of await this.#records()) {
      const { id } = file.instance;
      if (file.machine.id !== machine || ours.includes(id) || file.fate === 'lost') continue;
      // A copy is recorded before it is made, and no step is ever removed: this is not the store that the copy came from.
      if (recovery === null) throw storeIsAnother(machine);
      const say = (line: string): void => parts.log.info({ machine, instance: id, line }, 'ending a copy');
      const context = { signal: stopped, say };
      if (file.instance.kind === 'test' || file.fate === 'discarded') await copies.discard(id, context);
      else {
        const reason = 'the machine was failed over or failed back elsewhere';
        parts.log.error(
          { machine, instance: id, reason },
          'a copy is not ours any more: its guest is ended; what it wrote last may be in its folder',
        );
        await copies.get(id)?.fence(reason);
        await copies.lose(id, context);
      }
    }
  }

  async #reopen(machine: MachineId, instance: Instance, hasJob: boolean): Promise<Copy | null> {
    const { copies, parts, stopped } = this.#deps;
    const file = await copies.fileOf(instance.id);
    if (file?.fate !== 'kept') {
      // A job may not have come to the volumes yet, or may have thrown them away.
      if (hasJob) return null;
      if (!this.#lost.has(instance.id))
        parts.log.error({ machine, instance: instance.id }, 'the volumes of a copy are not on this host');
      this.#lost.add(instance.id);
      return null;
    }
    try {
      const copy = await copies.ensure(machine, instance, stopped);
      this.#lost.delete(instance.id);
      return copy;
    } catch (error) {
      // What the system refuses (no space, no memory) it may grant at the next look; only a volume that is found to be bad is lost.
      if (error instanceof AfterimageError && !isTransient(error)) this.#lost.add(instance.id);
      this.#say(machine, error);
      return null;
    }
  }

  async #replicate(machine: MachineId, copy: Copy, recovery: Recovery): Promise<void> {
    if (copy.instance.kind !== 'failover' || copy.isFenced || copy.isReplicating || !isReplicationWanted(recovery))
      return;
    try {
      await copy.startReplication(this.#deps.stopped);
      copy.problem = null;
    } catch (error) {
      copy.problem = messageOf(error);
      if (error instanceof AfterimageError && error.code === 'generation-moved') await copy.fence(messageOf(error));
      else this.#say(machine, error);
    }
  }

  #follow(machine: MachineId, recovery: Recovery): void {
    const { followers, copies } = this.#deps;
    const { failover, home, job, state } = recovery;
    const copy = failover === null ? undefined : copies.get(failover.id);
    if (job === null && state === 'Protected' && home.mode === 'restore' && failover !== null && copy !== undefined) {
      followers.start(machine, () => copies.get(failover.id));
    } else void followers.stop(machine);
  }
}

const storeIsAnother = (machine: MachineId): AfterimageError =>
  new AfterimageError(`the store has no record of machine ${machine}, of which a copy runs here`, {
    code: 'recovery-missing',
    kind: 'corrupt',
    hint: 'Its guest is left alone. Is the store mounted, and is it the right one?',
  });
