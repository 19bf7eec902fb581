/**
 * What people do wrong: every program says so with a message, what to do next and an exit code, and has changed nothing. And disks that go away or
 * change their size under the agent: the reason is shown, no wrong point is made, and replication goes on when it can.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { KIB, MIB } from '../../shared/units.js';
import { canRunLab, Lab, MACHINE_NAME, sleep, WHY_NO_LAB } from './lab.js';
import { runToEnd, type Entry, type Output } from './program.js';
import { fillRandomly } from './scribbler.js';

const DISK_BYTES = 64 * MIB;

const losetup = (...args: string[]): string => execFileSync('losetup', args, { encoding: 'utf8' }).trim();
const detach = (device: string): void => {
  try {
    execFileSync('losetup', ['-d', device], { stdio: 'ignore' });
  } catch {
    // Gone already.
  }
};

/** A file of this size and a loop device on it; gone at the clean-up. */
function attach(lab: Lab, name: string, sizeBytes: number, ...options: string[]): { file: string; device: string } {
  const file = join(lab.folder, name);
  if (!existsSync(file)) writeFileSync(file, '');
  truncateSync(file, sizeBytes);
  const device = losetup('-f', '--show', ...options, file);
  lab.undo(() => detach(device));
  return { file, device };
}

interface Expected {
  readonly code: 1 | 2;
  readonly message: RegExp;
}

/** Message and a line of advice, no stack. */
function expectRefusal({ code, stdout, stderr }: Output, expected: Expected, what: string): void {
  expect(code, `${what}\n${stderr}${stdout}`).toBe(expected.code);
  expect(stderr, what).toMatch(expected.message);
  expect(stderr, what).not.toMatch(/\n\s+at .*:\d+:\d+/);
  expect(stdout, what).toBe('');
}

describe.skipIf(!canRunLab)(`command lines (${WHY_NO_LAB})`, () => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await Lab.open({ disks: [DISK_BYTES] });
    const [disk] = lab.disks;
    if (disk !== undefined) fillRandomly(disk, 0, 4 * MIB);
    await lab.startReceiver();
  }, 60_000);
  afterAll(() => lab?.cleanUp(), 60_000);

  const stateFile = (name: string): string => {
    const path = join(lab.folder, 'agent', name);
    return existsSync(path) ? readFileSync(path, 'utf8') : 'none';
  };
  const state = (): string => stateFile('identity.json') + stateFile('disks.json');

  async function refuses(
    entry: Entry,
    args: readonly string[],
    code: 1 | 2,
    message: RegExp,
    hint?: RegExp,
  ): Promise<void> {
    const before = state();
    const output = await lab.run(entry, ...args);
    expectRefusal(output, { code, message }, `${entry} ${args.join(' ')}`);
    if (hint !== undefined) expect(output.stderr).toMatch(hint);
    expect(state()).toBe(before);
  }

  it('unknown options and commands', { timeout: 60_000 }, async () => {
    await refuses('agent', ['run', '--quick'], 2, /unknown option '--quick'/);
    await refuses('agent', ['fly'], 2, /unknown command 'fly'/);
    await refuses('agent', ['protect'], 2, /missing required argument 'device'/);
    await refuses('receiver', ['token', '--forever'], 2, /unknown option '--forever'/);
    await refuses('receiver', ['token', '--ttl', 'soon'], 2, /soon is not a duration/, /30min/);
    await refuses('receiver', ['token', '--address', 'nowhere'], 2, /nowhere is not an address/, /host:port/);
    await refuses('receiver', ['token', '--machine', 'nobody'], 2, /no machine "nobody"/);
    await refuses('receiver', ['revoke', 'nobody'], 2, /no machine "nobody"/);
    await refuses('cli', ['points', '--all', 'x'], 2, /unknown option '--all'/);
    await refuses('cli', ['restore', 'x', '--to', '/tmp/x'], 2, /required option '--point/);
  });

  it('configuration: unknown keys, wrong values and missing files, with their place', { timeout: 60_000 }, async () => {
    const path = join(lab.folder, 'wrong.yaml');
    writeFileSync(path, 'log:\n  level: info\nintervall: 5s\n');
    for (const [entry, args] of [
      ['agent', ['run']],
      ['agent', ['status']],
      ['receiver', ['run']],
      ['receiver', ['token']],
    ] as const) {
      const output = await runToEnd(entry, ['--config', path, ...args]);
      expectRefusal(
        output,
        { code: 2, message: new RegExp(`${path}:3: intervall: unknown key`) },
        `${entry} ${args.join(' ')}`,
      );
    }
    writeFileSync(path, 'interval: 5 parsecs\n');
    expectRefusal(
      await runToEnd('agent', ['--config', path, 'run']),
      { code: 2, message: /wrong\.yaml:1: interval: / },
      'value',
    );
    const missing = await runToEnd('agent', ['--config', `${path}.gone`, 'run']);
    expectRefusal(missing, { code: 2, message: /no such configuration file/ }, 'missing');
    const store = await runToEnd('cli', ['--store', 'ftp:/x', 'machines']);
    expectRefusal(store, { code: 2, message: /store/ }, 'store');
    const nothing = await runToEnd('cli', ['--store', `file:${lab.folder}/nothing`, 'machines']);
    expect(nothing.code).not.toBe(0);
    expect(existsSync(join(lab.folder, 'nothing'))).toBe(false);
  });

  it('an agent that is not enrolled, or not running', { timeout: 60_000 }, async () => {
    await refuses('agent', ['run'], 2, /this machine is not enrolled/, /afterimage-receiver token/);
    await refuses('agent', ['status'], 1, /not running/, /systemctl start/);
    await refuses('agent', ['sync-now'], 1, /not running/);
    await refuses('agent', ['verify'], 1, /not running/);
    const { code, stderr } = await lab.run('agent', 'status', '--json');
    expect(code).toBe(1);
    expect(JSON.parse(stderr)).toMatchObject({ error: { code: 'not-running', kind: 'refused' } });
  });

  it('tokens: not one, used, and for a receiver that isn’t there', { timeout: 60_000 }, async () => {
    await refuses('agent', ['enroll', 'hello'], 2, /token/);
    await refuses('agent', ['enroll', 'ai1.AAAA'], 2, /token/);
    const token = async (): Promise<string> =>
      (
        JSON.parse(await lab.command('receiver', 'token', '--address', `127.0.0.1:${lab.port}`, '--json')) as {
          token: string;
        }
      ).token;
    const used = await token();
    const unreachable = await token();
    await refuses('agent', ['enroll', unreachable, '--name', 'lab', '--address', '127.0.0.1:1'], 1, /127\.0\.0\.1:1/);
    await lab.command('agent', 'enroll', used, '--name', MACHINE_NAME);
    await refuses('agent', ['enroll', used, '--name', MACHINE_NAME], 1, /token/);
    await refuses('agent', ['enroll', used, '--name', 'another'], 1, /token/);
    // A second machine can't take a name that is in use.
    await refuses('agent', ['enroll', await token(), '--name', MACHINE_NAME], 1, /lab/);
  });

  it('devices that can’t be protected', { timeout: 60_000 }, async () => {
    const device = lab.disks[0]?.device ?? '';
    const folder = join(lab.folder, 'folder');
    mkdirSync(folder);
    await refuses('agent', ['protect', '/dev/nowhere'], 2, /\/dev\/nowhere does not exist/, /lsblk/);
    await refuses('agent', ['protect', folder], 2, /is a folder/);
    await refuses('agent', ['protect', '/dev/null'], 2, /neither a block device nor a regular file/);
    const tiny = attach(lab, 'tiny.img', 512 * KIB);
    await refuses('agent', ['protect', tiny.device], 2, /512(\.0)? KiB|524288|not supported/);
    const fixed = attach(lab, 'fixed.img', 8 * MIB, '-r');
    await refuses('agent', ['protect', fixed.device], 2, /read-only/);
    await refuses('agent', ['protect', device, device], 2, /protected already/);
    // All or nothing.
    await refuses('agent', ['protect', device, '/dev/nowhere'], 2, /does not exist/);
    expect(stateFile('disks.json')).toBe('none');
    await lab.protect();
    await refuses('agent', ['protect', device], 2, /protected already/);
    await refuses('agent', ['protect', lab.disks[0]?.file ?? ''], 2, /shares bytes|protected already/);
    await refuses('agent', ['unprotect', '/dev/nowhere'], 2, /is not protected/, new RegExp(device));
  });

  it('a partition of a protected disk, and the disk of a protected partition', { timeout: 60_000 }, async () => {
    const { device: whole } = attach(lab, 'parts.img', 16 * MIB, '-P');
    // From 1 MiB to the end; told to the kernel directly, which may know no partition table.
    execFileSync('addpart', [whole, '1', '2048', String((15 * MIB) / 512)]);
    lab.undo(() => void execFileSync('delpart', [whole, '1']));
    const part = `${whole}p1`;
    const number = join('/sys/block', basename(whole), basename(part), 'dev');
    // Without udev nobody makes the node.
    const [major = '', minor = ''] = readFileSync(number, 'utf8').trim().split(':');
    if (!existsSync(part)) {
      execFileSync('mknod', [part, 'b', major, minor]);
      lab.undo(() => rmSync(part));
    }
    const protect = (path: string): Promise<string> => lab.command('agent', 'protect', path);
    await protect(whole);
    await refuses('agent', ['protect', part], 2, /shares bytes with/, /not both/);
    await lab.command('agent', 'unprotect', whole);
    await protect(part);
    await refuses('agent', ['protect', whole], 2, /shares bytes with/);
    await lab.command('agent', 'unprotect', part);
  });

  it('an agent that has no receiver; a second one on the same socket', { timeout: 60_000 }, async () => {
    await lab.startAgent();
    await lab.untilProtected();
    const second = await lab.run('agent', 'run');
    expect(second.code).toBe(1);
    expect(second.stderr).toMatch(/another process|already|can't listen/);
    await lab.syncNow();
    await lab.receiver?.stop();
    await lab.until('away', (s) => !s.receiver.connected);
    await refuses('agent', ['sync-now'], 1, /not connected/, /afterimage-agent status/);
    await refuses('agent', ['verify'], 1, /not connected/);
    await lab.startReceiver();
    await lab.untilProtected();
  });

  it('restores to what must not be written', { timeout: 90_000 }, async () => {
    const small = attach(lab, 'small.img', DISK_BYTES - MIB);
    const full = attach(lab, 'full.img', DISK_BYTES);
    const mounted = attach(lab, 'mounted.img', DISK_BYTES);
    execFileSync('mkfs.ext4', ['-q', '-F', mounted.device]);
    const at = join(lab.folder, 'mounted');
    mkdirSync(at);
    execFileSync('mount', [mounted.device, at]);
    lab.undo(() => void execFileSync('umount', [at]));
    writeFileSync(full.file, Buffer.alloc(MIB, 7), { flag: 'r+' });
    const content = (): string =>
      [small, full].map(({ file }) => createHash('sha256').update(readFileSync(file)).digest('hex')).join();
    const before = content();
    const to = (target: string, ...more: string[]): string[] => [
      'restore',
      MACHINE_NAME,
      '--point',
      'latest',
      '--to',
      target,
      ...more,
    ];
    await refuses('cli', to(mounted.device), 1, /mounted on .*mounted/, /[Uu]nmount/);
    await refuses('cli', to(mounted.device, '--force'), 1, /mounted on/);
    await refuses('cli', to(small.device), 2, /small|bytes|MiB/);
    await refuses('cli', to(small.device, '--force'), 2, /small|bytes|MiB/);
    await refuses('cli', to(full.device), 1, /holds data|not empty/, /--force/);
    await refuses('cli', to(lab.disks[0]?.device ?? ''), 1, /holds data|not empty/, /--force/);
    await refuses('cli', to('/dev/nowhere'), 2, /\/dev\/nowhere/);
    await refuses('cli', to(at), 2, /mounted/);
    await refuses('cli', ['restore', 'nobody', '--point', 'latest', '--to', full.device], 2, /no machine "nobody"/);
    await refuses('cli', ['restore', MACHINE_NAME, '--point', '99999', '--to', full.device], 2, /no point 99999/);
    await refuses(
      'cli',
      ['restore', MACHINE_NAME, '--point', 'newest', '--to', full.device],
      2,
      /does not name a point/,
    );
    await refuses('cli', to(full.device, '--disk', 'nodisk'), 2, /no disk nodisk/);
    await refuses('cli', to(full.device, '--to', full.device), 2, /two targets/);
    expect(content()).toBe(before);
    await lab.command('cli', ...to(full.device, '--force', '--state', join(lab.folder, 'restores')));
  });
});

describe.skipIf(!canRunLab)(`disks that change (${WHY_NO_LAB})`, () => {
  let lab: Lab;
  afterEach(() => lab?.cleanUp(), 60_000);

  const protectAlso = async (device: string): Promise<string> => {
    const [added] = JSON.parse(await lab.command('agent', 'protect', device, '--json')) as { id: string }[];
    return added?.id ?? '';
  };
  const restoreDisk = async (id: string, point: number, name: string): Promise<Buffer> => {
    const target = join(lab.folder, name);
    await lab.command(
      'cli',
      'restore',
      MACHINE_NAME,
      '--point',
      String(point),
      '--disk',
      id,
      '--to',
      target,
      '--sparse',
    );
    return readFileSync(target);
  };
  const lastPoint = async (): Promise<number> => (await lab.points())[0]?.number ?? 0;

  it(
    'one that is away at the start: points without it, with the reason; back again, it is compared',
    { timeout: 120_000 },
    async () => {
      lab = await Lab.open({ disks: [DISK_BYTES] });
      const { file, device } = attach(lab, 'away.img', 32 * MIB, '--direct-io=on');
      await lab.startReceiver();
      await lab.enrol();
      await lab.protect();
      const id = await protectAlso(device);
      await lab.startAgent();
      await lab.untilProtected();
      await lab.agent?.stop();
      losetup('-d', device);
      writeFileSync(file, Buffer.alloc(MIB, 9), { flag: 'r+' });
      await lab.startAgent();
      const told = await lab.until('told', (s) => s.receiver.connected && s.disks.some((d) => d.id === id));
      expect(told.state).toBe('Failed');
      expect(told.disks.find((d) => d.id === id)?.reason).toMatch(/not connected|does not exist|no medium|vanished/);
      const { point: without } = await lab.syncNow();
      const held = (await lab.points()).find((p) => p.number === without);
      expect(held?.disks.map((d) => d.disk)).toEqual([lab.diskIds[0]]);
      expect(held?.reason).toMatch(/without /);
      const again = losetup('-f', '--show', '--direct-io=on', file);
      lab.undo(() => detach(again));
      await lab.until('goes on', (s) => s.state === 'Protected' && (s.lastPoint?.number ?? 0) > without, 40_000);
      const newest = (await lab.syncNow()).point;
      expect((await restoreDisk(id, newest, 'back.img')).equals(readFileSync(file))).toBe(true);
      expect((await lab.verifyAll()).filter((v) => !v.restorable)).toEqual([]);
    },
  );

  it(
    'one that grows goes on after a comparison; one that shrinks is refused with the reason',
    { timeout: 180_000 },
    async () => {
      lab = await Lab.open({ disks: [] });
      const { file, device } = attach(lab, 'size.img', 64 * MIB, '--direct-io=on');
      writeFileSync(file, Buffer.alloc(3 * MIB, 5), { flag: 'r+' });
      const before = readFileSync(file);
      await lab.startReceiver();
      await lab.enrol();
      const id = await protectAlso(device);
      await lab.startAgent();
      await lab.untilProtected();
      const old = (await lab.syncNow()).point;
      truncateSync(file, 96 * MIB);
      losetup('-c', device);
      await lab.until('noticed', (s) => s.disks[0]?.sizeBytes === 96 * MIB && s.state === 'Protected', 40_000);
      const grown = (await lab.until('a point', (s) => (s.lastPoint?.number ?? 0) > old)).lastPoint?.number ?? 0;
      expect((await restoreDisk(id, old, 'old.img')).equals(before)).toBe(true);
      expect((await restoreDisk(id, grown, 'grown.img')).equals(readFileSync(file))).toBe(true);
      // Written beyond the old end: tracked like the rest.
      execFileSync('dd', ['if=/dev/urandom', `of=${device}`, 'bs=64k', 'seek=1400', 'count=4', 'oflag=direct'], {
        stdio: 'ignore',
      });
      const next = (await lab.syncNow()).point;
      expect((await restoreDisk(id, next, 'next.img')).equals(readFileSync(file))).toBe(true);
      truncateSync(file, 80 * MIB);
      losetup('-c', device);
      const told = await lab.until('refused', (s) => /shrank/.test(s.receiver.reason), 40_000);
      expect(told.receiver.connected).toBe(false);
      const points = await lastPoint();
      await sleep(1500);
      expect(await lastPoint()).toBe(points);
      expect((await lab.verifyAll()).filter((v) => !v.restorable)).toEqual([]);
      // Large enough again: what is there now is compared.
      truncateSync(file, 96 * MIB);
      losetup('-c', device);
      await lab.agent?.stop();
      await lab.startAgent();
      await lab.until('goes on', (s) => s.state === 'Protected' && (s.lastPoint?.number ?? 0) > points, 40_000);
      const last = (await lab.syncNow()).point;
      expect((await restoreDisk(id, last, 'last.img')).equals(readFileSync(file))).toBe(true);
    },
  );
});
