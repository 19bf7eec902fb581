/** What becomes of failures of scheduled points, and what a point tells about how it was quiesced. */
import { describe, expect, it } from 'vitest';
import { ApplicationPoints, type Outcome } from '../../agent/quiesce/points/application-points.js';
import { NO_HISTORY, type PointHistory } from '../../agent/quiesce/points/point-history.js';
import { QUIESCE_HOOKS_MAX, QUIESCE_RECORD_BYTES_MAX } from '../../shared/limits-quiesce.js';
import { boundedRecord, quiesceRecordSchema, type QuiesceRecord } from '../../shared/wire/quiesce-record.js';
import { ManualClock } from '../helpers/manual-clock.js';

const HOUR_MS = 3_600_000;

describe('alerts about application-consistent points', () => {
  const memory = (): { load: () => Promise<PointHistory>; keep: (history: PointHistory) => Promise<void> } => {
    let kept: PointHistory = NO_HISTORY;
    return { load: async () => kept, keep: async (history) => void (kept = history) };
  };
  const store = memory();
  const clock = new ManualClock();
  const open = async (): Promise<ApplicationPoints> => {
    const points = new ApplicationPoints({
      config: { every: HOUR_MS, deadline: 60_000 },
      clock,
      random: () => 0,
      store,
    });
    await points.load();
    return points;
  };
  const failed: Outcome = { by: 'schedule', point: null, failure: 'hook 10-app: exit code 1', stuck: [] };
  const point = { number: 7, cutAtMs: clock.nowMs() };

  it('come after three failures in a row, once; outlive a restart; and end with the next point', async () => {
    let points = await open();
    expect(await points.ended(failed)).toEqual([]);
    expect(await points.ended(failed)).toEqual([]);
    // What an operator tries says nothing about the schedule.
    expect(await points.ended({ ...failed, by: 'operator' })).toEqual([]);
    expect(points.status()).toMatchObject({ failuresInARow: 2, alerts: [] });
    points = await open();
    expect(await points.ended(failed)).toMatchObject([
      {
        code: 'application-points-failing',
        reason: 'no application-consistent point: 3 failed in a row, the last because hook 10-app: exit code 1',
      },
    ]);
    expect(await points.ended(failed)).toEqual([]);
    points = await open();
    expect(points.status()).toMatchObject({ failuresInARow: 4, alerts: [{ code: 'application-points-failing' }] });
    expect(points.status().nextReason).toContain('it failed 4 times in a row');
    expect(await points.ended({ by: 'operator', point, failure: '', stuck: [] })).toEqual([]);
    expect(points.status()).toMatchObject({ failuresInARow: 0, alerts: [], lastFailure: '', lastPoint: { number: 7 } });
  });

  it('come at once for an application that was not let go, until a hook succeeds', async () => {
    const points = await open();
    const stuck = { by: 'operator', point, failure: '', stuck: ['10-app'] } as const;
    expect(await points.ended(stuck)).toMatchObject([
      { code: 'application-held-back', reason: 'hooks failed to let their application go: 10-app' },
    ]);
    expect(await points.ended(stuck)).toEqual([]);
    expect(await points.ended({ ...stuck, stuck: [] })).toEqual([]);
    expect(points.alerts()).toEqual([]);
  });
});

describe('what a point tells about how it was quiesced', () => {
  const record = (hooks: QuiesceRecord['hooks'], more: Partial<QuiesceRecord> = {}): QuiesceRecord => ({
    asked: 'application',
    weaker: '',
    totalMs: 1,
    heldMs: 1,
    filesystems: ['/'],
    applications: [],
    hooks,
    ...more,
  });
  const call = (
    name: string,
    output: string[] = [],
    failure: string | null = null,
  ): QuiesceRecord['hooks'][number] => ({
    name,
    phase: 'pre',
    failure,
    tookMs: 1234,
    output,
  });
  const sizeOf = (of: QuiesceRecord): number => Buffer.byteLength(JSON.stringify(of));

  it('is left as it is when it is short', () => {
    const short = record([call('10-app', ['flushed', 'locked']), call('20-web')]);
    expect(boundedRecord(short)).toEqual(short);
  });

  it('drops the longest output first, and the lines that came first', () => {
    const talks = Array.from({ length: 10 }, (_, i) => `${i} ${'x'.repeat(290)}`);
    const bounded = boundedRecord(
      record([call('10-long', talks), call('20-short', ['why it failed'], 'exit code 1'), call('30-long', talks)]),
    );
    expect(sizeOf(bounded)).toBeLessThanOrEqual(QUIESCE_RECORD_BYTES_MAX);
    expect(bounded.hooks[1]).toEqual(call('20-short', ['why it failed'], 'exit code 1'));
    expect(bounded.hooks[0]?.output.at(-1)).toBe(talks.at(-1));
    expect(bounded.hooks[2]?.output.length).toBeGreaterThan(3);
  });

  it.each(['x', 'ü', '€', '"', '\u0001', '😀'])('stays within its bound whatever is said: %j', (letter) => {
    const text = letter.repeat(1000);
    const hooks = Array.from({ length: 2 * QUIESCE_HOOKS_MAX + 5 }, (_, i) =>
      call(`${i} ${text}`, Array<string>(12).fill(text), text),
    );
    const bounded = boundedRecord(
      record(hooks, {
        weaker: text,
        filesystems: Array.from({ length: 100 }, (_, i) => `/${i}/${text}`),
        applications: Array.from({ length: 16 }, (_, i) => ({ name: `a${i}`, detail: text })),
      }),
    );
    expect(sizeOf(bounded)).toBeLessThanOrEqual(QUIESCE_RECORD_BYTES_MAX);
    expect(quiesceRecordSchema.parse(bounded)).toEqual(bounded);
    // What is left out is told, and what failed stays as long as there is room.
    expect(JSON.stringify(bounded)).toContain('the log has all');
    expect(bounded.hooks[0]?.failure).not.toBe(null);
  });
});
