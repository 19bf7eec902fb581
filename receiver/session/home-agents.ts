/**
 * The agents of machines' homes, by machine: `HomeAgents` on top of the sessions that stand. Owns no session; keeps what the last final restore of
 * each machine reported. After a restart of the receiver that is gone, and the restore is asked for again: it finds nothing to move.
 */
import { AfterimageError } from '../../shared/errors.js';
import type { DiskId, MachineId } from '../../shared/units.js';
import type { CloseReason } from '../../shared/wire/close-codes.js';
import type { HomeAgents, HomeCall, RestoreReport } from './home-agent.js';
import { homeAbsent, type HomeSession } from './home-session.js';
import type { PullCounters } from './restore-session.js';

export interface LiveHome {
  readonly home: HomeSession;
  /** Resolves when the session has ended and nothing of it is open. */
  readonly done: Promise<void>;
}

export class SessionHomeAgents implements HomeAgents {
  readonly #live: (machine: MachineId) => LiveHome | undefined;
  readonly #series = new Map<MachineId, ReadonlyMap<string, string>>();
  #waiting: (() => void)[] = [];

  constructor(live: (machine: MachineId) => LiveHome | undefined) {
    this.#live = live;
  }

  /** A session began, changed its mode, or ended. */
  changed(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }

  stateOf(machine: MachineId): 'replicating' | 'restoring' | null {
    return this.#live(machine)?.home.mode ?? null;
  }

  async finalCut(
    machine: MachineId,
    call: HomeCall & { readonly hookTimeoutMs: number },
  ): Promise<{ readonly point: number }> {
    const home = this.#live(machine)?.home;
    if (home?.mode !== 'replicating') throw homeAbsent('it is not replicating');
    return home.finalCut(call);
  }

  async resumeHome(machine: MachineId): Promise<void> {
    const home = this.#live(machine)?.home;
    if (home?.mode === 'replicating') await home.resume().catch(ignoreAbsent);
  }

  /** Asks the agent for blocks once more; `home-absent` when it is not replicating. */
  async resend(
    machine: MachineId,
    disk: DiskId,
    extents: readonly (readonly [number, number])[],
    signal: AbortSignal,
  ): Promise<{ readonly point: number }> {
    const home = this.#live(machine)?.home;
    if (home?.mode !== 'replicating') throw homeAbsent('it is not replicating');
    return home.resend(disk, extents, signal);
  }

  async restore(
    machine: MachineId,
    goal: { readonly point: number; readonly final: boolean },
    call: HomeCall,
  ): Promise<RestoreReport> {
    const before = { dataBytes: 0, sentBytes: 0, blocks: 0 };
    this.#series.delete(machine);
    for (;;) {
      const home = await this.#restoring(machine, call.signal);
      try {
        const { restored, counters } = await home.restore(goal, call);
        add(before, counters);
        const series = restored.disks.flatMap((d) => (d.series === null ? [] : [[d.disk, d.series] as const]));
        if (goal.final) this.#series.set(machine, new Map(series));
        return { point: restored.point, ...before, reasons: restored.disks.map((d) => `${d.disk}: ${d.reason}`) };
      } catch (error) {
        // Codes alone won't do: those of a restore that failed are the agent's words.
        const isAbsent =
          error instanceof AfterimageError && error.kind === 'disconnected' && error.code === 'home-absent';
        if (!isAbsent || call.signal.aborted) throw error;
        // The next session goes on where this one ended.
        add(before, home.counters);
        call.onStep({ step: 'waiting for the agent', detail: error.message, percent: null });
      }
    }
  }

  seriesAfterRestore(machine: MachineId): ReadonlyMap<string, string> {
    return this.#series.get(machine) ?? new Map();
  }

  async disconnect(machine: MachineId, reason: CloseReason, text: string): Promise<void> {
    const live = this.#live(machine);
    if (live === undefined) return;
    await live.home.end(reason, text);
    await live.done;
  }

  async #restoring(machine: MachineId, signal: AbortSignal): Promise<HomeSession> {
    for (;;) {
      if (signal.aborted)
        throw new AfterimageError('waiting for the agent at home was cancelled', {
          code: 'cancelled',
          kind: 'cancelled',
        });
      const home = this.#live(machine)?.home;
      if (home?.mode === 'restoring') return home;
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          signal.removeEventListener('abort', wake);
          resolve();
        };
        this.#waiting.push(wake);
        signal.addEventListener('abort', wake, { once: true });
      });
    }
  }
}

function add(to: { -readonly [K in keyof PullCounters]: number }, counters: PullCounters): void {
  to.dataBytes += counters.dataBytes;
  to.sentBytes += counters.sentBytes;
  to.blocks += counters.blocks;
}

/** An agent that is gone decides by itself at its next welcome. */
function ignoreAbsent(error: unknown): void {
  if (error instanceof AfterimageError && error.code === 'home-absent') return;
  throw error;
}
