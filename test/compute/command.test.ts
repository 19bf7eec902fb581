/** Providers `command` and `none`: what the operator's program says is passed on, bounded; what it doesn't do is not believed. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { CommandProvider } from '../../receiver/failover/compute/command.js';
import { providerOf } from '../../receiver/failover/compute/index.js';
import { processesWhere } from '../../receiver/failover/compute/process-identity.js';
import type { LaunchSpec } from '../../receiver/failover/compute/provider.js';
import { systemClock } from '../../shared/clock.js';
import { COMMAND_LINE_CHARS_MAX, COMMAND_OUTPUT_LINES_MAX } from '../../shared/limits.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { launchSpec, sleep } from './launch.js';

removeTempFolders();
const signal = new AbortController().signal;
const provider = new CommandProvider(systemClock, { lookMs: 5_000, workMs: 5_000 });
const hasty = new CommandProvider(systemClock, { lookMs: 300, workMs: 300 });

function recorder(): { lines: string[]; signal: AbortSignal; say: (line: string) => void } {
  const lines: string[] = [];
  return { lines, signal, say: (line) => void lines.push(line) };
}

/** A program that does what `body` says; `$1` is the action. */
async function program(body: string): Promise<LaunchSpec> {
  const folder = await tempFolder('command');
  writeFileSync(join(folder, 'program.sh'), `#!/bin/sh\n${body}\n`, { mode: 0o755 });
  return launchSpec({ folder: join(folder, 'i'), settings: { command: [join(folder, 'program.sh')] } });
}
const STOPPED = `case $1 in state) echo '{"running":false}' ; exit 0 ;; esac`;
const RUNNING = `case $1 in state) echo '{"running":true,"detail":"on host3","startedAtMs":5}' ; exit 0 ;; esac`;

describe('provider command', () => {
  it('the example: a whole life', async () => {
    const folder = join(await tempFolder('example'), 'i');
    const command = [join(import.meta.dirname, 'example-provider.sh')];
    const spec = launchSpec({ folder, test: true, settings: { command } });
    const context = recorder();
    const end = { timeoutMs: 5_000, force: false, ...context };
    expect(await provider.problems(spec)).toEqual([]);
    await provider.start(spec, context);
    expect(context.lines).toEqual(['started web1 at point 7 (test: 1)']);
    expect(JSON.parse(readFileSync(join(folder, 'launch.json'), 'utf8'))).toEqual(JSON.parse(JSON.stringify(spec)));
    await provider.start(spec, context);
    expect(context.lines).toHaveLength(1);
    const state = await provider.state(spec);
    expect(state).toMatchObject({ running: true, detail: 'sleeping' });
    expect(Math.abs(Date.now() - (state.startedAtMs ?? 0))).toBeLessThan(60_000);
    expect(await provider.shutdown(spec, end)).toBe('clean');
    expect(await provider.shutdown(spec, end)).toBe('not-running');
    await provider.start(spec, context);
    await provider.kill(spec, context);
    expect(await provider.state(spec)).toEqual({ running: false, detail: 'not running', startedAtMs: null });
    await provider.cleanup(spec, context);
    expect(existsSync(folder)).toBe(false);
  });

  it('reasons of a check are problems', async () => {
    expect(await provider.problems(await program('echo no quota; echo no network >&2; exit 1'))).toEqual(
      expect.arrayContaining(['no quota', 'no network']),
    );
    expect(await provider.problems(await program('exit 4'))).toEqual([expect.stringContaining('exit code 4')]);
    expect(await hasty.problems(await program('sleep 60'))).toEqual([expect.stringContaining('no end within 0.3 s')]);
    expect(await provider.problems(launchSpec())).toEqual([expect.stringContaining('needs a program')]);
    const nowhere = launchSpec({ settings: { command: ['/nowhere/x'] } });
    expect(await provider.problems(nowhere)).toEqual([expect.stringContaining('ENOENT')]);
  });

  it('a start that fails, hangs or lies has failed', async () => {
    const context = recorder();
    const failing = await program(`${STOPPED}\necho out of hosts; exit 9`);
    await expect(provider.start(failing, context)).rejects.toThrow(/start failed: exit code 9/);
    expect(context.lines).toEqual(['out of hosts']);
    const hanging = await program(`${STOPPED}\ntrap '' TERM; sleep 4321 & wait; sleep 4321`);
    await expect(hasty.start(hanging, context)).rejects.toThrow(/no end within/);
    // Nothing of it is left, not even what doesn't heed SIGTERM.
    await sleep(50);
    expect(processesWhere((args) => args.includes('4321'))).toEqual([]);
    await expect(provider.start(await program(STOPPED), context)).rejects.toThrow(/its state says: not running/);
  });

  it('a state that can’t be had is an error, not an end', async () => {
    await expect(provider.state(await program('echo boom >&2; exit 1'))).rejects.toThrow(/exit code 1 \(boom\)/);
    await expect(provider.state(await program('echo running'))).rejects.toMatchObject({ code: 'command-answer' });
    await expect(provider.state(await program('head -c 1000000 /dev/zero'))).rejects.toThrow(/longer than/);
    await expect(hasty.state(await program('sleep 60'))).rejects.toThrow(/no end within/);
    expect(await provider.state(await program(RUNNING))).toEqual({ running: true, detail: 'on host3', startedAtMs: 5 });
  });

  it('a shutdown without effect is none; force kills; a kill without effect is an error', async () => {
    const context = recorder();
    const stubborn = await program(RUNNING);
    const end = { timeoutMs: 5_000, ...context };
    await expect(provider.shutdown(stubborn, { ...end, force: false })).rejects.toThrow(/its state is still: on host3/);
    await expect(provider.shutdown(stubborn, { ...end, force: true })).rejects.toThrow(/kill failed/);
    const deaf = await program(
      `here=$(dirname "$0")
      case $1 in
        state) [ -e "$here/off" ] && echo '{"running":false}' || echo '{"running":true}' ;;
        shutdown) echo "$AFTERIMAGE_TIMEOUT_SECONDS" ; sleep 60 ;;
        kill) touch "$here/off" ;;
      esac`,
    );
    expect(await provider.shutdown(deaf, { ...end, timeoutMs: 300, force: true })).toBe('forced');
    expect(context.lines).toContain('1');
  });

  it('output is bounded, also when the program leaves something running that holds it', async () => {
    const context = recorder();
    const noisy = await program(
      `${RUNNING.replace('true', 'false')}\nprintf '%05000d\\n' 7; seq 5000; sleep 3 & exit 1`,
    );
    const began = performance.now();
    await expect(provider.start(noisy, context)).rejects.toThrow(/exit code 1/);
    expect(performance.now() - began).toBeLessThan(2_900);
    expect(context.lines).toHaveLength(COMMAND_OUTPUT_LINES_MAX);
    expect(Math.max(...context.lines.map((line) => line.length))).toBe(COMMAND_LINE_CHARS_MAX);
    expect(context.lines.at(-1)).toMatch(/^\(\d+ more lines\)$/);
  });

  it('the receiver’s own environment stays its own', async () => {
    process.env['AFTERIMAGE_TEST_SECRET'] = 'hidden';
    const context = recorder();
    await expect(provider.start(await program(`${STOPPED}\nenv; exit 1`), context)).rejects.toThrow();
    delete process.env['AFTERIMAGE_TEST_SECRET'];
    expect(context.lines.join('\n')).not.toContain('hidden');
    expect(context.lines).toEqual(expect.arrayContaining(['AFTERIMAGE_ACTION=start', 'AFTERIMAGE_POINT=7']));
  });

  it('is cancelled', async () => {
    const cut = new AbortController();
    const start = provider.start(await program(`${STOPPED}\nsleep 60`), { ...recorder(), signal: cut.signal });
    setTimeout(() => cut.abort(), 100);
    await expect(start).rejects.toMatchObject({ kind: 'cancelled' });
  });
});

describe('provider none', () => {
  it('hands out disks until they are taken away', async () => {
    const none = providerOf('none', { clock: systemClock, env: {} });
    const spec = launchSpec({ folder: join(await tempFolder('none'), 'i') });
    const context = recorder();
    expect(await none.state(spec)).toMatchObject({ running: false });
    await none.start(spec, context);
    expect(context.lines).toEqual(['disk disk0: nbd+unix:///disk0?socket=/run/a.sock']);
    const { startedAtMs } = await none.state(spec);
    await none.start(spec, context);
    expect(await none.state(spec)).toMatchObject({ running: true, startedAtMs });
    await expect(none.shutdown(spec, { timeoutMs: 1, force: false, ...context })).rejects.toMatchObject({
      kind: 'refused',
    });
    expect(await none.shutdown(spec, { timeoutMs: 1, force: true, ...context })).toBe('forced');
    expect(await none.shutdown(spec, { timeoutMs: 1, force: true, ...context })).toBe('not-running');
    await none.start(spec, context);
    await none.kill(spec, context);
    expect((await none.state(spec)).running).toBe(false);
    await none.cleanup(spec, context);
    expect(existsSync(spec.folder)).toBe(false);
  });
});
