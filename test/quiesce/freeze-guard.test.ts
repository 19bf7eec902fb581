/**
 * The real agent with its filesystem frozen, when it is killed, stopped, or out of memory, and with hooks that misbehave: what another process that writes
 * to that filesystem sees of it. Its longest stall stays within the freeze's deadline, and the agent goes on afterwards.
 */
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { CycleResult } from '../../agent/cycle/machine-cycle.js';
import { thawNow } from '../../agent/quiesce/freeze-ioctl.js';
import { readProcesses } from '../../agent/quiesce/hooks/process-tree.js';
import { MIB } from '../../shared/units.js';
import { canRunLab, Lab, sleep, WHY_NO_LAB } from '../e2e/lab.js';
import type { Daemon, Output } from '../e2e/program.js';
import { until } from './loop-disks.js';
import { MemoryLimit } from './memory-limit.js';
import { StallWriter } from './stalls.js';

const DEADLINE_MS = 2_000;
/** A writer that was let go needs a processor until it knows. */
const SLACK_MS = 1_500;
/** New memory of the agent, and of the guard with its locked memory. */
const MEMORY_BYTES = 384 * MIB;

const probe = MemoryLimit.make(MEMORY_BYTES);
probe?.remove();
if (probe === null)
  console.warn('the test of an agent out of memory is skipped: no control group with a limit can be made');

describe.skipIf(!canRunLab)(`frozen filesystems (${WHY_NO_LAB})`, { timeout: 120_000 }, () => {
  let lab: Lab;
  let writers: StallWriter[];

  beforeAll(async () => {
    lab = await Lab.open({
      disks: [64 * MIB, 320 * MIB],
      interval: '1h',
      agent: (folder) => ({
        hooks: { dir: join(folder, 'hooks'), timeout: '2s' },
        freeze: { deadline: `${DEADLINE_MS}ms` },
      }),
    });
    lab.mount(0, 'ext4');
    lab.mount(1, 'xfs');
    await lab.startReceiver();
    await lab.enrol();
    await lab.protect();
  }, 120_000);
  afterAll(() => lab.cleanUp());
  beforeEach(() => (writers = []));
  afterEach(async () => {
    for (const writer of writers) await writer.stop();
  });

  /** An agent that goes on after the one of the test before, and does `how` when it has frozen everything; writers on what it freezes. */
  const agentThat = async (how: string): Promise<Daemon> => {
    if (lab.agent?.end === null) await lab.agent.stop();
    const agent = await lab.startAgent(how === '' ? {} : { AFTERIMAGE_FAILPOINT: `agent.cycle.frozen:1:${how}` });
    await lab.untilProtected();
    writers.push(...(await Promise.all([0, 1].map((disk) => StallWriter.start(join(lab.folder, `mount${disk}`))))));
    return agent;
  };
  const point = (...args: string[]): Promise<Output> => lab.run('agent', 'point', ...args, '--json');
  const made = ({ stdout }: Output): CycleResult => JSON.parse(stdout) as CycleResult;
  const stalls = async (what: string): Promise<number[]> => {
    const all = await Promise.all(writers.map((writer) => writer.longestMs()));
    console.log(`${what}: writers waited for ${all.map((ms) => `${ms.toFixed(0)} ms`).join(' and ')} at most`);
    for (const stallMs of all) expect(stallMs).toBeLessThan(DEADLINE_MS + SLACK_MS);
    return all;
  };
  const frozenPoint = async (): Promise<CycleResult['cut']> => made(await point('--consistency', 'filesystem')).cut;

  it('the agent is killed: thawed within the deadline', async () => {
    const agent = await agentThat('kill');
    expect((await point('--consistency', 'filesystem')).code).not.toBe(0);
    expect(await agent.ended).toMatchObject({ signal: 'SIGKILL' });
    await stalls('agent killed while frozen');
  });

  it.skipIf(probe === null)('the agent is out of memory: the kernel kills it, not the guard', async () => {
    const agent = await agentThat('eat');
    const limit = MemoryLimit.make(MEMORY_BYTES);
    lab.undo(() => limit?.remove());
    limit?.add(agent.pid);
    expect((await point('--consistency', 'filesystem')).code).not.toBe(0);
    expect(await agent.ended).toMatchObject({ signal: 'SIGKILL' });
    expect(limit?.kills).toBe(1);
    await stalls('agent out of memory while frozen');
  });

  it('the agent is stopped: thawed at the deadline, and it makes a weaker point when it goes on', async () => {
    const agent = await agentThat('stop');
    const asked = point('--consistency', 'filesystem');
    await until('the agent is stopped', () => isStopped(agent.pid), 30_000);
    // They were held back until the guard's clock said so.
    for (const stallMs of await stalls('agent stopped while frozen')) expect(stallMs).toBeGreaterThan(DEADLINE_MS / 2);
    agent.signal('SIGCONT');
    const { cut } = made(await asked);
    expect(cut).toMatchObject({ consistency: 'crash' });
    expect(cut.weaker).toContain('deadline');
    // The pause was for nothing, and is told nevertheless.
    expect(cut.freezeMs).toBeGreaterThan(DEADLINE_MS / 2);
    const [newest] = await lab.points();
    expect(newest?.stats.freezeMs).toBe(cut.freezeMs);
    expect(newest?.reason).toContain('in vain');
    expect(await lab.command('cli', 'points', 'lab')).toMatch(new RegExp(`FROZEN[^]* ${cut.freezeMs.toFixed(0)} ms `));
  });

  it('agent and guard are killed at once: the next agent thaws, before anything else', async () => {
    const agent = await agentThat('stop');
    for (const disk of [0, 1]) thawAtEnd(lab, join(lab.folder, `mount${disk}`));
    const asked = point('--consistency', 'filesystem');
    await until('the agent is stopped', () => isStopped(agent.pid), 30_000);
    process.kill(guardOf(agent.pid), 'SIGKILL');
    await agent.kill();
    expect((await asked).code).not.toBe(0);
    const thawed = Promise.all(writers.map((writer) => writer.longestMs(60_000)));
    // Nobody is left who could thaw.
    await sleep(DEADLINE_MS + 500);
    await lab.startAgent();
    await lab.untilProtected();
    for (const stallMs of await thawed) expect(stallMs).toBeGreaterThan(DEADLINE_MS);
    expect(lab.loudReasons().join('\n')).toContain('ended while this filesystem was frozen: it is thawed');
    expect(await frozenPoint()).toMatchObject({ consistency: 'filesystem', weaker: '' });
  });

  it('hooks that hang, fork away or fail hold nobody back', async () => {
    const mode = join(lab.folder, 'mode');
    mkdirSync(join(lab.folder, 'hooks'));
    const cases = [
      '"hang pre") sleep 7301',
      '"fork pre") setsid sleep 7302 &',
      '"fail pre") exit 3',
      '"late post") sleep 7303',
    ];
    const script = `#!/bin/sh\ncase "$(cat ${mode}) $1" in\n${cases.join('\n;;\n')}\n;;\nesac\n`;
    writeFileSync(join(lab.folder, 'hooks', '10-app'), script, { mode: 0o755 });
    await agentThat('');
    for (const [name, consistency, weaker] of [
      ['hang', 'filesystem', 'not application-consistent: hook 10-app: not done within 2.0 s'],
      ['fork', 'application', ''],
      ['fail', 'filesystem', 'not application-consistent: hook 10-app: exit code 3'],
      ['late', 'application', ''],
    ] as const) {
      writeFileSync(mode, name);
      const { cut, quiesce } = made(await point());
      expect(cut, name).toMatchObject({ consistency, weaker });
      expect(quiesce?.hooks.at(-1)?.failure, name).toBe(name === 'late' ? 'not done within 2.0 s' : null);
    }
    // One that did not let its application go is an alert.
    expect((await lab.status()).applicationPoints.alerts).toMatchObject([{ code: 'application-held-back' }]);
    await stalls('points with hooks that misbehave');
  });
});

/** Should the test fail, nothing may stay frozen. */
function thawAtEnd(lab: Lab, mount: string): void {
  const fd = openSync(mount, 'r');
  lab.undo(() => {
    thawNow(fd);
    closeSync(fd);
  });
}

function guardOf(agent: number): number {
  const guard = readProcesses().find(
    ({ pid, parent }) => parent === agent && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('guard-main'),
  );
  if (guard === undefined) throw new Error(`agent ${agent} has no guard`);
  return guard.pid;
}

function isStopped(pid: number): boolean {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  return stat.slice(stat.lastIndexOf(')') + 2).startsWith('T');
}
