/**
 * Tells the receiver regularly what this agent is at, for people who look at it there.
 */
import type { Clock } from '../shared/clock.js';
import type { ReceiverSession } from './session/session.js';
import type { AgentStatus } from './status.js';

/** A second is soon enough for people. */
const PROGRESS_REPORT_MS = 1_000;

export async function reportRegularly(
  session: ReceiverSession,
  status: AgentStatus,
  clock: Clock,
  over: AbortSignal,
): Promise<void> {
  for (;;) {
    await clock.sleep(PROGRESS_REPORT_MS, over);
    if (over.aborted) return;
    const disks = status.snapshot().disks.map((d) => ({
      disk: d.id,
      state: d.state,
      percent: d.progress?.percent ?? 100,
      dataAtRiskBytes: d.dataAtRisk.bytes ?? 0,
      dataAtRiskMs: Math.round((d.dataAtRisk.seconds ?? 0) * 1000),
    }));
    // The session's end is noticed where it matters.
    await session.progress(disks as Parameters<ReceiverSession['progress']>[0]).catch(() => undefined);
  }
}
