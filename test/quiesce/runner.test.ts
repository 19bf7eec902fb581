/**
 * The process that quiesces applications, with real hooks: whatever a hook does, and whoever dies, each that was called with `pre` gets `post` or `abort`.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { findHooks } from '../../agent/quiesce/hooks/hook-files.js';
import { readProcesses } from '../../agent/quiesce/hooks/process-tree.js';
import type { QuiesceTask } from '../../agent/quiesce/runner/protocol.js';
import { QuiesceRunner } from '../../agent/quiesce/runner/runner.js';
import { systemClock, type Clock } from '../../shared/clock.js';
import { QUIESCE_GRACE_MS } from '../../shared/limits-quiesce.js';
import { compile, type Compiled } from './compile.js';
import { until } from './loop-disks.js';

const RUNNER = 'agent/quiesce/runner/runner-main.ts';
const AGENT = 'test/quiesce/quiescing-agent.ts';

describe('quiescing applications', { timeout: 60_000 }, () => {
  let compiled: Compiled;
  let folder: string;
  let agents: ChildProcess[];

  beforeAll(() => (compiled = compile([RUNNER, AGENT])));
  afterAll(() => compiled.remove());
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'afterimage-runner-'));
    agents = [];
  });
  afterEach(async () => {
    for (const agent of agents) agent.kill('SIGKILL');
    await until('the process ends', () => runners().length === 0, 20_000);
    rmSync(folder, { recursive: true, force: true });
  });

  /** `body` runs after the hook has noted its call. */
  const hook = (name: string, body = ''): void => {
    const script = `#!/bin/sh\necho "${name} $1" >> ${folder}/calls\n${body}\n`;
    writeFileSync(join(folder, name), script, { mode: 0o755 });
  };
  const calls = (): string[] =>
    existsSync(join(folder, 'calls')) ? readFileSync(join(folder, 'calls'), 'utf8').trim().split('\n') : [];

  const task = (more: Partial<QuiesceTask> = {}, timeouts: Record<string, number> = {}): QuiesceTask => {
    writeFileSync(join(folder, '.note'), 'quiescing');
    return {
      id: 'id-1',
      label: 'afterimage',
      applications: { postgresql: [], mysql: [], redis: [] },
      hooks: findHooks({ dir: folder, timeout: 10_000, timeouts }).hooks.filter(({ name }) => name !== 'calls'),
      variables: { AFTERIMAGE_LABEL: 'before the move' },
      deadlineMs: 20_000,
      heldMs: 5_000,
      frozen: { devices: [], paths: [] },
      notePath: join(folder, '.note'),
      ...more,
    };
  };
  const start = (of: QuiesceTask): Promise<QuiesceRunner> =>
    QuiesceRunner.start(of, { clock: systemClock, program: compiled.path(RUNNER) });
  const runners = (): string[] =>
    readProcesses().flatMap(({ pid }) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(compiled.path(RUNNER)) ? [String(pid)] : [];
      } catch {
        return [];
      }
    });
  /** Processes that a hook of this test started as `sleep SECONDS`. */
  const sleepers = (seconds: number): number[] =>
    readProcesses()
      .map(({ pid }) => pid)
      .filter((pid) => {
        try {
          return readFileSync(`/proc/${pid}/cmdline`, 'utf8') === `sleep\0${seconds}\0`;
        } catch {
          return false;
        }
      });

  it('calls hooks in order, and back in the reverse one, with what they say and the variables they need', async () => {
    for (const name of ['20-b', '10-a']) hook(name, 'echo "$AFTERIMAGE_PHASE of $AFTERIMAGE_LABEL"; echo oops >&2');
    const runner = await start(task());
    expect(await runner.prepare()).toMatchObject({ is: 'prepared' });
    expect(calls()).toEqual(['10-a pre', '20-b pre']);
    expect(await runner.hold()).toMatchObject({ is: 'held' });
    expect(await runner.release()).toMatchObject({ is: 'released', inTime: true });
    expect(await runner.end('post')).toMatchObject({ is: 'ended', cause: 'command', killed: 0 });
    expect(calls()).toEqual(['10-a pre', '20-b pre', '20-b post', '10-a post']);
    expect(runner.calls).toHaveLength(4);
    expect(runner.calls[0]).toMatchObject({ hook: '10-a', phase: 'pre', failure: null });
    expect(runner.calls[0]?.output.toSorted()).toEqual(['oops', 'pre of before the move']);
    expect(existsSync(join(folder, '.note'))).toBe(false);
  });

  it('calls the script of Site Recovery with --pre and --post, after an abort too', async () => {
    const script = join(folder, 'customscript.sh');
    hook('customscript.sh');
    const { hooks } = findHooks({ dir: join(folder, 'none'), timeout: 5000, timeouts: {}, script });
    const runner = await start(task({ hooks }));
    await runner.prepare();
    await runner.end('abort');
    expect(calls()).toEqual(['customscript.sh --pre', 'customscript.sh --post']);
  });

  it('a hook that fails ends it: those that were called get abort, the others nothing', async () => {
    hook('10-a');
    hook('20-b', '[ "$1" != pre ] || { echo no space; exit 3; }');
    hook('30-c');
    const runner = await start(task());
    expect(await runner.prepare()).toMatchObject({
      is: 'ended',
      cause: 'failed',
      reason: 'hook 20-b: exit code 3',
    });
    expect(calls()).toEqual(['10-a pre', '20-b pre', '20-b abort', '10-a abort']);
    expect(runner.calls[1]?.output).toEqual(['no space']);
  });

  it('a hook that hangs is killed with all that it started, however it hid that', async () => {
    hook('10-a', '[ "$1" != pre ] || { (setsid sleep 7101 &) ; setsid sh -c "sleep 7102" & sleep 7103; }');
    const runner = await start(task({}, { '10-a': 500 }));
    const end = await runner.prepare();
    expect(end).toMatchObject({ is: 'ended', cause: 'failed', reason: 'hook 10-a: not done within 0.5 s' });
    expect([7101, 7102, 7103].flatMap(sleepers)).toEqual([]);
    expect(calls()).toEqual(['10-a pre', '10-a abort']);
  });

  it('a hook that ignores signals is killed all the same', async () => {
    hook('10-a', '[ "$1" != pre ] || { trap "" TERM INT HUP; while :; do sleep 0.1; done; }');
    const runner = await start(task({}, { '10-a': 300 }));
    expect(await runner.prepare()).toMatchObject({ is: 'ended', cause: 'failed' });
    expect(calls()).toEqual(['10-a pre', '10-a abort']);
  });

  it('what pre leaves running goes on until the end and no longer; what post starts goes on', async () => {
    // The output is kept open by it: nobody may wait for that.
    hook('10-a', 'case "$1" in pre) setsid sleep 7201 & ;; post) setsid sleep 7202 & ;; esac');
    const runner = await start(task());
    expect(await runner.prepare()).toMatchObject({ is: 'prepared' });
    // It was started; on a busy host it may not have become what it is looked for by.
    await until('it runs', () => sleepers(7201).length === 1, 10_000);
    await runner.hold();
    await runner.release();
    expect(await runner.end('post')).toMatchObject({ killed: 1 });
    expect(sleepers(7201)).toEqual([]);
    await until('what post started runs', () => sleepers(7202).length === 1, 10_000);
    for (const started of sleepers(7202)) process.kill(started, 'SIGKILL');
  });

  it('keeps the last lines of a hook that says too much', async () => {
    hook('10-a', 'yes "$(head -c 1000 /dev/zero | tr "\\0" x)" | head -50000; echo last');
    const runner = await start(task());
    await runner.prepare();
    await runner.end('abort');
    expect(runner.calls[0]?.output.at(-1)).toBe('last');
    expect(JSON.stringify(runner.calls[0]?.output).length).toBeLessThan(3000);
  });

  it('undoes everything by itself when the limit for all of it passes', async () => {
    hook('10-a');
    const runner = await start(task({ deadlineMs: 700 }));
    await runner.prepare();
    expect(await runner.ended).toMatchObject({ cause: 'deadline', reason: 'not done within 0.7 s' });
    expect(calls()).toEqual(['10-a pre', '10-a abort']);
    // Whoever comes late hears what happened.
    expect(await runner.hold()).toMatchObject({ is: 'ended', cause: 'deadline' });
    expect(await runner.end('post')).toMatchObject({ is: 'ended', cause: 'deadline' });
    expect(calls()).toEqual(['10-a pre', '10-a abort']);
  });

  const agent = (of: QuiesceTask): { child: ChildProcess; said: () => string } => {
    const child = spawn(process.execPath, [compiled.path(AGENT), compiled.path(RUNNER), JSON.stringify(of)], {
      stdio: ['ignore', 'pipe', 'inherit'],
      detached: true,
    });
    agents.push(child);
    let said = '';
    child.stdout.on('data', (bytes: Buffer) => (said += bytes.toString()));
    return { child, said: () => said };
  };

  it('undoes everything when the agent and its process group are killed', async () => {
    hook('10-a');
    const { child, said } = agent(task({ deadlineMs: 120_000 }));
    await until('prepared', () => said().includes('prepared'), 20_000);
    process.kill(-(child.pid ?? 0), 'SIGKILL');
    await until('undone', () => !existsSync(join(folder, '.note')), 20_000);
    expect(calls()).toEqual(['10-a pre', '10-a abort']);
  });

  it('undoes everything at its limit when the agent is stopped, and the agent learns of it', async () => {
    hook('10-a');
    const { child, said } = agent(task({ deadlineMs: 1500 }));
    await until('prepared', () => said().includes('prepared'), 20_000);
    process.kill(-(child.pid ?? 0), 'SIGSTOP');
    await until('undone', () => !existsSync(join(folder, '.note')), 20_000);
    expect(calls()).toEqual(['10-a pre', '10-a abort']);
    process.kill(-(child.pid ?? 0), 'SIGCONT');
    await until('the agent hears', () => said().includes('"cause":"deadline"'));
  });

  it.each(['SIGKILL', 'SIGTERM'] as const)('hooks are undone when the process gets %s', async (signal) => {
    hook('10-a');
    hook('20-b');
    const runner = await start(task());
    await runner.prepare();
    process.kill(runner.pid ?? 0, signal);
    const end = await runner.ended;
    expect(end).toMatchObject(signal === 'SIGKILL' ? { is: 'lost', undone: true } : { is: 'ended', cause: 'signal' });
    expect(calls()).toEqual(['10-a pre', '20-b pre', '20-b abort', '10-a abort']);
    expect(existsSync(join(folder, '.note'))).toBe(false);
  });

  it('a hook that is under way when the process is killed ends before it gets abort', async () => {
    hook('10-a', '[ "$1" != pre ] || { sleep 7301; echo "10-a pre ends" >> ' + folder + '/calls; }');
    const runner = await start(task());
    const prepared = runner.prepare();
    await until('the hook runs', () => sleepers(7301).length === 1, 20_000);
    process.kill(runner.pid ?? 0, 'SIGKILL');
    expect(await prepared).toMatchObject({ is: 'lost', undone: true });
    expect(sleepers(7301)).toEqual([]);
    expect(calls()).toEqual(['10-a pre', '10-a abort']);
  });

  it('nothing waits for a process that has ended: an agent that is told to stop then stops', async () => {
    hook('10-a');
    let waits = 0;
    const clock: Clock = {
      ...systemClock,
      sleep: async (ms, signal) => {
        waits++;
        await systemClock.sleep(ms, signal);
        if (ms === QUIESCE_GRACE_MS && signal?.aborted !== true) throw new Error('waited in vain');
        waits--;
      },
    };
    const runner = await QuiesceRunner.start(task(), { clock, program: compiled.path(RUNNER) });
    await runner.prepare();
    await runner.end('post');
    await until('the process ends', () => runners().length === 0, 20_000);
    // Its end is heard of a moment later.
    await systemClock.sleep(100);
    await until('no wait is left', () => waits === 0, QUIESCE_GRACE_MS - 500);
  });

  it('says that the process did not start, and nothing was touched', async () => {
    hook('10-a');
    const failing = QuiesceRunner.start(task(), { clock: systemClock, program: '/nowhere/runner.js' });
    await expect(failing).rejects.toThrow('Cannot find module');
    expect(calls()).toEqual([]);
  });
});
