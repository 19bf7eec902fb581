import { describe, expect, it } from 'vitest';
import { agentConfigSchema } from '../../agent/config.js';
import { backoffMs, nextDue } from '../../shared/schedule-due.js';
import { isCronExpression, type Schedule } from '../../shared/schedule.js';
import { parseConfig } from '../../shared/config/load.js';

const MIN = 60_000;
const HOUR = 60 * MIN;
const at = (text: string): number => new Date(text).getTime();
const text = (ms: number): string => {
  const d = new Date(ms);
  const two = (n: number): string => String(n).padStart(2, '0');
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}T${two(d.getHours())}:${two(d.getMinutes())}`;
};

describe('schedule of application-consistent points', () => {
  const hourly: Schedule = { by: 'interval', everyMs: HOUR };
  const night: Schedule = { by: 'cron', expression: '15 */4 * * *' };
  const NOON = at('2026-03-02T12:00');
  const due = (schedule: Schedule, lastTryAtMs: number | null, failuresInARow = 0, jitterMs = 0, jitter = 0): string =>
    text(nextDue(schedule, { lastTryAtMs, failuresInARow }, NOON, jitterMs, jitter).atMs);

  it.each([
    ['an interval begins at once', hourly, null, 0, '2026-03-02T12:00'],
    ['and goes on from the last try', hourly, NOON + 5 * MIN, 0, '2026-03-02T13:05'],
    ['a time that passed unused is owed', hourly, NOON - 9 * HOUR, 0, '2026-03-02T04:00'],
    ['cron waits for its time', night, null, 0, '2026-03-02T12:15'],
    ['and for the next one after the last try', night, at('2026-03-02T12:15'), 0, '2026-03-02T16:15'],
    ['one failure changes nothing', hourly, NOON, 1, '2026-03-02T13:00'],
    ['each further one doubles the distance', hourly, NOON, 2, '2026-03-02T14:00'],
    ['up to 16 times', hourly, NOON, 99, '2026-03-03T04:00'],
    ['cron skips times', night, at('2026-03-02T12:15'), 2, '2026-03-02T20:15'],
    ['and no further than a day', night, at('2026-03-02T12:15'), 99, '2026-03-03T12:15'],
  ] as const)('%s', (_, schedule, last, failures, expected) => {
    expect(due(schedule, last, failures)).toBe(expected);
  });

  it('spreads by jitter', () => {
    expect(due(hourly, NOON, 0, 10 * MIN, 0.5)).toBe('2026-03-02T13:05');
    expect(due(night, null, 0, 10 * MIN, 0.9)).toBe('2026-03-02T12:24');
  });

  it('says why it is later', () => {
    const history = { lastTryAtMs: NOON, failuresInARow: 4 };
    expect(nextDue(hourly, history, NOON, 0, 0).reason).toBe('later than scheduled: it failed 4 times in a row');
  });

  it('never brings a schedule forward', () => {
    const week = 7 * 24 * HOUR;
    expect(backoffMs(week, 5)).toBe(week);
    expect(backoffMs(MIN, 5)).toBe(16 * MIN);
  });

  it.each(['* * * * *', '15 */4 * * mon-fri', '0 3 1 * *'])('takes %s', (expression) => {
    expect(isCronExpression(expression)).toBe(true);
  });

  it.each(['', '61 * * * *', '* * * * * *', '0 0 30 2 *', '2026-01-01T00:00:00', '@reboot', 'x y z a b'])(
    'refuses "%s"',
    (expression) => {
      expect(isCronExpression(expression)).toBe(false);
    },
  );
});

describe('configuration of quiescing', () => {
  const parse = (yaml: string): unknown => parseConfig('FILE', yaml, agentConfigSchema);

  it.each([
    ["applicationPoints: { every: 1h, cron: '* * * * *' }", 'expected `every` or `cron`, not both'],
    ["applicationPoints: { cron: '61 * * * *' }", 'expected a cron expression'],
    ['applicationPoints: { every: 5s }', 'expected a duration of 1min to 7d'],
    ['applications: { postgresql: [{}, {}] }', 'two applications are named postgresql'],
    ['applications: { mysql: [{ password: hunter2 }] }', 'a password itself is not taken here'],
    ['applications: { oracle: [] }', 'oracle'],
    ['hooks: { timeout: 1h }', 'expected a duration of 100ms to 15min'],
    ['hooks: { dir: hooks.d }', 'expected an absolute path'],
  ])('refuses %s', (yaml, message) => {
    expect(() => parse(yaml)).toThrow(message);
  });

  it('never shows the password that was written where it does not belong', () => {
    expect(() => parse('applications: { mysql: [{ password: hunter2 }] }')).toThrow(
      expect.not.objectContaining({ message: expect.stringContaining('hunter2') as string }),
    );
  });

  it('takes one with all its keys', () => {
    const yaml = `
applications:
  postgresql: [{ name: main, port: 5433, user: backup, password: { file: /etc/afterimage/pg } }]
  mysql: [{ socket: /run/m.sock, user: root, password: { envFile: /etc/afterimage/env, variable: MYSQL } }]
  redis: [{ socket: /run/redis.sock, dataDirs: [/var/lib/redis] }]
applicationPoints: { cron: '15 */4 * * *', jitter: 5min, deadline: 2min }
hooks: { script: /usr/local/ASR/VX/scripts/customscript.sh, timeouts: { 10-app: 2min } }`;
    expect(parse(yaml)).toMatchObject({
      applications: {
        postgresql: [{ name: 'main', socket: '/var/run/postgresql', database: 'postgres' }],
        redis: [{ name: 'redis', host: '127.0.0.1', port: 6379 }],
      },
      applicationPoints: { jitter: 300_000, deadline: 120_000 },
      hooks: { timeouts: { '10-app': 120_000 } },
    });
  });
});
