/**
 * The verbs of failover as an operator and a program use them: what is asked of the receiver, what is shown, exit codes, and that bad input changes nothing.
 */
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { AfterimageError } from '../../shared/errors.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { DB, failedOver, JOB_ID, jobOf, recoveryOf, T0, task, viewOf, WEB } from './fake-service.js';
import { runWith, startControl, type Control } from './fixture.js';

removeTempFolders();
let control: Control;
beforeEach(async () => {
  control = await startControl();
  control.service.steps = [jobOf('failover', 'Succeeded', [task('Start the machine', 'Succeeded')])];
});
afterEach(() => control.stop());

const asked = (): unknown[] => control.service.begun.map((b) => b.request);

describe('what each verb asks for', () => {
  const start = { point: 'latest' };
  const table: [line: string, request: object][] = [
    ['failover web1', { operation: 'failover', ...start, shutdown: false, commit: false }],
    [
      'failover web1 --point 812 --shutdown --commit --provider none',
      { operation: 'failover', point: '812', shutdown: true, commit: true, provider: 'none' },
    ],
    [
      'failover web1 --planned --hook-timeout 2min',
      { operation: 'planned-failover', ...start, commit: false, hookTimeoutMs: 120_000 },
    ],
    [
      'failover web1 --check tcp:10.0.0.5:22 --check-timeout 90s',
      {
        operation: 'failover',
        ...start,
        shutdown: false,
        commit: false,
        bootCheck: { type: 'tcp', host: '10.0.0.5', port: 22, timeoutMs: 90_000 },
      },
    ],
    [
      'test-failover web1 --point latest-app-consistent --check serial:login:',
      {
        operation: 'test-failover',
        point: 'latest-app-consistent',
        bootCheck: { type: 'serial', text: 'login:', timeoutMs: 300_000 },
      },
    ],
    [
      'test-failover web1 --check http://10.0.0.5/ready?x=1',
      {
        operation: 'test-failover',
        ...start,
        bootCheck: { type: 'http', url: 'http://10.0.0.5/ready?x=1', timeoutMs: 300_000 },
      },
    ],
    [
      'test-failover web1 --check command:/usr/local/bin/check',
      {
        operation: 'test-failover',
        ...start,
        bootCheck: { type: 'command', command: ['/usr/local/bin/check'], timeoutMs: 300_000 },
      },
    ],
    [
      'failover web1 --without-disk data --without-disk /dev/sdc',
      { operation: 'failover', ...start, shutdown: false, commit: false, withoutDisks: ['data', '/dev/sdc'] },
    ],
    ['test-failover web1 --without-disk data', { operation: 'test-failover', ...start, withoutDisks: ['data'] }],
    [
      'change-point web1 --point latest --without-disk data --yes',
      { operation: 'change-point', point: 'latest', withoutDisks: ['data'] },
    ],
    ['test-failover web1 --check none', { operation: 'test-failover', ...start, bootCheck: { type: 'none' } }],
    ['cleanup web1 --notes fine', { operation: 'cleanup', notes: 'fine' }],
    ['cleanup web1', { operation: 'cleanup', notes: '' }],
    ['commit web1', { operation: 'commit' }],
    ['change-point web1 --point 7', { operation: 'change-point', point: '7' }],
    ['cancel web1', { operation: 'cancel' }],
    ['reprotect web1', { operation: 'reprotect' }],
    ['failback web1', { operation: 'failback', shutdownTimeoutMs: 300_000, force: false }],
    ['failback 1111 --force --shutdown-timeout 30s', { operation: 'failback', shutdownTimeoutMs: 30_000, force: true }],
  ];
  test.each(table)('%s', async (line, request) => {
    const { code, out, err } = await control.run(line.split(' '));
    expect([code, out]).toEqual([0, '']);
    expect(control.service.begun).toEqual([{ machine: WEB, request }]);
    expect(err).toContain('Start the machine: Succeeded after 1.5 s\n');
  });
});

describe('bad input: exit code 2, and the receiver is asked to do nothing', () => {
  const table: [line: string, message: RegExp][] = [
    ['failover', /missing required argument/],
    ['failover nope', /no machine "nope" in the receiver on/],
    ['failover web1 --planned --without-disk data', /--planned needs all disks of the machine at home/],
    ['failover web1 --point soon', /"soon" does not name a point/],
    ['failover web1 --provider cloud', /Allowed choices are qemu, command, none/],
    ['failover web1 --check maybe', /--check maybe is not a check/],
    ['failover web1 --check tcp:nowhere', /nowhere is not HOST:PORT/],
    ['failover web1 --check serial:', /--check serial:/],
    ['failover web1 --check http://', /--check http/],
    ['failover web1 --check command:check.sh', /must be absolute/],
    ['failover web1 --check none --check-timeout 5', /5 is not a duration/],
    ['failover web1 --check-timeout 5s', /--check-timeout needs --check/],
    ['failover web1 --planned --shutdown', /leave --shutdown out/],
    ['failover web1 --hook-timeout 5s', /--hook-timeout needs --planned/],
    ['failover web1 --planned --hook-timeout soon', /--hook-timeout soon is not a duration/],
    ['failover web1 --frob', /unknown option/],
    ['test-failover web1 --commit', /unknown option/],
    ['change-point web1', /required option '--point/],
    ['failback web1 --shutdown-timeout 0s', /not a duration/],
    [`cleanup web1 --notes ${'x'.repeat(2001)}`, /notes: /],
    ['jobs web1 --job zzz', /"zzz" fits no job of web1/],
    ['status nope', /no machine "nope"/],
  ];
  test.each(table)('%s', async (line, message) => {
    const { code, out, err } = await control.run(line.split(' '));
    expect(err).toMatch(message);
    expect([code, out, asked()]).toEqual([2, '', []]);
    const json = await control.run([...line.split(' '), '--json']);
    expect([json.code, json.out, asked()]).toEqual([2, '', []]);
    expect(JSON.parse(json.err)).toMatchObject({ error: { kind: 'usage' } });
  });
});

describe('watching a job', () => {
  const running = (state: 'Started' | 'Succeeded', detail = '') =>
    jobOf('failover', 'InProgress', [task('Check', state, { detail }), task('Start the machine', 'Pending')]);

  test('elsewhere than on a terminal: a line for each step', async () => {
    const done = [task('Check', 'Succeeded', { detail: 'point\n42' }), task('Start the machine', 'Succeeded')];
    control.service.steps = [
      running('Started'),
      running('Started'),
      running('Succeeded'),
      jobOf('failover', 'Succeeded', done),
    ];
    const { code, out, err } = await control.run(['failover', 'web1']);
    expect([code, out]).toEqual([0, '']);
    expect(err.split('\n')).toEqual([
      'Check: Started',
      'Check: Succeeded after 1.5 s',
      'Start the machine: Succeeded after 1.5 s',
      `failover of web1 (job ${JOB_ID}): Succeeded after 3.0 s`,
      expect.stringMatching(/afterimage commit web1.*change-point.*cancel/),
      '',
    ]);
  });

  test('on a terminal: drawn over, and never wider than it is', async () => {
    control.service.steps = [
      running('Started', 'x'.repeat(100)),
      jobOf('failover', 'Succeeded', [task('Check', 'Succeeded')]),
    ];
    const { err } = await control.run(['failover', 'web1', '--yes'], { typed: '' });
    expect(err).toContain('\x1b[3A\x1b[J');
    expect(err).toMatch(
      /^InProgress, 2\.0 s: failover of web1.*\n {2}Started +Check +2\.0 s {2}x+\n {2}Pending {4}Start the machine\n/,
    );
    // eslint-disable-next-line no-control-regex
    const lines = err.replaceAll(/\x1b\[\d*[AJ]/g, '').split('\n');
    expect(Math.max(...lines.slice(0, 5).map((l) => l.length))).toBe(59);
  });

  test('a failed job: exit code 1, its reason, hint and output', async () => {
    const failed = task('Start the machine', 'Failed', { output: ['qemu: no such device', '\x1b[2Jevil'] });
    control.service.steps = [
      jobOf('failover', 'Failed', [failed], {
        error: { code: 'start-failed', message: 'QEMU ended', hint: 'Read it.' },
      }),
    ];
    const { code, err } = await control.run(['failover', 'web1']);
    expect(code).toBe(1);
    expect(err).toMatch(/ \| qemu: no such device\n/);
    expect(err).toContain(`failover of web1 (job ${JOB_ID}): Failed: QEMU ended\n  Read it.\n`);
    expect(err).not.toContain('\x1b');
    const json = await control.run(['failover', 'web1', '--json']);
    expect(JSON.parse(json.out)).toMatchObject({ id: JOB_ID, state: 'Failed' });
    expect(JSON.parse(json.err)).toMatchObject({ error: { code: 'start-failed', hint: 'Read it.' } });
  });

  test('a cancelled job is what cancel wants, and a failure for others', async () => {
    control.service.steps = [jobOf('failover', 'Cancelled', [])];
    expect((await control.run(['cancel', 'web1'])).code).toBe(0);
    const other = await control.run(['failover', 'web1']);
    expect([other.code, other.err]).toEqual([1, expect.stringContaining('Cancelled')]);
  });

  test('--no-wait and --json', async () => {
    control.service.steps = [running('Started')];
    expect(await control.run(['failover', 'web1', '--no-wait'])).toEqual({ code: 0, out: `${JOB_ID}\n`, err: '' });
    const json = await control.run(['failover', 'web1', '--no-wait', '--json']);
    expect(JSON.parse(json.out)).toMatchObject({ id: JOB_ID, state: 'InProgress' });
    control.service.steps = [running('Started'), jobOf('failover', 'Succeeded', [])];
    const waited = await control.run(['failover', 'web1', '--json']);
    expect([JSON.parse(waited.out), waited.err]).toMatchObject([{ state: 'Succeeded' }, '']);
  });

  test('Ctrl-C stops the watching, not the job, and says so', async () => {
    control.service.steps = [running('Started')];
    const stop = new AbortController();
    const { code, err } = await control.run(['failover', 'web1'], {
      signal: stop.signal,
      onErr: () => stop.abort(),
    });
    expect(code).toBe(1);
    expect(err).toMatch(
      /goes on at the receiver\n {2}See `afterimage jobs web1 --job abcdef01.*`; end it with `afterimage cancel web1`/,
    );
    expect(asked()).toEqual([expect.objectContaining({ operation: 'failover' })]);
  });

  test('a receiver that is started again meanwhile', async () => {
    const away = new AfterimageError('gone', { code: 'receiver-not-running', kind: 'disconnected' });
    control.service.steps = [running('Started'), away, away, jobOf('failover', 'Succeeded', [])];
    const { code, err } = await control.run(['failover', 'web1']);
    expect(code).toBe(0);
    expect(err.match(/waiting for it/g)).toHaveLength(1);
  });

  test('what the receiver refuses', async () => {
    control.service.refusal = new AfterimageError('not now', { code: 'not-allowed', kind: 'refused', hint: 'Later.' });
    const { code, err } = await control.run(['commit', 'web1']);
    expect([code, err]).toEqual([1, 'afterimage: not now\n  Later.\n']);
  });
});

describe('questions', () => {
  const risky = ['failover web1', 'change-point web1 --point 3', 'cancel web1', 'failback web1'];
  test.each(risky)('%s asks on a terminal', async (line) => {
    for (const typed of ['n\n', '\n', 'maybe\n', '']) {
      const { code, err } = await control.run(line.split(' '), { typed });
      expect(err).toMatch(/web1.*\[y\/N\]/);
      expect(err).toMatch(/nothing was changed/);
      expect([code, asked()]).toEqual([1, []]);
    }
    const { code } = await control.run(line.split(' '), { typed: 'y\n' });
    expect([code, asked().length]).toEqual([0, 1]);
  });

  test.each(risky)('%s does not ask with --yes, nor without a terminal', async (line) => {
    expect((await control.run([...line.split(' '), '--yes'], { typed: '' })).err).not.toContain('[y/N]');
    expect((await control.run(line.split(' '), { stdin: 'n\n' })).err).not.toContain('[y/N]');
    expect(asked()).toHaveLength(2);
  });

  test('none before what is refused anyway', async () => {
    control.service.views = [failedOver()];
    control.service.refusal = new AfterimageError('failed over already', { code: 'not-allowed', kind: 'refused' });
    const { code, err } = await control.run(['failover', 'web1'], { typed: '' });
    expect([code, err]).toEqual([1, 'afterimage: failed over already\n']);
  });
});

describe('afterimage status', () => {
  test('of all machines', async () => {
    control.service.views = [failedOver(), viewOf(DB, 'db1', { lastPoint: 0, homeAgent: null })];
    const { code, out } = await control.run(['status']);
    const [title = '', web = '', db = ''] = out.split('\n');
    expect(code).toBe(0);
    expect(title).toMatch(/^MACHINE +STATE +ACTIVE +POINT +HOME AGENT +TEST FAILOVER +JOB +DATA AT RISK$/);
    expect(web).toMatch(/^web1 +UnplannedFailoverCompleted +Recovery +42 +- +None +- +3\.0 s, 4\.00 KiB$/);
    expect(db).toMatch(/^db1 +Protected +Primary +- +- +None +- +-$/);
    const json = JSON.parse((await control.run(['status', '--json'])).out) as { machines: unknown[] };
    expect(json.machines).toHaveLength(2);
  });

  test('of one: copies, disks, and what can be done', async () => {
    const job = jobOf('commit', 'InProgress', [task('Commit', 'Started')]);
    control.service.views = [failedOver({ recovery: recoveryOf({ job, stateReason: 'asked for' }) })];
    const { out } = await control.run(['status', 'web1']);
    expect(out).toMatch(/^web1 {2}11111111-/);
    for (const part of [
      /State: +UnplannedFailoverCompleted \(asked for\)/,
      /Active: +Recovery/,
      /Newest point: +42, generation 2/,
      /Agent at home: +not connected, refused \(the machine is failed over\)/,
      /commit, job abcdef01-.*: InProgress, 2\.0 s\n {2}Started +Commit +2\.0 s/,
      /failover from point 40, by qemu \(eeeeeeee-/,
      /Guest: +running/,
      /Boot check: +tcp passed \(port 22 answered\), RTO 12\.3 s/,
      /Data at risk: +3\.0 s, 4\.00 KiB/,
      /root +1\.00 GiB +1\.00 MiB +12 % +4\.00 KiB +nbd\+unix:\/\/\/root\?socket=\/run\/a\.sock/,
      /What can be done:\n {2}afterimage commit web1\n {2}afterimage change-point web1 --point P\n$/,
    ])
      expect(out).toMatch(part);
    expect((await control.run(['status', 'web1', '--all'])).out).toMatch(
      / {2}failover: not now, the machine is failed over already\n/,
    );
    expect(JSON.parse((await control.run(['status', '1111', '--json'])).out)).toEqual(control.service.views[0]);
  });

  test('a copy on another host is named, not described', async () => {
    control.service.views = [failedOver({ instances: [] })];
    expect((await control.run(['status', 'web1'])).out).toMatch(/Guest: +on receiver dr1: ask there/);
  });
});

describe('afterimage jobs', () => {
  const ended = jobOf('failover', 'Failed', [task('Start', 'Failed', { output: ['line 1'] })], {
    error: { code: 'x', message: 'QEMU ended', hint: 'Read it.' },
  });

  test('newest first, and one with its output', async () => {
    const now = jobOf('commit', 'InProgress', [task('Commit', 'Started')], { id: DB, startedAtMs: T0 + 1000 });
    control.service.views = [failedOver({ recovery: recoveryOf({ job: now, jobs: [ended] }) })];
    const { out } = await control.run(['jobs', 'web1']);
    expect(out.split('\n')[1]).toMatch(/^99999999-.* +commit +InProgress +\S+ +1\.0 s +Commit$/);
    expect(out.split('\n')[2]).toMatch(/^abcdef01-.* +failover +Failed +\S+ +3\.0 s +QEMU ended$/);
    for (const word of ['abcd', 'ABCD']) {
      const one = await control.run(['jobs', 'web1', '--job', word]);
      expect(one.out).toMatch(
        /failover of web1 .*: Failed.*\n {2}Failed +Start +1\.5 s\n {4}\| line 1\nQEMU ended\n {2}Read it\.\n$/,
      );
    }
    control.service.steps = [ended];
    expect(JSON.parse((await control.run(['jobs', 'web1', '--job', JOB_ID, '--json'])).out)).toEqual(ended);
    expect((await control.run(['jobs', 'web1', '--job', WEB])).err).toMatch(/no job/);
  });

  test('none yet', async () => {
    expect(await control.run(['jobs', 'web1'])).toMatchObject({
      code: 0,
      out: '',
      err: expect.stringContaining('Nothing') as unknown,
    });
  });
});

test('no receiver: exit code 1, which socket, how to start it', async () => {
  const folder = await tempFolder('none');
  const socket = join(folder, 'c.sock');
  for (const verb of ['status', 'failover web1', 'jobs web1', 'commit web1']) {
    const { code, err } = await runWith([...verb.split(' '), '--socket', socket]);
    expect(code).toBe(1);
    expect(err).toMatch(/no receiver listens on .*c\.sock\n {2}Start it/);
  }
});

test('the socket of the configuration', async () => {
  const { writeFile } = await import('node:fs/promises');
  const config = join(await tempFolder('config'), 'receiver.yaml');
  await writeFile(config, `controlSocket: ${control.socket}\n`);
  expect((await runWith(['--config', config, 'status'])).out).toMatch(/web1/);
});

const VERBS =
  'failover test-failover cleanup commit change-point cancel reprotect failback status jobs launch-settings serve';
test.each(VERBS.split(' '))('%s --help has examples', async (verb) => {
  const { code, out } = await runWith([verb, '--help']);
  expect(code).toBe(0);
  expect(out).toMatch(new RegExp(`Examples:\\n {2}afterimage ${verb}`));
});
