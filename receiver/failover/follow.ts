/**
 * Home follows: while a machine runs here and its home is reprotected, home's agent is given each newer point as soon as it has the one before. An agent
 * that is not here is called over: another receiver may have taken it while this one was away. Pauses while a job runs. Keeps nothing: after a restart the agent says by comparison what it lacks.
 */
import { messageOf } from '../../shared/errors.js';
import { HOME_FOLLOW_POLL_MS } from '../../shared/limits.js';
import type { MachineId } from '../../shared/units.js';
import type { Copy } from './copy.js';
import type { FailoverParts } from './parts.js';

interface Following {
  readonly controller: AbortController;
  readonly done: Promise<void>;
}

type Parts = Pick<FailoverParts, 'home' | 'clock' | 'log' | 'fleet'>;

export class HomeFollowers {
  readonly #parts: Parts;
  readonly #running = new Map<MachineId, Following>();

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  start(machine: MachineId, copy: () => Copy | undefined): void {
    if (this.#running.has(machine)) return;
    const controller = new AbortController();
    this.#running.set(machine, { controller, done: this.#follow(machine, copy, controller.signal) });
  }

  /** Resolved: nothing is given to home any more by it. */
  async stop(machine: MachineId): Promise<void> {
    const following = this.#running.get(machine);
    this.#running.delete(machine);
    following?.controller.abort();
    await following?.done;
  }

  async stopAll(): Promise<void> {
    await Promise.all([...this.#running.keys()].map((machine) => this.stop(machine)));
  }

  async #follow(machine: MachineId, copy: () => Copy | undefined, signal: AbortSignal): Promise<void> {
    const { home, clock, log, fleet } = this.#parts;
    let release: (() => void) | null = null;
    let given = 0;
    let problem = '';
    while (!signal.aborted) {
      const point = copy()?.lastPoint ?? 0;
      const isHere = home.stateOf(machine) === 'restoring';
      if (isHere) {
        release?.();
        release = null;
      } else release ??= fleet?.call(machine) ?? null;
      if (point > given && isHere) {
        try {
          await home.restore(machine, { point, final: false }, { signal, onStep: () => undefined });
          given = point;
          problem = '';
        } catch (error) {
          // Asked for again at the next look; said once.
          if (!signal.aborted && messageOf(error) !== problem)
            log.warn({ err: error, machine, point }, 'home does not follow');
          problem = messageOf(error);
        }
      }
      await clock.sleep(HOME_FOLLOW_POLL_MS, signal);
    }
    release?.();
  }
}
