/** What an agent undoes at its start, because the one before it ended amid a point, and the process that quiesced as well. */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { agentConfigSchema } from '../../agent/config.js';
import { readProcesses } from '../../agent/quiesce/hooks/process-tree.js';
import { notePathOf, undoLeftovers, type AskedDeps } from '../../agent/quiesce/machine-asked.js';
import { systemClock } from '../../shared/clock.js';
import { parseConfig } from '../../shared/config/load.js';
import { silentLogger } from '../../shared/log.js';
import { compile, type Compiled } from './compile.js';
import { until } from './loop-disks.js';

const RUNNER = 'agent/quiesce/runner/runner-main.ts';

describe('what is left to undo', { timeout: 60_000 }, () => {
  let compiled: Compiled;
  let folder: string;
  let children: ChildProcess[];
  beforeAll(() => (compiled = compile([RUNNER])));
  afterAll(() => compiled.remove());
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'afterimage-leftovers-'));
    mkdirSync(join(folder, 'hooks'));
    children = [];
  });
  afterEach(() => {
    for (const child of children) child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });

  const deps = (): AskedDeps => ({
    config: parseConfig(
      'test',
      JSON.stringify({ stateDir: folder, hooks: { dir: join(folder, 'hooks') } }),
      agentConfigSchema,
    ),
    clock: systemClock,
    log: silentLogger(),
    randomId: () => 'another',
  });
  const undo = (): Promise<void> => undoLeftovers(deps(), { program: compiled.path(RUNNER) });
  const hook = (name: string, body = ''): void =>
    writeFileSync(
      join(folder, 'hooks', name),
      `#!/bin/sh\necho "${name} $1 $AFTERIMAGE_ID" >> ${folder}/calls\n${body}\n`,
      {
        mode: 0o755,
      },
    );
  const calls = (): string[] =>
    existsSync(join(folder, 'calls')) ? readFileSync(join(folder, 'calls'), 'utf8').trim().split('\n') : [];
  const note = (hooks: readonly string[], pid = 0, startTicks = 0): void =>
    writeFileSync(notePathOf(deps().config), JSON.stringify({ version: 1, pid, startTicks, id: 'id-1', hooks }));
  const isNoted = (): boolean => existsSync(notePathOf(deps().config));
  /** A process of a hook, whoever started it. */
  const processOf = (phase: string): ChildProcess => {
    const env = { ...process.env, AFTERIMAGE_ID: 'id-1', AFTERIMAGE_PHASE: phase };
    const child = spawn('sleep', ['600'], { env, detached: true });
    children.push(child);
    return child;
  };

  it('is nothing where nothing was noted', async () => {
    hook('10-a');
    await undo();
    expect(calls()).toEqual([]);
  });

  it('are the hooks that were noted, in the reverse order, each with `abort`', async () => {
    for (const name of ['10-a', '20-b', '30-c']) hook(name);
    note(['10-a', '20-b', 'gone']);
    await undo();
    expect(calls()).toEqual(['20-b abort id-1', '10-a abort id-1']);
    expect(isNoted()).toBe(false);
  });

  it('are all hooks when the note can not be read', async () => {
    for (const name of ['10-a', '20-b']) hook(name);
    writeFileSync(notePathOf(deps().config), '{"version":');
    await undo();
    expect(calls()).toEqual(['20-b abort another', '10-a abort another']);
    expect(isNoted()).toBe(false);
  });

  it('is what `pre` has under way: it ends before `abort` is called; what `post` started goes on', async () => {
    const [pre, post] = [processOf('pre'), processOf('post')];
    hook('10-a', `grep -qv ') Z ' /proc/${pre.pid}/stat 2>/dev/null && echo "pre still runs" >> ${folder}/calls`);
    note(['10-a']);
    await undo();
    expect(calls()).toEqual(['10-a abort id-1']);
    await until('it was killed', () => pre.signalCode === 'SIGKILL');
    expect(post.exitCode ?? post.signalCode).toBe(null);
  });

  it('is left to the process that quiesces, as long as that one is there', async () => {
    hook('10-a');
    const runner = processOf('none');
    await until('it runs', () => readProcesses().some(({ pid }) => pid === runner.pid));
    note(['10-a'], runner.pid, readProcesses().find(({ pid }) => pid === runner.pid)?.startTicks);
    const undone = undo();
    await systemClock.sleep(500);
    expect(calls()).toEqual([]);
    runner.kill('SIGKILL');
    await undone;
    expect(calls()).toEqual(['10-a abort id-1']);
    expect(isNoted()).toBe(false);
  });

  it('stays noted when the process that undoes it does not come up', async () => {
    hook('10-a');
    note(['10-a']);
    await undoLeftovers(deps(), { program: '/nowhere/runner.js' });
    expect(calls()).toEqual([]);
    expect(isNoted()).toBe(true);
  });
});
