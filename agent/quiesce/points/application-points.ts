/**
 * When application-consistent points are made, what became of them, and when that deserves an alert. Outlives sessions; the file behind `HistoryStore`
 * outlives the agent.
 */
import type { Clock } from '../../../shared/clock.js';
import { APPLICATION_FAILURES_ALERT } from '../../../shared/limits-quiesce.js';
import { durationText } from '../../../shared/config/parse-values.js';
import type { Schedule } from '../../../shared/schedule.js';
import { nextDue, type Due } from '../../../shared/schedule-due.js';
import type { ApplicationPointsConfig } from '../config.js';
import { NO_HISTORY, type HistoryStore, type PointHistory } from './point-history.js';

export interface Alert {
  readonly code: 'application-points-failing' | 'application-held-back';
  readonly reason: string;
  readonly hint: string;
}

export interface ApplicationPointsStatus {
  /** In words; null: none is made by schedule. */
  readonly schedule: string | null;
  readonly nextAt: string | null;
  readonly nextReason: string;
  readonly lastPoint: { readonly number: number; readonly cutAt: string; readonly ageSeconds: number } | null;
  readonly failuresInARow: number;
  readonly lastFailure: string;
  readonly alerts: readonly Alert[];
}

/** What became of a point for which application consistency was asked. */
export interface Outcome {
  readonly by: 'schedule' | 'operator' | 'group';
  /** The point, when it is as asked. */
  readonly point: { readonly number: number; readonly cutAtMs: number } | null;
  /** Why it is weaker, or there is none; '' when it is as asked. */
  readonly failure: string;
  /** Hooks that failed to let their application go. */
  readonly stuck: readonly string[];
}

export interface ApplicationPointsDeps {
  readonly config: ApplicationPointsConfig;
  readonly clock: Clock;
  readonly random: () => number;
  /** Absent: known by this process alone. */
  readonly store?: HistoryStore | undefined;
}

export class ApplicationPoints {
  readonly #deps: ApplicationPointsDeps;
  readonly #own: Schedule | null;
  #schedule: Schedule | null;
  #sinceMs: number;
  #jitter: number;
  #history: PointHistory = NO_HISTORY;
  #stuck: readonly string[] = [];

  constructor(deps: ApplicationPointsDeps) {
    this.#deps = deps;
    const { every, cron } = deps.config;
    this.#own =
      every !== undefined
        ? { by: 'interval', everyMs: every }
        : cron !== undefined
          ? { by: 'cron', expression: cron }
          : null;
    this.#schedule = this.#own;
    this.#sinceMs = deps.clock.nowMs();
    this.#jitter = deps.random();
  }

  async load(): Promise<void> {
    if (this.#deps.store !== undefined) this.#history = await this.#deps.store.load();
  }

  /** The receiver's policy comes before our own configuration; null: it says nothing. */
  policy(intervalMs: number | null): void {
    const schedule: Schedule | null = intervalMs === null ? this.#own : { by: 'interval', everyMs: intervalMs };
    if (JSON.stringify(schedule) === JSON.stringify(this.#schedule)) return;
    this.#schedule = schedule;
    this.#sinceMs = this.#deps.clock.nowMs();
  }

  /** Null: none is made by schedule. */
  next(): Due | null {
    if (this.#schedule === null) return null;
    const { config, clock } = this.#deps;
    // A clock that was set back must not put the next point off for as long.
    const { lastTryAtMs } = this.#history;
    const history = {
      ...this.#history,
      lastTryAtMs: lastTryAtMs === null ? null : Math.min(lastTryAtMs, clock.nowMs()),
    };
    return nextDue(this.#schedule, history, this.#sinceMs, config.jitter ?? 0, this.#jitter);
  }

  /** How long until the next one is due; Infinity when none is. */
  waitMs(): number {
    const next = this.next();
    return next === null ? Infinity : Math.max(0, next.atMs - this.#deps.clock.nowMs());
  }

  /** Alerts that this outcome raises. */
  async ended({ by, point, failure, stuck }: Outcome): Promise<readonly Alert[]> {
    const before = this.alerts();
    const { failuresInARow, lastPoint } = this.#history;
    this.#jitter = this.#deps.random();
    this.#stuck = stuck;
    this.#history = {
      lastTryAtMs: this.#deps.clock.nowMs(),
      failuresInARow: point !== null ? 0 : failuresInARow + (by === 'schedule' ? 1 : 0),
      lastPoint: point ?? lastPoint,
      lastFailure: failure,
    };
    await this.#deps.store?.keep(this.#history);
    return this.alerts().filter((alert) => !before.some(({ code }) => code === alert.code));
  }

  alerts(): Alert[] {
    const { failuresInARow, lastFailure } = this.#history;
    const alerts: Alert[] = [];
    if (failuresInARow >= APPLICATION_FAILURES_ALERT)
      alerts.push({
        code: 'application-points-failing',
        reason: `no application-consistent point: ${failuresInARow} failed in a row, the last because ${lastFailure}`,
        hint: '`afterimage-agent quiesce --dry-run` shows what is quiesced, the points and the log what hooks and servers said.',
      });
    if (this.#stuck.length > 0)
      alerts.push({
        code: 'application-held-back',
        reason: `hooks failed to let their application go: ${this.#stuck.join(', ')}`,
        hint: 'See whether the application runs; call the hook with `abort` by hand.',
      });
    return alerts;
  }

  status(): ApplicationPointsStatus {
    const { lastPoint, failuresInARow, lastFailure } = this.#history;
    const next = this.next();
    return {
      schedule: this.#schedule === null ? null : scheduleText(this.#schedule),
      nextAt: next === null || !Number.isFinite(next.atMs) ? null : new Date(next.atMs).toISOString(),
      nextReason: next?.reason ?? '',
      lastPoint:
        lastPoint === null
          ? null
          : {
              number: lastPoint.number,
              cutAt: new Date(lastPoint.cutAtMs).toISOString(),
              ageSeconds: Math.max(0, (this.#deps.clock.nowMs() - lastPoint.cutAtMs) / 1000),
            },
      failuresInARow,
      lastFailure,
      alerts: this.alerts(),
    };
  }
}

const scheduleText = (schedule: Schedule): string =>
  schedule.by === 'cron' ? `cron ${schedule.expression}` : `every ${durationText(schedule.everyMs)}`;
