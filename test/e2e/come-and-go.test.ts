/**
 * Disks that come, go, fail and change while the agent runs: each is handled by itself, and the points of the others go on.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, truncateSync, writeFileSync, openSync, writeSync, closeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import type { AgentSnapshot, DiskSnapshot } from '../../agent/status.js';
import { MIB } from '../../shared/units.js';
import { canRunLab, Lab, MACHINE_NAME, WHY_NO_LAB } from './lab.js';
import { OwnLoop } from '../helpers/own-loop.js';
import type { LoopDisk } from './loop-disk.js';
import { fillRandomly } from './scribbler.js';

describe.skipIf(!canRunLab)(`disks that come and go (${WHY_NO_LAB})`, () => {
  let lab: Lab | undefined;
  afterEach(async () => {
    await lab?.cleanUp();
    lab = undefined;
  }, 60_000);

  it(
    'what is written to a disk during its first copy is in its first point, whatever points others make meanwhile',
    { timeout: 180_000 },
    async () => {
      const l = await Lab.open({ disks: [8 * MIB, 256 * MIB], agent: { io: { rate: { limit: '12MB/s' } } } });
      lab = l;
      const [first, second] = l.disks;
      if (first === undefined || second === undefined) return;
      fillRandomly(second, 0, second.sizeBytes);
      await l.startReceiver();
      await l.enrol();
      await l.protect([first]);
      await l.startAgent();
      await l.untilProtected();
      await l.protect([second]);
      const halfway = await l.until('amid the first copy', (s) => (s.disks[1]?.progress?.percent ?? 0) >= 20, 90_000);
      // Behind the sweep; then points of the first disk take marks from the kernel.
      fillRandomly(second, MIB, 4096);
      for (let i = 1; i <= 2; i++) {
        fillRandomly(first, i * MIB, 4096);
        await l.until('a point of the first', (s) => s.pointsCommitted >= halfway.pointsCommitted + i);
      }
      await l.untilProtected(90_000);
      const { point } = await l.syncNow();
      await l.restore(point);
      expect([l.differences(0), l.differences(1)]).toEqual([[], []]);
      expect(l.unexpectedLines([/limits of load/])).toEqual([]);
    },
  );

  // ---------------------------------------------------------------- a second disk that isn't held open by the test

  const losetup = (...args: string[]): string => execFileSync('losetup', args, { encoding: 'utf8' }).trim();
  const detach = (device: string): void => {
    try {
      execFileSync('losetup', ['-d', device], { stdio: 'ignore' });
    } catch {
      // Gone already.
    }
  };
  /** One whose name others don't take while it is away; `attach` it when it is to appear. */
  const ownLoop = (l: Lab): OwnLoop => {
    const loop = new OwnLoop();
    loop.remove();
    l.undo(() => {
      detach(loop.device);
      loop.remove();
    });
    return loop;
  };
  const attach = (l: Lab, file: string): string => {
    const device = losetup('-f', '--show', '--direct-io=on', file);
    l.undo(() => detach(device));
    return device;
  };
  const put = (path: string, bytes: Buffer, offset: number): void => {
    const fd = openSync(path, 'r+');
    writeSync(fd, bytes, 0, bytes.length, offset);
    closeSync(fd);
  };
  const byId = (s: AgentSnapshot, id: string): DiskSnapshot | undefined => s.disks.find((d) => d.id === id);

  interface Two {
    readonly l: Lab;
    readonly first: LoopDisk;
    readonly file: string;
    readonly device: string;
    readonly id: string;
  }

  /** A disk of the lab, and one more, both protected. */
  async function twoDisks(sizeBytes = 32 * MIB): Promise<Two> {
    const l = await Lab.open({ disks: [16 * MIB] });
    lab = l;
    const [first] = l.disks;
    if (first === undefined) throw new Error('no disk');
    const file = join(l.folder, 'second.img');
    writeFileSync(file, Buffer.alloc(sizeBytes, 3));
    const own = ownLoop(l);
    const { device } = own;
    own.attach(file, '--direct-io=on');
    await l.startReceiver();
    await l.enrol();
    await l.protect();
    await l.startAgent();
    await l.untilProtected();
    const [added] = JSON.parse(await l.command('agent', 'protect', device, '--json')) as { id: string }[];
    const id = added?.id ?? '';
    // On request, while the agent runs.
    await l.until('both', (s) => s.state === 'Protected' && (byId(s, id)?.lastPoint ?? 0) > 0, 60_000);
    return { l, first, file, device, id };
  }

  let offset = 0;
  /** Something changes on the first disk, and becomes a point; resolves to its number. */
  async function pointOfFirst({ l, first }: Two): Promise<number> {
    const before = (await l.status()).lastPoint?.number ?? 0;
    fillRandomly(first, (offset++ % 16) * MIB, 4096);
    const after = await l.until('a point of the first disk', (s) => (s.lastPoint?.number ?? 0) > before, 60_000);
    return after.lastPoint?.number ?? 0;
  }

  const restored = async ({ l }: Two, disk: string, point: number): Promise<Buffer> => {
    const target = join(l.folder, `restored-${disk}-${point}.img`);
    const args = ['restore', MACHINE_NAME, '--point', String(point), '--disk', disk, '--to', target, '--sparse'];
    await l.command('cli', ...args);
    return readFileSync(target);
  };

  const disksOf = async ({ l }: Two, point: number): Promise<string[]> =>
    (await l.points()).find((p) => p.number === point)?.disks.map((d) => d.disk) ?? [];

  const allRestorable = async ({ l }: Two): Promise<void> => {
    expect((await l.verifyAll()).filter((v) => !v.restorable)).toEqual([]);
  };

  it(
    'one that is unplugged: points of the others go on and say so; back under another name, it catches up',
    { timeout: 180_000 },
    async () => {
      const two = await twoDisks();
      const { l, first, file, device, id } = two;
      const firstId = l.diskIds[0] ?? '';
      const { series } = byId(await l.status(), firstId) ?? {};
      const whole = (await l.syncNow()).point;
      const content = readFileSync(file);
      // A loop device goes when nobody has it open any more: first its medium is gone, then the device.
      truncateSync(file, 0);
      losetup('-c', device);
      const away = await l.until('noticed', (s) => byId(s, id)?.state === 'Failed' && s.receiver.connected, 60_000);
      expect(byId(away, id)?.reason).toMatch(/not connected|no medium|does not exist|gone/);
      detach(device);
      const without = await pointOfFirst(two);
      expect(await disksOf(two, without)).toEqual([firstId]);
      const { reason } = (await l.points()).find((p) => p.number === without) ?? {};
      expect(reason).toMatch(new RegExp(`without ${device}: `));
      expect((await l.points()).find((p) => p.number === without)?.without).toEqual([id]);
      expect((await restored(two, firstId, without)).equals(first.content())).toBe(true);
      // The latest lacks it: said to whoever restores without saying what; each disk that it has can be had.
      const restore = (...args: string[]): ReturnType<Lab['run']> =>
        l.run('cli', 'restore', MACHINE_NAME, '--point', 'latest', ...args, '--sparse');
      const target = join(l.folder, 'latest.img');
      const refused = await restore('--to', target);
      expect(refused).toMatchObject({ code: 2 });
      expect(refused.stderr).toContain(`does not say which disk, and the point lacks disk ${device} (${id})`);
      expect(await restore('--to', `${id}=${target}`)).toMatchObject({ code: 2 });
      const had = await restore('--to', `${firstId}=${target}`);
      expect(had).toMatchObject({ code: 0 });
      expect(had.stderr).toContain(`lacks disk ${device}`);
      expect(byId(await l.status(), firstId)?.series).toBe(series);

      // Written where nobody tracks it; another disk takes its name.
      put(file, content, 0);
      put(file, Buffer.alloc(MIB, 9), 5 * MIB);
      const other = join(l.folder, 'other.img');
      writeFileSync(other, Buffer.alloc(4 * MIB));
      losetup(device, other);
      const again = attach(l, file);
      expect(again).not.toBe(device);
      const back = await l.until('back', (s) => s.state === 'Protected' && byId(s, id)?.state === 'Protected', 60_000);
      expect(byId(back, id)?.device).toBe(again);
      const { point } = await l.syncNow();
      expect(await disksOf(two, point)).toEqual([firstId, id]);
      expect((await restored(two, id, point)).equals(readFileSync(file))).toBe(true);
      expect((await restored(two, id, whole)).equals(Buffer.alloc(32 * MIB, 3))).toBe(true);
      expect(byId(await l.status(), firstId)?.series).toBe(series);
      await allRestorable(two);
    },
  );

  it(
    'one that can’t be read: points of the others go on; it recovers by itself, with what was written meanwhile',
    { timeout: 180_000 },
    async () => {
      const two = await twoDisks();
      const { l, file, device, id } = two;
      const firstId = l.diskIds[0] ?? '';
      const content = readFileSync(file);
      // What lies beyond the end of the file of a loop device fails to read, and the device stays as it is. The sample of clean blocks finds it.
      truncateSync(file, MIB);
      const write = (at: number): void => {
        const seek = `seek=${at / 4096}`;
        execFileSync(
          'dd',
          ['if=/dev/urandom', `of=${device}`, 'bs=4096', 'count=1', seek, 'oflag=direct', 'conv=notrunc'],
          { stdio: 'ignore' },
        );
      };
      write(0);
      const failed = await l.until(
        'noticed',
        (s) => {
          if (byId(s, id)?.state !== 'Failed') write(0);
          return byId(s, id)?.state === 'Failed';
        },
        60_000,
      );
      expect(byId(failed, id)?.reason).toMatch(/reading \/dev\/loop\d+ at byte \d+ failed: EIO/);
      const without = await pointOfFirst(two);
      expect(await disksOf(two, without)).toEqual([firstId]);
      write(8192);
      const more = await pointOfFirst(two);
      expect(await disksOf(two, more)).toEqual([firstId]);
      // The disk works again: as it was, but for what was written.
      const { series } = byId(await l.status(), id) ?? {};
      const head = readFileSync(file).subarray(0, MIB);
      truncateSync(file, content.length);
      put(file, content.subarray(MIB), MIB);
      await l.until('recovered', (s) => byId(s, id)?.state === 'Protected', 60_000);
      const { point } = await l.syncNow();
      expect(await disksOf(two, point)).toEqual([firstId, id]);
      const now = readFileSync(file);
      expect(now.subarray(0, MIB).equals(head)).toBe(true);
      expect((await restored(two, id, point)).equals(now)).toBe(true);
      // Its marks were worth keeping: no comparison.
      expect(byId(await l.status(), id)?.series).toBe(series);
      expect(byId(await l.status(), id)?.lastSweep?.kind).toBe('first-copy');
      await allRestorable(two);
    },
  );

  it('one that grows and one that shrinks: the others’ points go on', { timeout: 240_000 }, async () => {
    const two = await twoDisks();
    const { l, file, device, id } = two;
    const firstId = l.diskIds[0] ?? '';
    truncateSync(file, 48 * MIB);
    losetup('-c', device);
    await l.until('grown', (s) => byId(s, id)?.sizeBytes === 48 * MIB && s.state === 'Protected', 60_000);
    put(device, Buffer.alloc(MIB, 7), 44 * MIB);
    execFileSync('blockdev', ['--flushbufs', device]);
    const grown = (await l.syncNow()).point;
    const sizes = (await l.points()).find((p) => p.number === grown)?.disks.map((d) => d.sizeBytes);
    expect(sizes).toEqual([16 * MIB, 48 * MIB]);
    const before = readFileSync(file);
    truncateSync(file, 40 * MIB);
    losetup('-c', device);
    const told = await l.until(
      'refused',
      (s) => /shrank/.test(byId(s, id)?.reason ?? '') && s.receiver.connected,
      60_000,
    );
    expect(byId(told, id)?.reason).toMatch(/shrank from 50331648 to 41943040 bytes/);
    expect(await disksOf(two, await pointOfFirst(two))).toEqual([firstId]);
    truncateSync(file, 48 * MIB);
    losetup('-c', device);
    await l.until('as large as before', (s) => byId(s, id)?.state === 'Protected', 60_000);
    const { point } = await l.syncNow();
    expect((await restored(two, id, point)).equals(readFileSync(file))).toBe(true);
    expect((await restored(two, id, grown)).equals(before)).toBe(true);
    await allRestorable(two);
  });

  it(
    'by rule: one that appears is protected; what rules take is not given up by mistake',
    { timeout: 180_000 },
    async () => {
      const l = await Lab.open({ disks: [16 * MIB] });
      lab = l;
      const file = join(l.folder, 'ruled.img');
      writeFileSync(file, Buffer.alloc(24 * MIB, 6));
      const own = ownLoop(l);
      const { device, name } = own;
      const configure = (disks: unknown): void => {
        const before = parse(readFileSync(l.configs.agent, 'utf8')) as object;
        writeFileSync(l.configs.agent, stringify({ ...before, disks }));
      };
      configure({ include: [{ name }, { name: 'loop*' }] });
      await l.startReceiver();
      await l.enrol();
      await l.protect();
      await l.startAgent();
      await l.untilProtected();
      const { series } = byId(await l.status(), l.diskIds[0] ?? '') ?? {};
      writeFileSync(join(l.folder, 'bystander.img'), Buffer.alloc(MIB));
      ownLoop(l).attach(join(l.folder, 'bystander.img'));
      own.attach(file, '--direct-io=on');
      const both = await l.until('protected by rule', (s) => s.disks.length === 2 && s.state === 'Protected', 60_000);
      const id = both.disks.find((d) => d.device === device)?.id ?? '';
      const { point } = await l.syncNow();
      const two = { l } as Two;
      expect(await disksOf(two, point)).toEqual([l.diskIds[0], id]);
      expect((await restored(two, id, point)).equals(readFileSync(file))).toBe(true);
      expect(byId(await l.status(), l.diskIds[0] ?? '')?.series).toBe(series);
      // Other loop devices are taken by their full name only.
      expect(l.loudReasons().join('\n')).toMatch(
        /a disk that a rule takes is not protected: left alone: it is made of/,
      );

      const { code, stderr } = await l.run('agent', 'unprotect', device);
      expect(code).toBe(2);
      expect(stderr).toMatch(/would be protected again at once: included by the rule \{ name: loop\d+ \}/);
      configure({ include: [{ name }], exclude: [{ id }] });
      await l.agent?.stop();
      await l.startAgent();
      await l.until('excluded disks that are protected stay so', (s) => s.disks.length === 2 && s.receiver.connected);
      await l.command('agent', 'unprotect', device);
      await l.until('given up', (s) => s.disks.length === 1 && s.receiver.connected, 60_000);
      await l.untilProtected();
    },
  );

  it(
    'a second path that nothing joins: seen live, no point holds the disk, no rule protects it twice; without it, all that was written over it is found',
    { timeout: 180_000 },
    async () => {
      const two = await twoDisks();
      const { l, file, device, id } = two;
      const firstId = l.diskIds[0] ?? '';
      const whole = (await l.syncNow()).point;
      // Another loop device on the same file: what is written to it passes the first one by.
      const otherPath = ownLoop(l);
      const second = otherPath.device;
      const before = parse(readFileSync(l.configs.agent, 'utf8')) as object;
      const include = [{ name: otherPath.name }, { name: device.replace('/dev/', '') }];
      writeFileSync(l.configs.agent, stringify({ ...before, disks: { include } }));
      await l.agent?.stop();
      await l.startAgent();
      await l.until('both', (s) => s.state === 'Protected' && s.disks.length === 2, 60_000);
      otherPath.attach(file, '--direct-io=on');
      const seen = await l.until('seen', (s) => byId(s, id)?.state === 'Failed' && s.receiver.connected, 60_000);
      expect(byId(seen, id)?.reason).toMatch(/loop\d+ .*same bytes/);
      const { stdout } = await l.run('agent', 'doctor', '--json');
      const { checks } = JSON.parse(stdout) as { checks: { name: string; verdict: string; message: string }[] };
      expect(checks.find(({ name }) => name === `disk ${device}`)).toMatchObject({ verdict: 'fail' });
      expect(checks.find(({ name }) => name === `disk ${device}`)?.message).toMatch(/same bytes/);
      put(second, Buffer.alloc(MIB, 8), 7 * MIB);
      execFileSync('blockdev', ['--flushbufs', second]);
      const without = await pointOfFirst(two);
      expect(await disksOf(two, without)).toEqual([firstId]);
      // Rules have looked at both names by now, more than once; and another disk can be protected meanwhile.
      await new Promise((resolve) => setTimeout(resolve, 6_000));
      const other = join(l.folder, 'other.img');
      writeFileSync(other, Buffer.alloc(MIB));
      await l.command('agent', 'protect', other);
      await l.command('agent', 'unprotect', other);
      const ids = [firstId, id].sort().join();
      await l.until(
        'as before',
        (s) =>
          s.receiver.connected &&
          s.disks
            .map((d) => d.id)
            .sort()
            .join() === ids,
      );

      detach(second);
      await l.until('back', (s) => s.state === 'Protected' && byId(s, id)?.lastSweep !== null, 60_000);
      const { point } = await l.syncNow();
      expect(await disksOf(two, point)).toEqual([firstId, id]);
      const now = readFileSync(file);
      expect(now.subarray(7 * MIB, 8 * MIB).equals(Buffer.alloc(MIB, 8))).toBe(true);
      expect((await restored(two, id, point)).equals(now)).toBe(true);
      expect((await restored(two, id, whole)).equals(Buffer.alloc(32 * MIB, 3))).toBe(true);
      await allRestorable(two);
    },
  );

  it('unprotected on request: its points stay, those of the others go on', { timeout: 180_000 }, async () => {
    const two = await twoDisks();
    const { l, device, id } = two;
    const firstId = l.diskIds[0] ?? '';
    const { series } = byId(await l.status(), firstId) ?? {};
    const whole = (await l.syncNow()).point;
    const hashes = join(l.folder, 'agent', 'hashes', id);
    expect(existsSync(hashes)).toBe(true);
    const cycle = l.syncNow().catch(() => 'ended with its session');
    await l.command('agent', 'unprotect', device);
    // The agent let go of it before what was kept of it was removed.
    expect((await l.status()).disks.map((d) => d.id)).not.toContain(id);
    expect(existsSync(hashes)).toBe(false);
    await cycle;
    await l.until('gone', (s) => s.disks.length === 1 && s.receiver.connected, 60_000);
    const point = await pointOfFirst(two);
    expect(await disksOf(two, point)).toEqual([firstId]);
    expect((await l.points()).find((p) => p.number === point)?.reason).not.toMatch(/without \/dev/);
    expect((await l.points()).find((p) => p.number === point)?.without).toBeUndefined();
    expect(byId(await l.status(), firstId)?.series).toBe(series);
    expect((await restored(two, id, whole)).equals(Buffer.alloc(32 * MIB, 3))).toBe(true);
    await allRestorable(two);
  });
});
