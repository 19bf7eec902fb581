/**
 * Faults around the two daemons: the network, a receiver that stands still or is full, damaged objects, clones and old generations, clocks, lost state.
 * What must hold after each: replication goes on, nothing that is listed is wrong, and the reason was shown.
 */
import { execFileSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  closeSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { parse, stringify } from 'yaml';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { ask } from '../../agent/client.js';
import type { AgentSnapshot } from '../../agent/status.js';
import { MIB } from '../../shared/units.js';
import { canRunLab, freePort, Lab, MACHINE_NAME, sleep, WHY_NO_LAB } from './lab.js';
import type { LoopDisk } from './loop-disk.js';
import { Daemon, type Env } from './program.js';
import { Proxy } from './proxy.js';
import { fillRandomly, Scribbler } from './scribbler.js';

const DISK_BYTES = 128 * MIB;
const AGENT_GROWTH_MAX = 128 * MIB;

const sentBytes = (s: AgentSnapshot): number => s.disks.reduce((sum, d) => sum + d.counters.sentBytes, 0);
const firstDisk = (lab: Lab): LoopDisk => {
  const [disk] = lab.disks;
  if (disk === undefined) throw new Error('no disk');
  return disk;
};

/** Peak of a process's resident memory since it began. */
function peakBytes(daemon: Daemon | null): number {
  const kib = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${daemon?.pid ?? 0}/status`, 'utf8'))?.[1];
  return Number(kib) * 1024;
}

async function expectWhole(lab: Lab): Promise<number> {
  const { point } = await lab.syncNow();
  await lab.restore(point);
  for (const i of lab.disks.keys()) expect(lab.differences(i), `disk ${i} at point ${point}`).toEqual([]);
  expect((await lab.verifyAll()).filter((v) => !v.restorable)).toEqual([]);
  return point;
}

const untilGoingOn = (lab: Lab, limitMs = 75_000): Promise<AgentSnapshot> =>
  lab.until('connected and protected', (s) => s.receiver.connected && s.state === 'Protected', limitMs);

/** Enrols through another address than the receiver's own. */
async function enrolAt(lab: Lab, port: number, args: readonly string[] = []): Promise<void> {
  const answer = await lab.command('receiver', 'token', '--address', `127.0.0.1:${port}`, ...args, '--json');
  await lab.command('agent', 'enroll', (JSON.parse(answer) as { token: string }).token, '--name', MACHINE_NAME);
}

describe.skipIf(!canRunLab)(`network (${WHY_NO_LAB})`, () => {
  let lab: Lab;
  let proxy: Proxy;
  let scribbler: Scribbler;
  beforeAll(async () => {
    const port = await freePort();
    // The agent learns the receiver's addresses from it: it must not find a way around the proxy.
    lab = await Lab.open({ disks: [DISK_BYTES], receiver: { advertise: [`127.0.0.1:${port}`] } });
    fillRandomly(firstDisk(lab), 8 * MIB, 24 * MIB);
    scribbler = new Scribbler(firstDisk(lab));
    lab.undo(() => scribbler.close());
    proxy = await Proxy.open(lab.port, port);
    lab.undo(() => proxy.close());
    await lab.startReceiver();
    await enrolAt(lab, proxy.port);
    await lab.protect();
    await lab.startAgent();
    await lab.untilProtected();
  }, 120_000);
  afterAll(() => lab?.cleanUp(), 60_000);

  it('resets, again and again, cost a reconnect and never a comparison', { timeout: 120_000 }, async () => {
    const before = await lab.status();
    scribbler.start();
    for (let i = 0; i < 6; i++) {
      await sleep(150 + 100 * i);
      proxy.reset();
      await lab.until(
        'noticed',
        (s) => !s.receiver.connected || (s.receiver.epoch ?? 0) > (before.receiver.epoch ?? 0),
      );
    }
    scribbler.pause();
    const after = await untilGoingOn(lab);
    expect(after.receiver.epoch).toBeGreaterThan(before.receiver.epoch ?? 0);
    await expectWhole(lab);
    expect(sentBytes(await lab.status()) - sentBytes(before)).toBeLessThan(8 * MIB);
    expect(readFileSync(lab.agentLog, 'utf8')).not.toMatch(/verdict: (compare|full)".*\n.*verdict: (compare|full)"/);
  });

  it('a network that is away for a while is waited for, with the reason', { timeout: 120_000 }, async () => {
    proxy.refuse(true);
    const away = await lab.until('not connected', (s) => !s.receiver.connected && s.receiver.retryInSeconds !== null);
    expect(away.receiver.reason.length).toBeGreaterThan(10);
    scribbler.start();
    await sleep(1500);
    scribbler.pause();
    const risk = (await lab.status()).disks[0]?.dataAtRisk.bytes ?? 0;
    expect(risk).toBeGreaterThan(0);
    expect(risk).toBeLessThan(8 * MIB);
    proxy.refuse(false);
    await untilGoingOn(lab);
    await expectWhole(lab);
  });

  it('a slow link costs points, not memory, and the workload is not held up', { timeout: 120_000 }, async () => {
    const peakBefore = peakBytes(lab.agent);
    proxy.throttle(6 * MIB);
    fillRandomly(firstDisk(lab), 64 * MIB, 32 * MIB);
    await sleep(2000);
    // These writes complete while what was written before still waits to be sent.
    fillRandomly(firstDisk(lab), 100 * MIB, 16 * MIB);
    proxy.throttle(null);
    await untilGoingOn(lab);
    await expectWhole(lab);
    expect(peakBytes(lab.agent) - peakBefore).toBeLessThan(AGENT_GROWTH_MAX);
  });

  it(
    'a receiver that stands still for longer than the heartbeat: bounded memory, a new session, nothing lost',
    { timeout: 180_000 },
    async () => {
      const peakBefore = peakBytes(lab.agent);
      const epoch = (await lab.status()).receiver.epoch ?? 0;
      lab.receiver?.signal('SIGSTOP');
      try {
        for (let i = 0; i < 6; i++) {
          fillRandomly(firstDisk(lab), 16 * MIB * (i % 4), 16 * MIB);
          await sleep(3400);
        }
        await lab.until('noticed', (s) => !s.receiver.connected, 20_000);
      } finally {
        lab.receiver?.signal('SIGCONT');
      }
      const after = await untilGoingOn(lab);
      expect(after.receiver.epoch).toBeGreaterThan(epoch);
      await expectWhole(lab);
      expect(peakBytes(lab.agent) - peakBefore).toBeLessThan(AGENT_GROWTH_MAX);
    },
  );
});

describe.skipIf(!canRunLab)(`a full disk (${WHY_NO_LAB})`, () => {
  let lab: Lab;
  afterEach(() => lab?.cleanUp(), 60_000);

  const tmpfs = (at: string, sizeMiB: number): void => {
    mkdirSync(at, { recursive: true });
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${sizeMiB}m`, 'tmpfs', at]);
    lab.undo(() => void execFileSync('umount', ['-l', at]));
  };
  const ballast = (at: string, bytes: number): string => {
    const path = join(at, '.ballast');
    const block = Buffer.alloc(64 * 1024, 1);
    const fd = openSync(path, 'a');
    try {
      for (let written = 0; written < bytes; written += block.length) writeSync(fd, block);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    }
    closeSync(fd);
    return path;
  };
  const freeBytes = (at: string): number => {
    const { bavail, bsize } = statfsSync(at);
    return bavail * bsize;
  };
  const manifests = (): number => {
    const machines = join(lab.storeFolder, 'machines');
    return readdirSync(machines).flatMap((m) => readdirSync(join(machines, m, 'manifest'))).length;
  };

  it(
    'of the store: the agent is told, nothing is damaged, and it goes on when there is room',
    { timeout: 240_000 },
    async () => {
      lab = await Lab.open({ disks: [DISK_BYTES] });
      tmpfs(lab.storeFolder, 260);
      fillRandomly(firstDisk(lab), 0, 32 * MIB);
      await lab.setUp();
      await expectWhole(lab);
      // More comes than there is room for: it fills up amid a layer.
      const file = ballast(lab.storeFolder, 260 * MIB - 32 * MIB - 90 * MIB);
      fillRandomly(firstDisk(lab), 0, 112 * MIB);
      const told = await lab.until('told', (s) => /store full/.test(s.receiver.reason), 40_000);
      expect(told.receiver.reason).toMatch(/store full/);
      expect((await lab.verifyAll()).filter((v) => !v.restorable)).toEqual([]);
      // No room to begin with: refused before anything is written, not even a manifest.
      await lab.agent?.stop();
      // Once what its last session had half written is gone, else that room is free afterwards.
      await expect.poll(() => freeBytes(lab.storeFolder)).toBeGreaterThan(70 * MIB);
      ballast(lab.storeFolder, 60 * MIB);
      await lab.startAgent();
      await lab.until('refused', (s) => /store full/.test(s.receiver.reason), 40_000);
      const count = manifests();
      await sleep(1500);
      expect(manifests()).toBe(count);
      unlinkSync(file);
      await untilGoingOn(lab);
      await expectWhole(lab);
    },
  );

  it(
    'of the agent’s state: no point meanwhile, the reason is shown, and it goes on when there is room',
    { timeout: 240_000 },
    async () => {
      lab = await Lab.open({ disks: [DISK_BYTES] });
      const stateDir = join(lab.folder, 'agent');
      tmpfs(stateDir, 8);
      fillRandomly(firstDisk(lab), 0, 16 * MIB);
      await lab.setUp();
      const file = ballast(stateDir, 16 * MIB);
      fillRandomly(firstDisk(lab), 16 * MIB, 32 * MIB);
      const told = await lab.until('told', (s) => /no space left/.test(s.lastFallback?.reason ?? ''), 30_000);
      expect(told.receiver).toBeDefined();
      await sleep(3000);
      unlinkSync(file);
      await untilGoingOn(lab);
      await lab.until(
        'a new point',
        (s) => (s.lastPoint?.changedBytes ?? 0) >= 0 && s.pointsCommitted > told.pointsCommitted,
        30_000,
      );
      await expectWhole(lab);
    },
  );
});

describe.skipIf(!canRunLab)(`identity, clocks and lost state (${WHY_NO_LAB})`, () => {
  let lab: Lab;
  let scribbler: Scribbler;
  beforeAll(async () => {
    lab = await Lab.open({ disks: [DISK_BYTES] });
    fillRandomly(firstDisk(lab), 8 * MIB, 32 * MIB);
    scribbler = new Scribbler(firstDisk(lab));
    lab.undo(() => scribbler.close());
    await lab.setUp();
    scribbler.start();
  }, 120_000);
  afterAll(() => lab?.cleanUp(), 60_000);

  /** An agent of its own on a copy of the first one's state: a clone. Resolves to what its status says of the receiver. */
  async function clone(env: Env, until: (s: AgentSnapshot) => boolean): Promise<AgentSnapshot> {
    const stateDir = join(lab.folder, 'clone');
    const socket = join(lab.folder, 'clone.sock');
    const pinDir = `${lab.pinDirectory}-clone`;
    rmSync(stateDir, { recursive: true, force: true });
    cpSync(join(lab.folder, 'agent'), stateDir, { recursive: true });
    const config = parse(readFileSync(lab.configs.agent, 'utf8')) as Record<string, unknown>;
    const path = join(lab.folder, 'clone.yaml');
    const changed = {
      stateDir,
      controlSocket: socket,
      status: { port: await freePort() },
      tracker: { prefer: 'ebpf', pinDir },
    };
    writeFileSync(path, stringify({ ...config, ...changed }));
    const daemon = new Daemon('agent', ['--config', path, 'run'], join(lab.folder, 'clone.log'), env);
    try {
      const endMs = performance.now() + 20_000;
      for (;;) {
        const status = (await ask(socket, 'GET', '/status').catch(() => null)) as AgentSnapshot | null;
        if (status !== null && until(status)) return status;
        if (performance.now() > endMs) throw new Error(`clone: ${JSON.stringify(status?.receiver)}`);
        await sleep(50);
      }
    } finally {
      await daemon.kill();
      rmSync(pinDir, { recursive: true, force: true });
    }
  }

  const agentState = (): string => join(lab.folder, 'agent');

  it(
    'a second agent with the same identity is refused while the first is alive, and the first goes on',
    { timeout: 90_000 },
    async () => {
      const { epoch } = (await lab.status()).receiver;
      const refused = await clone({}, (s) => s.receiver.reason.includes('already connected'));
      expect(refused.receiver.connected).toBe(false);
      const { point } = await lab.syncNow();
      expect(point).toBeGreaterThan(0);
      expect((await lab.status()).receiver.epoch).toBe(epoch);
    },
  );

  it('the same identity on other hardware is a clone', { timeout: 90_000 }, async () => {
    await lab.agent?.stop();
    const refused = await clone({ AFTERIMAGE_HARDWARE_ID: 'other' }, (s) => s.receiver.reason.includes('clone'));
    expect(refused.receiver.connected).toBe(false);
    expect(refused.receiver.retryInSeconds).toBeGreaterThan(30);
    await lab.startAgent();
    await untilGoingOn(lab);
  });

  it(
    'what was enrolled before a re-enrolment is refused; the machine itself goes on without a copy',
    { timeout: 90_000 },
    async () => {
      const old = join(lab.folder, 'agent-before');
      cpSync(agentState(), old, { recursive: true });
      await lab.agent?.stop();
      await enrolAt(lab, lab.port, ['--machine', MACHINE_NAME]);
      await lab.startAgent();
      const status = await untilGoingOn(lab);
      expect(status.machine.generation).toBe(2);
      await lab.until('a point', (s) => s.pointsCommitted > 0);
      expect(sentBytes(await lab.status())).toBeLessThan(16 * MIB);
      const now = `${agentState()}-now`;
      renameSync(agentState(), now);
      renameSync(old, agentState());
      try {
        const refused = await clone({}, (s) => s.receiver.reason.includes('refuses'));
        expect(refused.receiver.reason).toMatch(/revoked|failed over/);
      } finally {
        rmSync(agentState(), { recursive: true });
        renameSync(now, agentState());
      }
    },
  );

  it('clocks that are set back change what is shown, not the order of points', { timeout: 120_000 }, async () => {
    const skew = (hours: number, afterMs: number): Env => ({
      NODE_OPTIONS: `--import=${join(import.meta.dirname, 'clock-skew.mjs')}`,
      AFTERIMAGE_TEST_CLOCK_SKEW_MS: String(-hours * 3_600_000),
      AFTERIMAGE_TEST_CLOCK_SKEW_AFTER_MS: String(afterMs),
    });
    await lab.agent?.stop();
    await lab.receiver?.stop();
    await lab.startReceiver(skew(30, 0));
    await lab.startAgent(skew(24, 4000));
    await untilGoingOn(lab);
    const first = (await lab.syncNow()).point;
    await sleep(4500);
    const last = (await lab.syncNow()).point;
    const status = await lab.status();
    expect(status.lastPoint?.ageSeconds).toBeGreaterThanOrEqual(0);
    expect(status.lastPoint?.ageSeconds).toBeLessThan(60);
    const points = (await lab.points()).reverse();
    expect(points.map((p) => p.number)).toEqual(points.map((_, i) => i + 1));
    const at = (n: number): number => points[n - 1]?.cutAtMs ?? NaN;
    expect(at(last)).toBeLessThan(at(first));
    scribbler.pause();
    expect(await expectWhole(lab)).toBeGreaterThan(last);
    const { point } = JSON.parse(
      await lab.command(
        'cli',
        'restore',
        MACHINE_NAME,
        '--point',
        'latest',
        '--to',
        join(lab.folder, 'latest.img'),
        '--sparse',
        '--json',
      ),
    ) as { point: number };
    expect(point).toBeGreaterThan(last);
    await lab.agent?.stop();
    await lab.receiver?.stop();
    await lab.startReceiver();
    await lab.startAgent();
    await untilGoingOn(lab);
    scribbler.start();
  });

  it('a receiver begun anew needs nothing but the store and the CA', { timeout: 90_000 }, async () => {
    await lab.receiver?.kill();
    const state = join(lab.folder, 'receiver');
    renameSync(state, `${state}-lost`);
    mkdirSync(state, { mode: 0o700 });
    cpSync(join(`${state}-lost`, 'ca'), join(state, 'ca'), { recursive: true });
    const before = await lab.status();
    await lab.startReceiver();
    await untilGoingOn(lab);
    await lab.until('a point', (s) => s.pointsCommitted > before.pointsCommitted);
    expect(sentBytes(await lab.status()) - sentBytes(before)).toBeLessThan(8 * MIB);
  });

  it('a lost hash store costs a comparison that sends what differs', { timeout: 90_000 }, async () => {
    await lab.agent?.stop();
    rmSync(join(agentState(), 'hashes'), { recursive: true });
    const { number } = (await lab.points())[0] ?? { number: 0 };
    await lab.startAgent();
    const status = await lab.until('a point', (s) => s.state === 'Protected' && (s.lastPoint?.number ?? 0) > number);
    expect(sentBytes(status)).toBeLessThan(8 * MIB);
    expect(status.lastFallback?.reason ?? '').toMatch(/comparison/);
    expect(status.lastFallback?.reason ?? '').toMatch(/point/);
  });

  it('and after all that, every point restores and the last equals the disk', { timeout: 120_000 }, async () => {
    scribbler.pause();
    await lab.agent?.stop();
    rmSync(lab.pinDirectory, { recursive: true, force: true });
    await lab.startAgent();
    await untilGoingOn(lab);
    await expectWhole(lab);
  });

  it(
    'a byte that flips in a stored layer is found, with the layer and the points that need it',
    { timeout: 120_000 },
    async () => {
      await lab.agent?.stop();
      const delta = join(
        lab.storeFolder,
        'machines',
        (await machineId()) ?? '',
        'disks',
        lab.diskIds[0] ?? '',
        'delta',
      );
      const newest = readdirSync(delta)
        .filter((name) => statSync(join(delta, name)).size > 5000)
        .sort()
        .at(-1) as string;
      const path = join(delta, newest);
      const point = Number(newest.split('-')[1]);
      flip(path, Math.floor(statSync(path).size / 4));
      const verdicts = await lab.verifyAll();
      const bad = verdicts.filter((v) => !v.restorable);
      expect(bad.map((v) => v.point)).toContain(point);
      expect(verdicts.filter((v) => v.point < point).every((v) => v.restorable)).toBe(true);
      for (const v of bad) expect(v.problem?.message).toContain(newest);
      const { code, stderr } = await restore(String(point));
      expect(code).toBe(1);
      expect(stderr).toContain(newest);
      expect((await restore(String(point - 1))).code).toBe(0);
      // Cut short as well.
      truncateSync(path, statSync(path).size - 10);
      const cut = (await lab.verifyAll()).filter((v) => !v.restorable);
      expect(cut.map((v) => v.point)).toContain(point);
      for (const v of cut) expect(v.problem?.message).toContain(newest);
      rmSync(path);
      const gone = (await lab.verifyAll()).filter((v) => !v.restorable);
      expect(gone.map((v) => v.point)).toContain(point);
      for (const v of gone) expect(v.problem?.message).toContain(newest);
    },
  );

  async function machineId(): Promise<string | undefined> {
    const { machines } = JSON.parse(await lab.command('cli', 'machines', '--json')) as { machines: { id: string }[] };
    return machines[0]?.id;
  }
  function restore(point: string): ReturnType<Lab['run']> {
    const target = join(lab.folder, `damaged-${point}.img`);
    if (existsSync(target)) rmSync(target);
    return lab.run('cli', 'restore', MACHINE_NAME, '--point', point, '--to', target, '--sparse');
  }
  function flip(path: string, at: number): void {
    const fd = openSync(path, 'r+');
    const byte = Buffer.alloc(1);
    readSync(fd, byte, 0, 1, at);
    byte[0] = (byte[0] ?? 0) ^ 0x10;
    writeSync(fd, byte, 0, 1, at);
    closeSync(fd);
  }
});
