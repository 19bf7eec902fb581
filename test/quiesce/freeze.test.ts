import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { closeSync, existsSync, openSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { freezeNow, thawNow } from '../../agent/quiesce/freeze-ioctl.js';
import { withFrozen, type FreezeOptions } from '../../agent/quiesce/freeze.js';
import { thawLeftovers } from '../../agent/quiesce/frozen-note.js';
import { FreezeGuard } from '../../agent/quiesce/guard.js';
import { readProcesses } from '../../agent/quiesce/hooks/process-tree.js';
import { freezePlanFor, type MountedFilesystem } from '../../agent/quiesce/mounts.js';
import { readMounts } from '../../agent/quiesce/mountinfo.js';
import { Sysfs } from '../../agent/disks/sysfs.js';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { compile, type Compiled } from './compile.js';
import { isFrozen, isRoot, LoopDisks, until } from './loop-disks.js';

const MIB = 1 << 20;
const GUARD = 'agent/quiesce/guard-main.ts';
const AGENT = 'test/quiesce/frozen-agent.ts';
const LOGGING_AGENT = 'test/quiesce/logging-agent.ts';
const sysfs = new Sysfs();

const hasSlowDisks = existsSync('/dev/fuse') && existsSync('/usr/bin/nbdfuse') && existsSync('/usr/bin/nbdkit');
if (!hasSlowDisks) console.warn('the test with a slow disk is skipped: it needs nbdfuse, nbdkit and /dev/fuse');

/** A file of which 2 MB are written in a second. */
function slowImage(disks: LoopDisks, children: ChildProcess[]): string {
  const path = join(disks.folder, 'slow');
  writeFileSync(path, '');
  const server = ['nbdkit', '-s', '--exit-with-parent', '--filter=rate', 'memory', '48M', 'rate=16M', 'burstiness=0.2'];
  children.push(spawn('nbdfuse', [path, '--command', ...server], { stdio: 'ignore' }));
  disks.undo(() => execFileSync('umount', [path]));
  for (let attempt = 0; statSync(path).size === 0; attempt++) {
    if (attempt === 100) throw new Error('nbdfuse does not come up');
    execFileSync('sleep', ['0.1']);
  }
  return path;
}

describe.skipIf(!isRoot)('freeze with guard', { timeout: 30_000 }, () => {
  let compiled: Compiled;
  let disks: LoopDisks;
  let children: ChildProcess[];

  beforeAll(() => (compiled = compile([GUARD, AGENT, LOGGING_AGENT])));
  afterAll(() => compiled.remove());
  beforeEach(() => {
    disks = new LoopDisks();
    children = [];
  });
  afterEach(async () => {
    for (const child of children) child.kill('SIGKILL');
    disks.cleanUp();
    await until('guards end', () => guards().length === 0);
  });

  /** Process ids of guards started from this test's copy of the program. */
  const guards = (): string[] =>
    readdirSync('/proc').filter((pid) => {
      try {
        return (
          /^\d+$/.test(pid) &&
          readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(compiled.path(GUARD).replace(/\.js$/, ''))
        );
      } catch {
        return false;
      }
    });

  const options = (deadlineMs = 2000): FreezeOptions => ({
    deadlineMs,
    clock: systemClock,
    log: silentLogger(),
    guardProgram: compiled.path(GUARD),
  });

  /** The guard, but stopped when it has reported and is about to end. */
  const stoppedAtItsEnd = (): string => {
    const path = compiled.path(GUARD).replace('guard-main.js', 'guard-main-stopped.js');
    const stop = "process.on('exit', () => process.kill(process.pid, 'SIGSTOP'));";
    writeFileSync(path, `${readFileSync(compiled.path(GUARD), 'utf8')}\n${stop}\n`);
    return path;
  };

  const filesystem = (fsType: 'ext4' | 'xfs'): { device: string; mount: string; frozen: MountedFilesystem[] } => {
    const device = disks.attach(disks.image(fsType === 'xfs' ? 320 * MIB : 32 * MIB));
    const mount = disks.mount(device, fsType);
    return { device, mount, frozen: planOf(device) };
  };

  const planOf = (...devices: string[]): MountedFilesystem[] => {
    const sources = devices.map((path) => ({ kind: 'block', name: path.slice('/dev/'.length), path }) as const);
    return [...freezePlanFor(sysfs, sources).freeze];
  };

  /** Writes all the time and counts its writes. */
  const writer = (mount: string): (() => number) => {
    const child = spawn('sh', ['-c', 'while :; do echo x > "$0/busy"; echo; done', mount], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    children.push(child);
    let writes = 0;
    child.stdout.on('data', (bytes: Buffer) => (writes += bytes.length));
    return () => writes;
  };

  const agent = (deadlineMs: number, holdMs: number, mount: string): { child: ChildProcess; said: () => string } => {
    const args = [compiled.path(AGENT), compiled.path(GUARD), String(deadlineMs), String(holdMs), mount];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'], detached: true });
    children.push(child);
    let said = '';
    child.stdout.on('data', (bytes: Buffer) => (said += bytes.toString()));
    return { child, said: () => said };
  };

  it.each(['ext4', 'xfs'] as const)('stops the writes of other processes, %s', async (fsType) => {
    const { mount, frozen } = filesystem(fsType);
    const writes = writer(mount);
    await until('the writer writes', () => writes() > 10);
    const outcome = await withFrozen(frozen, options(), async () => {
      const before = writes();
      await systemClock.sleep(20);
      // One more may have been counted late: it was written before the freeze.
      const start = writes();
      await systemClock.sleep(200);
      return { before, during: writes() - start };
    });
    expect(outcome).toMatchObject({ held: true, result: { during: 0 } });
    expect(outcome.freezeMs).toBeGreaterThan(200);
    expect(outcome.freezeMs).toBeLessThan(1500);
    const after = writes();
    await until('the writer writes again', () => writes() > after + 10);
  });

  it('locks the memory of the guard and leaves no process behind', async () => {
    const { frozen } = filesystem('ext4');
    const outcome = await withFrozen(frozen, options(), () => {
      const status = readFileSync(`/proc/${guards()[0]}/status`, 'utf8');
      return {
        lockedKib: Number(/VmLck:\s+(\d+)/.exec(status)?.[1]),
        rssKib: Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]),
      };
    });
    expect(outcome.held).toBe(true);
    if (!outcome.held) return;
    expect(outcome.result.lockedKib).toBeGreaterThan(50_000);
    expect(outcome.result.rssKib).toBeLessThan(200_000);
    await until('the guard ends', () => guards().length === 0);
  });

  it('thaws at the deadline and gives no result', async () => {
    const { mount, frozen } = filesystem('ext4');
    const outcome = await withFrozen(frozen, options(300), async (deadline) => {
      await systemClock.sleep(5000, deadline);
      await until('thawed', () => !isFrozen(mount));
      return 'done';
    });
    expect(outcome).toMatchObject({ held: false, reason: 'deadline' });
    expect(outcome.freezeMs).toBeLessThan(600);
  });

  it('thaws at the deadline even when the work holds on', async () => {
    const { mount, frozen } = filesystem('ext4');
    let thawedInMs = 0;
    const outcome = await withFrozen(frozen, options(300), async () => {
      thawedInMs = await until('thawed', () => !isFrozen(mount));
      await systemClock.sleep(100);
    });
    expect(outcome).toMatchObject({ held: false, reason: 'deadline' });
    expect(thawedInMs).toBeLessThan(700);
  });

  it('throws the error of the work after the thaw', async () => {
    const { mount, frozen } = filesystem('ext4');
    const failing = withFrozen(frozen, options(), () => Promise.reject(new Error('broken work')));
    await expect(failing).rejects.toThrow('broken work');
    expect(isFrozen(mount)).toBe(false);
  });

  it('runs the work without a guard when nothing is mounted', async () => {
    expect(await withFrozen([], options(), () => 7)).toEqual({ held: true, result: 7, freezeMs: 0 });
  });

  it('thaws when the agent and its process group are killed', async () => {
    const { mount } = filesystem('ext4');
    const { child, said } = agent(3000, 3000, mount);
    await until('frozen', () => said().includes('frozen'));
    expect(isFrozen(mount)).toBe(true);
    process.kill(-(child.pid ?? 0), 'SIGKILL');
    expect(await until('thawed', () => !isFrozen(mount))).toBeLessThan(1000);
  });

  it('thaws at the deadline when the agent is stopped, and the agent learns of it', async () => {
    const { mount } = filesystem('ext4');
    const { child, said } = agent(600, 100, mount);
    await until('frozen', () => said().includes('frozen'));
    const startMs = performance.now();
    process.kill(-(child.pid ?? 0), 'SIGSTOP');
    expect(isFrozen(mount)).toBe(true);
    await until('thawed', () => !isFrozen(mount));
    expect(performance.now() - startMs).toBeLessThan(1200);
    process.kill(-(child.pid ?? 0), 'SIGCONT');
    await until('outcome', () => said().includes('reason'));
    expect(said()).toContain('"held":false');
    expect(said()).toContain('"reason":"deadline"');
  });

  it.each(['SIGKILL', 'SIGTERM'] as const)('survives %s of the guard', async (signal) => {
    const { mount, frozen } = filesystem('xfs');
    const outcome = await withFrozen(frozen, options(5000), async (deadline) => {
      const startMs = performance.now();
      process.kill(Number(guards()[0]), signal);
      await systemClock.sleep(5000, deadline);
      return performance.now() - startMs;
    });
    expect(outcome).toMatchObject({ held: false, reason: 'guard-lost' });
    expect(outcome.freezeMs).toBeLessThan(2000);
    expect(isFrozen(mount)).toBe(false);
  });

  it('thaws when the guard hangs', async () => {
    const { mount, frozen } = filesystem('ext4');
    const outcome = await withFrozen(frozen, options(400), async (deadline) => {
      process.kill(Number(guards()[0]), 'SIGSTOP');
      await systemClock.sleep(5000, deadline);
    });
    expect(outcome).toMatchObject({ held: false });
    expect(outcome.freezeMs).toBeLessThan(1800);
    expect(isFrozen(mount)).toBe(false);
  });

  it('does not leave a guard behind that is stopped after it has thawed', async () => {
    const { mount, frozen } = filesystem('ext4');
    // Nothing of ours runs from before the deadline until the guard has thawed and ended, or would have.
    const outcome = await withFrozen(frozen, { ...options(300), guardProgram: stoppedAtItsEnd() }, () => {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_000);
    });
    expect(outcome).toMatchObject({ held: false });
    expect(isFrozen(mount)).toBe(false);
    expect(guards()).toHaveLength(1);
    await until('the stopped guard ends', () => guards().length === 0);
  });

  it('thaws the first filesystem when the second is frozen by somebody else, and leaves that alone', async () => {
    const one = filesystem('ext4');
    const two = filesystem('ext4');
    const fd = openSync(two.mount, 'r');
    disks.undo(() => closeSync(fd));
    expect(isFrozen(two.mount)).toBe(false);
    expect(freezeNow(fd)).toBe(0);
    const outcome = await withFrozen([...one.frozen, ...two.frozen], options(), () => 'never');
    expect(outcome).toMatchObject({ held: false, reason: 'already-frozen' });
    expect(outcome.held || outcome.detail).toContain(two.mount);
    expect(isFrozen(one.mount)).toBe(false);
    expect(isFrozen(two.mount)).toBe(true);
    expect(thawNow(fd)).toBe('thawed');
  });

  it('says so when a filesystem can not be frozen', async () => {
    const one = filesystem('ext4');
    const shm = { device: '0:1', fsType: 'tmpfs', source: 'tmpfs', depth: 0 };
    const mounts = readMounts().filter(({ path }) => path === '/dev/shm');
    const outcome = await withFrozen([...one.frozen, { ...shm, mounts }], options(), () => 'never');
    expect(outcome).toMatchObject({ held: false, reason: 'cannot-freeze' });
    expect(isFrozen(one.mount)).toBe(false);
  });

  it('does not trust a freeze that another program ended', async () => {
    const { mount, frozen } = filesystem('ext4');
    const outcome = await withFrozen(frozen, options(), () => {
      const fd = openSync(mount, 'r');
      expect(thawNow(fd)).toBe('thawed');
      closeSync(fd);
      return 'image';
    });
    expect(outcome).toMatchObject({ held: false, reason: 'thawed-by-other' });
  });

  it('freezes a filesystem in a loop file before the one that holds the file', async () => {
    const outer = filesystem('ext4');
    const innerDevice = disks.attach(disks.image(12 * MIB, outer.mount));
    const innerMount = disks.mount(innerDevice, 'ext4');
    const writes = writer(innerMount);
    await until('the writer writes', () => writes() > 10);
    const plan = planOf(outer.device);
    expect(plan.map(({ mounts }) => mounts[0]?.path)).toEqual([innerMount, outer.mount]);
    expect(planOf(innerDevice, outer.device)).toEqual(plan);
    const outcome = await withFrozen(plan, options(), () => systemClock.sleep(50));
    expect(outcome).toMatchObject({ held: true });
  });

  it('freezes a filesystem once, whatever its bind mounts, and finds it beneath a covered mount point', async () => {
    const { device, mount } = filesystem('ext4');
    const other = join(disks.folder, 'other\tplace');
    disks.bind(mount, other);
    expect(planOf(device)).toHaveLength(1);
    expect(
      planOf(device)[0]
        ?.mounts.map(({ path }) => path)
        .toSorted(),
    ).toEqual([mount, other].toSorted());
    const cover = disks.attach(disks.image(8 * MIB));
    disks.mount(cover, 'ext4', 'defaults', mount);
    const outcome = await withFrozen(planOf(device), options(), () => [isFrozen(other), isFrozen(mount)]);
    expect(outcome).toMatchObject({ held: true, result: [true, false] });
  });

  it('finds and freezes a filesystem that only another mount namespace sees', async () => {
    const device = disks.attach(disks.image(32 * MIB));
    disks.format(device, 'ext4');
    const script = 'mkdir -p "$1" && mount "$0" "$1" && echo mounted && while :; do echo x > "$1/busy"; echo; done';
    const place = join(disks.folder, 'hidden');
    const child = spawn('unshare', ['-m', 'sh', '-c', script, device, place], { stdio: ['ignore', 'pipe', 'inherit'] });
    children.push(child);
    let writes = 0;
    child.stdout.on('data', (bytes: Buffer) => (writes += bytes.length));
    await until('the writer writes', () => writes > 100);
    const plan = planOf(device);
    expect(plan).toHaveLength(1);
    expect(plan[0]?.mounts[0]?.path).toMatch(/^\/proc\/\d+\/root\/.*hidden$/);
    const outcome = await withFrozen(plan, options(), async () => {
      await systemClock.sleep(50);
      const start = writes;
      await systemClock.sleep(200);
      return writes - start;
    });
    expect(outcome).toMatchObject({ held: true, result: 0 });
  });

  it('is not blocked by its own log on the filesystem that it froze', async () => {
    const { mount } = filesystem('ext4');
    const path = join(mount, 'agent.log');
    const file = openSync(path, 'w');
    disks.undo(() => closeSync(file));
    const args = [compiled.path(LOGGING_AGENT), compiled.path(GUARD), mount];
    const child = spawn(process.execPath, args, { stdio: ['ignore', file, 'pipe'] });
    children.push(child);
    let said = '';
    child.stderr?.on('data', (bytes: Buffer) => (said += bytes.toString()));
    await until('outcome', () => said.includes('held'));
    expect(said).toContain('"held":true');
    const lines = readFileSync(path, 'utf8').split('\n');
    expect(lines.filter((line) => line.includes('while frozen'))).toHaveLength(20);
    expect(lines.findIndex((line) => line.includes('after'))).toBeGreaterThan(20);
  });

  it('notes what may be frozen until it is thawed, and thaws what was left, of this boot and no more', async () => {
    const [one, two] = [filesystem('ext4'), filesystem('ext4')];
    const note = join(disks.folder, 'frozen.json');
    const noted = await withFrozen(one.frozen, { ...options(), notePath: note }, () => readFileSync(note, 'utf8'));
    expect(existsSync(note)).toBe(false);
    if (!noted.held) throw new Error(noted.detail);
    for (const { mount } of [one, two]) {
      const fd = openSync(mount, 'r');
      disks.undo(() => closeSync(fd));
      expect(freezeNow(fd)).toBe(0);
    }
    const leftovers = async (text: string, guardLimitMs = 2000): Promise<boolean[]> => {
      writeFileSync(note, text);
      await thawLeftovers(note, guardLimitMs, systemClock, silentLogger());
      return [existsSync(note), isFrozen(one.mount), isFrozen(two.mount)];
    };
    expect(await leftovers(noted.result.replace(/"bootId":"./, '"bootId":"?'))).toEqual([false, true, true]);
    expect(await leftovers(noted.result)).toEqual([false, false, true]);
    expect(await leftovers('{"version":')).toEqual([false, false, true]);
    // A guard that is still there, and doesn't thaw in its time, is stopped for good first.
    const guard = spawn('sleep', ['600']);
    children.push(guard);
    const startTicks = readProcesses().find(({ pid }) => pid === guard.pid)?.startTicks;
    const fd = openSync(one.mount, 'r');
    disks.undo(() => closeSync(fd));
    expect(freezeNow(fd)).toBe(0);
    const known = JSON.parse(noted.result) as object;
    expect(await leftovers(JSON.stringify({ ...known, pid: guard.pid, startTicks }), 100)).toEqual([
      false,
      false,
      true,
    ]);
    await until('the guard ends', () => guard.signalCode === 'SIGKILL');
  });

  it('freezes nothing that can not be noted', async () => {
    const { mount, frozen } = filesystem('ext4');
    const outcome = await withFrozen(frozen, { ...options(), notePath: '/nowhere/frozen.json' }, () => 'never');
    expect(outcome).toMatchObject({ held: false, reason: 'not-noted', freezeMs: 0 });
    expect(isFrozen(mount)).toBe(false);
  });

  it.skipIf(!hasSlowDisks)('freezes no disk that is written faster than it can be flushed', async () => {
    const device = disks.attach(slowImage(disks, children));
    const mount = disks.mount(device, 'ext4', 'defaults');
    const frozen = planOf(device);
    const script = 'while :; do dd if=/dev/zero of="$0/large" bs=1M count=1 conv=notrunc 2>/dev/null; done';
    const busy = spawn('sh', ['-c', script, mount], { stdio: 'ignore' });
    children.push(busy);
    await until('it is written', () => existsSync(join(mount, 'large')));
    const outcome = await withFrozen(frozen, options(400), () => 'never');
    expect(outcome).toMatchObject({ held: false, reason: 'presync-failed', freezeMs: 0 });
    expect(outcome.held || outcome.detail).toContain('faster than they can be flushed');
    busy.kill('SIGKILL');
    await until('it ends', () => busy.signalCode !== null);
    expect(await withFrozen(frozen, options(10_000), () => 'frozen')).toMatchObject({ held: true });
    // What is written while others get ready for the freeze counts as well.
    const beforeFreeze = async (): Promise<void> => writeFileSync(join(mount, 'large'), Buffer.alloc(4 * MIB, 1));
    const late = await withFrozen(frozen, { ...options(400), beforeFreeze }, () => 'never');
    expect(late).toMatchObject({ held: false, reason: 'presync-failed', freezeMs: 0 });
    expect(late.held || late.detail).toContain('just before the freeze');
  });

  it('reports a guard that does not start', async () => {
    const { mount, frozen } = filesystem('ext4');
    const outcome = await withFrozen(frozen, { ...options(), guardProgram: '/nowhere/guard.js' }, () => 'never');
    expect(outcome).toMatchObject({ held: false, reason: 'guard-not-started', freezeMs: 0 });
    expect(outcome.held || outcome.detail).toContain('Cannot find module');
    expect(isFrozen(mount)).toBe(false);
  });

  it('the guard outlives its locked memory: it is not ended by its own garbage collection', async () => {
    const { mount } = filesystem('ext4');
    const fd = openSync(mount, 'r');
    disks.undo(() => closeSync(fd));
    const guard = await FreezeGuard.start([fd], compiled.path(GUARD));
    expect(await guard.freeze(4000)).toMatchObject({ is: 'frozen', memoryLocked: true });
    expect(await guard.ended).toMatchObject({ is: 'thawed', cause: 'deadline', held: true });
  });
});
