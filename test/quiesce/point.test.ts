/**
 * Application-consistent points of the whole system: agent, hooks, receiver, store, and what is found in a restored image.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import type { CycleResult } from '../../agent/cycle/machine-cycle.js';
import { MIB } from '../../shared/units.js';
import { canRunLab, Lab, WHY_NO_LAB } from '../e2e/lab.js';
import type { Output } from '../e2e/program.js';
import { until } from './loop-disks.js';

describe.skipIf(!canRunLab)(`application-consistent points (${WHY_NO_LAB})`, { timeout: 120_000 }, () => {
  let lab: Lab;
  let mount = '';
  /** What every agent of these tests is configured with. */
  let plain: Record<string, unknown> = {};

  beforeAll(async () => {
    lab = await Lab.open({
      disks: [64 * MIB],
      interval: '1h',
      agent: (folder) => ({ hooks: { dir: join(folder, 'hooks'), timeout: '10s' }, freeze: { deadline: '10s' } }),
    });
    mount = lab.mount(0, 'ext4');
    plain = parse(readFileSync(lab.configs.agent, 'utf8')) as typeof plain;
    await lab.startReceiver();
    await lab.enrol();
    await lab.protect();
  }, 120_000);
  afterAll(() => lab.cleanUp());
  beforeEach(() => {
    rmSync(join(lab.folder, 'hooks'), { recursive: true, force: true });
    rmSync(join(mount, 'state'), { force: true });
    mkdirSync(join(lab.folder, 'hooks'));
  });
  afterEach(async () => {
    if (lab.agent?.end === null) await lab.agent.stop();
  });

  const agentWith = async (more: object = {}): Promise<void> => {
    if (lab.agent?.end === null) await lab.agent.stop();
    writeFileSync(lab.configs.agent, stringify({ ...plain, ...more }));
    await lab.startAgent();
    await lab.untilProtected();
  };
  const history = (): string => join(lab.folder, 'agent', 'application-points.json');
  const note = (): string => join(lab.folder, 'agent', 'quiesce.json');
  const hook = (name: string, body: string): void =>
    writeFileSync(join(lab.folder, 'hooks', name), `#!/bin/sh\ncd ${mount} || exit 9\n${body}\n`, { mode: 0o755 });
  const point = (...args: string[]): Promise<Output> => lab.run('agent', 'point', ...args, '--json');
  const made = ({ stdout }: Output): CycleResult => JSON.parse(stdout) as CycleResult;

  /** Content of the files of a restored image. */
  const restoredFiles = async (of: number): Promise<(name: string) => string | null> => {
    await lab.restore(of);
    const at = join(lab.folder, 'restored');
    mkdirSync(at, { recursive: true });
    execFileSync('mount', ['-o', 'loop,ro', lab.restoredPath(0), at]);
    const files = new Map(['state', 'busy'].map((name) => [name, readIf(join(at, name))]));
    execFileSync('umount', [at]);
    return (name) => files.get(name) ?? null;
  };
  const readIf = (path: string): string | null => (existsSync(path) ? readFileSync(path, 'utf8').trim() : null);

  it('hold what applications left on disk between pre and post, under a label', async () => {
    hook('10-app', 'echo "$1" > state; echo "$1 of $AFTERIMAGE_LABEL"');
    await agentWith();
    const output = await point('--label', 'before the move');
    expect(output).toMatchObject({ code: 0 });
    expect(made(output).cut).toMatchObject({ consistency: 'application', weaker: '' });
    expect(readIf(join(mount, 'state'))).toBe('post');
    await lab.command('cli', 'verify', 'lab', '--point', String(made(output).point));
    expect((await restoredFiles(made(output).point))('state')).toBe('pre');

    await lab.syncNow();
    const [crash, application] = await lab.points();
    expect(crash).toMatchObject({ consistency: 'crash' });
    expect(crash?.quiesce).toBeUndefined();
    expect(application).toMatchObject({
      consistency: 'application',
      label: 'before the move',
      quiesce: {
        asked: 'application',
        weaker: '',
        filesystems: [mount],
        hooks: [
          { name: '10-app', phase: 'pre', failure: null, output: ['pre of before the move'] },
          { name: '10-app', phase: 'post', failure: null, output: ['post of before the move'] },
        ],
      },
    });
    expect(await lab.command('cli', 'points', 'lab')).toMatch(/application +before the move/);
    const shown = await lab.command('cli', 'verify', 'lab', '--point', 'latest-app-consistent', '--json');
    expect(JSON.parse(shown)).toMatchObject({ points: [{ point: application?.number, restorable: true }] });
  });

  it('come out weaker, with the reason, when a hook fails; everything runs on', async () => {
    hook('10-app', 'echo "$1" > state');
    hook('20-bad', '[ "$1" != pre ] || { echo the server is away; exit 7; }');
    await agentWith();
    const output = await point();
    expect(output.code).toBe(1);
    expect(made(output).cut).toMatchObject({
      consistency: 'filesystem',
      weaker: 'not application-consistent: hook 20-bad: exit code 7',
    });
    expect(readIf(join(mount, 'state'))).toBe('abort');
    const [newest] = await lab.points();
    expect(newest?.reason).toMatch(/^not application-consistent: hook 20-bad: exit code 7; filesystems frozen for/);
    expect(newest?.quiesce?.hooks.map(({ name, phase }) => `${name} ${phase}`)).toEqual([
      '10-app pre',
      '20-bad pre',
      '20-bad abort',
      '10-app abort',
    ]);
    expect(newest?.quiesce?.hooks[1]?.output).toEqual(['the server is away']);
    expect((await lab.run('agent', 'point')).stdout).toContain('Weaker than asked for: not application-consistent');
    // What isn't there isn't claimed.
    rmSync(join(lab.folder, 'hooks'), { recursive: true });
    expect(made(await point()).cut.weaker).toContain('no application is configured and there is no hook');
    expect(made(await point('--consistency', 'crash', '--label', 'x')).cut.consistency).toBe('crash');
    expect(made(await point('--consistency', 'filesystem')).cut).toMatchObject({
      consistency: 'filesystem',
      weaker: '',
    });
    expect((await point('--consistency', 'strong')).code).toBe(2);
    expect((await point('--label', 'two\nlines')).code).toBe(2);
  });

  it('are crash-consistent where nothing can be frozen, and never without a reason', async () => {
    hook('10-app', 'true');
    await agentWith({ freeze: { enabled: false } });
    const output = await point();
    expect(output.code).toBe(1);
    expect(made(output).cut).toMatchObject({ consistency: 'crash' });
    expect(made(output).cut.weaker).toContain('freezing is switched off');
  });

  it('are made by schedule, the first at once; failures in a row are an alert wherever somebody looks', async () => {
    const applicationPoints = { every: '1h' };
    const count = async (): Promise<number> =>
      (await lab.points()).filter(({ consistency }) => consistency === 'application').length;
    const before = await count();
    hook('10-app', 'true');
    rmSync(history(), { force: true });
    await agentWith({ applicationPoints });
    const status = await lab.until('made', (s) => s.applicationPoints.lastPoint !== null);
    expect(status.applicationPoints).toMatchObject({ schedule: 'every 1h', failuresInARow: 0, alerts: [] });
    expect(await count()).toBe(before + 1);
    // It is known over a restart that this one was made.
    await agentWith({ applicationPoints });
    await lab.syncNow();
    expect(await count()).toBe(before + 1);

    // Two have failed, and the third is due.
    await lab.agent?.stop();
    const known = JSON.parse(readFileSync(history(), 'utf8')) as object;
    writeFileSync(history(), JSON.stringify({ ...known, failuresInARow: 2, lastTryAtMs: Date.now() - 10 * 3_600_000 }));
    hook('10-app', '[ "$1" != pre ] || exit 3');
    await agentWith({ applicationPoints });
    const failing = await lab.until('an alert', (s) => s.applicationPoints.alerts.length > 0);
    expect(failing.applicationPoints).toMatchObject({
      failuresInARow: 3,
      alerts: [{ code: 'application-points-failing' }],
      nextReason: 'later than scheduled: it failed 3 times in a row',
    });
    const reason = 'no application-consistent point: 3 failed in a row';
    const port = (plain['status'] as { port: number }).port;
    const get = (path: string): Promise<Response> => fetch(`http://127.0.0.1:${port}${path}`);
    const health = await get('/healthz');
    expect(health.status).toBe(503);
    expect(await health.text()).toContain(reason);
    expect(await (await get('/metrics')).text()).toMatch(/^afterimage_agent_alerts(\{.*\})? 1$/m);
    expect(await lab.command('agent', 'status')).toContain(`ALERT:      ${reason}`);
    expect(lab.loudReasons().join('\n')).toContain(reason);
  });

  it('the agent is killed amid one: hooks are undone, the filesystem is writable, the next point holds', async () => {
    hook('10-app', 'echo "$1" > state; [ "$1" != pre ] || sleep 3');
    await agentWith();
    const lost = point();
    await until('the hook runs', () => readIf(join(mount, 'state')) === 'pre', 30_000);
    await lab.agent?.kill();
    expect((await lost).code).not.toBe(0);
    await until('undone', () => !existsSync(note()), 30_000);
    expect(readIf(join(mount, 'state'))).toBe('abort');
    writeFileSync(join(mount, 'busy'), 'written');

    // This time the process that quiesces dies with it: the next agent undoes what it began.
    await agentWith();
    const lostAgain = point();
    await until('the hook runs', () => readIf(join(mount, 'state')) === 'pre', 30_000);
    const { pid } = JSON.parse(readFileSync(note(), 'utf8')) as { pid: number };
    // It has no time to hear that the agent is gone.
    process.kill(pid, 'SIGSTOP');
    await lab.agent?.kill();
    process.kill(pid, 'SIGKILL');
    expect((await lostAgain).code).not.toBe(0);
    expect(readIf(join(mount, 'state'))).toBe('pre');
    await agentWith();
    await until('undone', () => !existsSync(note()), 30_000);
    expect(readIf(join(mount, 'state'))).toBe('abort');

    const output = await point();
    expect(made(output).cut.consistency).toBe('application');
    expect((await restoredFiles(made(output).point))('busy')).toBe('written');
  });
});
