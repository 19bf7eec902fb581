/**
 * The scrub in the receiver: for each machine that is this receiver's, passes one after the other at a common rate, proofs of sampled points, and the
 * repair of what was found. Reading needs no ownership; that one receiver reads for a machine only saves work.
 * Everything that matters is in the store: after a restart a pass goes on from its last note. An error of the store ends the pass of its machine
 * until the next look, and nothing else.
 */
import type { Logger } from 'pino';
import type { Clock } from '../../shared/clock.js';
import { messageOf } from '../../shared/errors.js';
import { RETENTION_SKEW_MS } from '../../shared/limits-retention.js';
import { PROVEN_POINTS_PER_RUN, SCRUB_LOOK_MS } from '../../shared/limits-scrub.js';
import { nextTimeMs, type Schedule } from '../../shared/schedule.js';
import { asMachineId, isUuid, type MachineId } from '../../shared/units.js';
import {
  describePoints,
  isOpen,
  withFinding,
  type DamageItem,
  type DamageState,
  type Finding,
} from '../catalog/damage.js';
import { loadDamage, loadScrubNote, updateDamage, writeScrubNote } from '../catalog/damage-io.js';
import { MACHINES_PREFIX } from '../catalog/names.js';
import { loadHead } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import { isCorrupt } from './scrub-concern.js';
import { paceOf, type Pace } from './scrub-pace.js';
import { scrubPass } from './scrub-pass.js';
import { provePoints } from './scrub-proof.js';

export interface ScrubSettings {
  readonly enabled: boolean;
  /** Of all passes together. */
  readonly bytesPerSecond: number;
  /** From the beginning of a pass to that of the next. */
  readonly everyMs: number;
  /** When sampled points are proven. */
  readonly prove: Schedule;
}

export interface ScrubTaskDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly log: Logger;
  readonly random: () => number;
  readonly settings: ScrubSettings;
  /** Whether this receiver looks after a machine. */
  readonly isOurs: (machine: MachineId) => Promise<boolean>;
  /** Mends what can be mended; called when anything is open. */
  readonly repair: (machine: MachineId, signal: AbortSignal) => Promise<unknown>;
}

/** What is known of a machine's scrub, for status and metrics. */
export interface ScrubFigures {
  readonly machine: MachineId;
  readonly isRunning: boolean;
  /** Of this pass, or the last. */
  readonly readBytes: number;
  readonly completedAtMs: number | null;
  readonly provenAtMs: number | null;
  /** Objects by state of their damage. */
  readonly damaged: Readonly<Record<DamageState, number>>;
  readonly problem: string | null;
}

type Known = { -readonly [K in keyof ScrubFigures]: ScrubFigures[K] };

/** A time that is still to come was noted by a clock that ran ahead: waiting for it would end the scrub for as long. */
const believed = (noteMs: number, nowMs: number): number => (noteMs > nowMs + RETENTION_SKEW_MS ? 0 : noteMs);

const NONE: Record<DamageState, number> = { found: 0, asked: 0, repaired: 0, lost: 0, gone: 0 };

export class ScrubTask {
  readonly #deps: ScrubTaskDeps;
  readonly #known = new Map<MachineId, Known>();

  constructor(deps: ScrubTaskDeps) {
    this.#deps = deps;
  }

  get figures(): readonly ScrubFigures[] {
    return [...this.#known.values()];
  }

  /** Until the signal is aborted. Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    const { store, clock, log, settings } = this.#deps;
    if (!settings.enabled) return;
    const pace = paceOf(settings.bytesPerSecond, clock, signal);
    for (;;) {
      // Not at once: after a start others want the store more.
      await clock.sleep(Math.min(SCRUB_LOOK_MS, settings.everyMs), signal);
      if (signal.aborted) return;
      try {
        for (const folder of await store.listFolders(MACHINES_PREFIX)) {
          if (signal.aborted) return;
          if (isUuid(folder) && (await this.#deps.isOurs(asMachineId(folder))))
            await this.look(asMachineId(folder), pace, signal);
        }
      } catch (error) {
        if (!signal.aborted) log.warn({ err: error }, 'the machines of the store could not be listed for the scrub');
      }
    }
  }

  /** Whatever is due for one machine. Never rejects. */
  async look(machine: MachineId, pace: Pace, signal: AbortSignal): Promise<void> {
    const known = this.#of(machine);
    try {
      known.isRunning = true;
      known.problem = null;
      await this.#due(machine, known, pace, signal);
    } catch (error) {
      if (signal.aborted) return;
      known.problem = messageOf(error);
      this.#deps.log.warn({ err: error, machine }, `scrub: ${known.problem}`);
    } finally {
      known.isRunning = false;
    }
  }

  async #due(machine: MachineId, known: Known, pace: Pace, signal: AbortSignal): Promise<void> {
    const { store, clock, settings } = this.#deps;
    const note = await loadScrubNote(store, machine).catch((error: unknown) => {
      // A note that is broken is a finding of the pass that it makes due.
      if (isCorrupt(error)) return null;
      throw error;
    });
    known.completedAtMs = note?.completedAtMs ?? null;
    known.provenAtMs = note?.provenAtMs ?? null;
    const nowMs = clock.nowMs();
    const startedAtMs = believed(note?.pass.startedAtMs ?? 0, nowMs);
    const isDue = note?.pass.cursor != null || startedAtMs + settings.everyMs <= nowMs;
    if (isDue) {
      const onProgress = ({ readBytes }: { readonly readBytes: number }): void => void (known.readBytes = readBytes);
      await scrubPass({ store, clock, pace, signal, onProgress, onFinding: (f) => this.#alarm(machine, f) }, machine);
      known.completedAtMs = clock.nowMs();
    }
    // Before the proofs, which need keys that may not be at hand: what is damaged must not wait for them.
    await this.#mend(machine, known, signal);
    const provenAtMs = believed(note?.provenAtMs ?? note?.pass.startedAtMs ?? nowMs, nowMs);
    if (nextTimeMs(settings.prove, provenAtMs) > nowMs) return;
    const findings = await this.#prove(machine, pace, signal);
    known.provenAtMs = clock.nowMs();
    if (findings > 0) await this.#mend(machine, known, signal);
  }

  async #mend(machine: MachineId, known: Known, signal: AbortSignal): Promise<void> {
    const open = await this.#count(machine, known);
    if (open.length === 0) return;
    await this.#deps.repair(machine, signal);
    await this.#count(machine, known);
  }

  /** How many points were found that can't be restored. */
  async #prove(machine: MachineId, pace: Pace, signal: AbortSignal): Promise<number> {
    const { store, clock, random, log } = this.#deps;
    if ((await loadHead(store, machine)) === null) return 0;
    const { proven, findings } = await provePoints({ store, pace, signal, random }, machine, PROVEN_POINTS_PER_RUN - 1);
    for (const finding of findings) {
      this.#alarm(machine, finding);
      await updateDamage({ store, clock }, machine, (items, nowMs) => withFinding(items, finding, nowMs));
    }
    log.info({ machine, points: proven }, 'points proven to be restorable');
    const note = await loadScrubNote(store, machine);
    if (note === null) return findings.length;
    const nowMs = clock.nowMs();
    await writeScrubNote(store, { ...note, number: note.number + 1, writtenAtMs: note.writtenAtMs, provenAtMs: nowMs });
    return findings.length;
  }

  async #count(machine: MachineId, known: Known): Promise<readonly DamageItem[]> {
    const items = (await loadDamage(this.#deps.store, machine))?.items ?? [];
    known.damaged = items.reduce((counts, { state }) => ({ ...counts, [state]: counts[state] + 1 }), NONE);
    return items.filter(isOpen);
  }

  #alarm(machine: MachineId, finding: Finding): void {
    const { object, code, points } = finding;
    this.#deps.log.error(
      { machine, object, code, points },
      `damaged: ${finding.what}; points concerned: ${describePoints(points)}`,
    );
  }

  #of(machine: MachineId): Known {
    const known = this.#known.get(machine) ?? {
      machine,
      isRunning: false,
      readBytes: 0,
      completedAtMs: null,
      provenAtMs: null,
      damaged: NONE,
      problem: null,
    };
    this.#known.set(machine, known);
    return known;
  }
}
