/**
 * Application-consistent points of the whole system: agent, hooks, receiver, store, and what is found in a restored image.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { CycleResult } from '../../agent/cycle/machine-cycle.js';
import { MIB } from '../../shared/units.js';
import { canRunLab, Lab, sleep, WHY_NO_LAB } from '../e2e/lab.js';
import type { Output } from '../e2e/program.js';

describe.skipIf(!canRunLab)(`application-consistent points (${WHY_NO_LAB})`, { timeout: 120_000 }, () => {
  let lab: Lab | undefined;
  afterEach(async () => {
    await lab?.cleanUp();
    lab = undefined;
  });

  const open = async (more: object = {}): Promise<Lab> => {
    lab = await Lab.open({
      disks: [64 * MIB],
      interval: '1h',
      agent: (folder) => ({ hooks: { dir: join(folder, 'hooks'), timeout: '5s' }, ...more }),
    });
    mkdirSync(join(lab.folder, 'hooks'));
    return lab;
  };
  const hook = (of: Lab, name: string, body: string): void =>
    writeFileSync(join(of.folder, 'hooks', name), `#!/bin/sh\ncd ${of.folder}/mount0 || exit 9\n${body}\n`, {
      mode: 0o755,
    });
  const point = (of: Lab, ...args: string[]): Promise<Output> => of.run('agent', 'point', ...args, '--json');
  const made = ({ stdout }: Output): CycleResult => JSON.parse(stdout) as CycleResult;

  /** Content of the files of a restored image. */
  const filesOf = (of: Lab): ((name: string) => string | null) => {
    const at = join(of.folder, 'restored');
    mkdirSync(at, { recursive: true });
    execFileSync('mount', ['-o', 'loop,ro', of.restoredPath(0), at]);
    const files = new Map(['state', 'busy'].map((name) => [name, readIf(join(at, name))]));
    execFileSync('umount', [at]);
    return (name) => files.get(name) ?? null;
  };
  const readIf = (path: string): string | null => (existsSync(path) ? readFileSync(path, 'utf8').trim() : null);

  it('hold what applications left on disk between pre and post, under a label', async () => {
    const l = await open();
    const mount = l.mount(0, 'ext4');
    hook(l, '10-app', 'echo "$1" > state; echo "$1 of $AFTERIMAGE_LABEL"');
    await l.setUp();
    const output = await point(l, '--label', 'before the move');
    expect(output).toMatchObject({ code: 0 });
    expect(made(output).cut).toMatchObject({ consistency: 'application', weaker: '' });
    expect(readIf(join(mount, 'state'))).toBe('post');
    await l.command('cli', 'verify', 'lab', '--point', String(made(output).point));
    await l.restore(made(output).point);
    expect(filesOf(l)('state')).toBe('pre');

    await l.syncNow();
    const [crash, application] = await l.points();
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
    expect(await l.command('cli', 'points', 'lab')).toMatch(/application +before the move/);
    const shown = await l.command('cli', 'verify', 'lab', '--point', 'latest-app-consistent', '--json');
    expect(JSON.parse(shown)).toMatchObject({ points: [{ point: application?.number, restorable: true }] });
  });

  it('come out weaker, with the reason, when a hook fails; everything runs on', async () => {
    const l = await open();
    const mount = l.mount(0, 'ext4');
    hook(l, '10-app', 'echo "$1" > state');
    hook(l, '20-bad', '[ "$1" != pre ] || { echo the server is away; exit 7; }');
    await l.setUp();
    const output = await point(l);
    expect(output.code).toBe(1);
    expect(made(output).cut).toMatchObject({
      consistency: 'filesystem',
      weaker: 'not application-consistent: hook 20-bad: exit code 7',
    });
    expect(readIf(join(mount, 'state'))).toBe('abort');
    const [newest] = await l.points();
    expect(newest?.reason).toMatch(/^not application-consistent: hook 20-bad: exit code 7; filesystems frozen for/);
    expect(newest?.quiesce?.hooks.map(({ name, phase }) => `${name} ${phase}`)).toEqual([
      '10-app pre',
      '20-bad pre',
      '20-bad abort',
      '10-app abort',
    ]);
    expect(newest?.quiesce?.hooks[1]?.output).toEqual(['the server is away']);
    expect((await l.run('agent', 'point')).stdout).toContain('Weaker than asked for: not application-consistent');
    // What isn't there isn't claimed.
    rmSync(join(l.folder, 'hooks'), { recursive: true });
    expect(made(await point(l)).cut.weaker).toContain('no application is configured and there is no hook');
    expect(made(await point(l, '--consistency', 'crash', '--label', 'x')).cut.consistency).toBe('crash');
    expect(made(await point(l, '--consistency', 'filesystem')).cut).toMatchObject({
      consistency: 'filesystem',
      weaker: '',
    });
    expect((await point(l, '--consistency', 'strong')).code).toBe(2);
    expect((await point(l, '--label', 'two\nlines')).code).toBe(2);
  });

  it('are crash-consistent where nothing can be frozen, and never without a reason', async () => {
    const l = await open({ freeze: { enabled: false } });
    hook(l, '10-app', 'true');
    await l.setUp();
    const output = await point(l);
    expect(output.code).toBe(1);
    expect(made(output).cut).toMatchObject({ consistency: 'crash' });
    expect(made(output).cut.weaker).toContain('freezing is switched off');
  });

  it('are made by schedule, the first at once', async () => {
    const l = await open({ applicationPoints: { every: '1h' } });
    l.mount(0, 'ext4');
    hook(l, '10-app', 'true');
    await l.setUp();
    const { applicationPoints } = await l.until('made', (s) => s.applicationPoints.lastPoint !== null);
    expect(applicationPoints).toMatchObject({ schedule: 'every 1h', failuresInARow: 0, alerts: [] });
    expect((await l.points()).filter(({ consistency }) => consistency === 'application')).toHaveLength(1);
    // It is known over a restart that this one was made.
    await l.agent?.stop();
    await l.startAgent();
    await l.untilProtected();
    await l.syncNow();
    expect((await l.points()).filter(({ consistency }) => consistency === 'application')).toHaveLength(1);
  });

  it('the agent is killed amid one: hooks are undone, the filesystem is writable, the next point holds', async () => {
    const l = await open();
    const mount = l.mount(0, 'ext4');
    hook(l, '10-app', 'echo "$1" > state; [ "$1" != pre ] || sleep 3');
    await l.setUp();
    const lost = point(l);
    while (readIf(join(mount, 'state')) !== 'pre') await sleep(20);
    await l.agent?.kill();
    expect((await lost).code).not.toBe(0);
    const endMs = performance.now() + 20_000;
    while (existsSync(join(l.folder, 'agent', 'quiesce.json')) && performance.now() < endMs) await sleep(20);
    expect(readIf(join(mount, 'state'))).toBe('abort');
    writeFileSync(join(mount, 'busy'), 'written');
    await l.startAgent();
    await l.untilProtected();
    const output = await point(l);
    expect(made(output).cut.consistency).toBe('application');
    await l.restore(made(output).point);
    expect(filesOf(l)('busy')).toBe('written');
  });
});
