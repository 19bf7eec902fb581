/**
 * Real guests in QEMU, started by the provider, with disks over NBD: they outlive who started them and a restart of their disks' server; clean and
 * unclean ends are told apart; when kill has resolved, nothing writes any more.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runBootCheck, type BootCheckContext } from '../../receiver/failover/boot-check.js';
import { providerOf } from '../../receiver/failover/compute/index.js';
import { derivedMac, hardwareUuid } from '../../receiver/failover/compute/instance-hardware.js';
import { processesWhere, signalProcess } from '../../receiver/failover/compute/process-identity.js';
import type { ComputeProvider, LaunchSpec } from '../../receiver/failover/compute/provider.js';
import { guestFiles } from '../../receiver/failover/compute/qemu-arguments.js';
import { QmpClient, withQmp } from '../../receiver/failover/compute/qmp.js';
import {
  isGuestOf,
  isSupervisorOf,
  runningGuest,
  supervisorFile,
} from '../../receiver/failover/compute/supervisor-files.js';
import { systemClock } from '../../shared/clock.js';
import { BUILD } from '../e2e/program.js';
import {
  freePort,
  guestHttp,
  guestImage,
  guestUnavailable,
  plainKernel,
  readWriterLog,
  waitForSerial,
} from '../guest/guest.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { INSTANCE, launchDisk, launchSpec, NbdServer, sleep, until } from './launch.js';

const unavailable = guestUnavailable();
if (unavailable !== null) console.log(`guests: skipped, ${unavailable}`);

removeTempFolders();
const context = { signal: new AbortController().signal, say: () => undefined };
const provider: ComputeProvider = providerOf('qemu', {
  clock: systemClock,
  env: process.env,
  supervisorProgram: join(BUILD, 'receiver/failover/compute/guest-supervisor.js'),
});

interface Rig {
  readonly spec: LaunchSpec;
  readonly server: NbdServer;
  readonly serial: string;
  readonly port: number;
}
const rigs: Rig[] = [];

/** A disk image, its server, and the spec of a guest that boots from it. */
async function rig(kind: 'plain' | 'bios' | 'uefi', name: string, overrides: Partial<LaunchSpec> = {}): Promise<Rig> {
  const base = await tempFolder(`qemu-${name}`);
  const image = join(base, 'disk.img');
  await guestImage({ kind, path: image });
  const server = new NbdServer(image, join(base, 'nbd.sock'), name === 'errors' ? join(base, 'fail') : undefined);
  await server.start();
  const port = await freePort();
  const nics = [{ network: 'user', forwards: [{ host: '127.0.0.1', hostPort: port, guestPort: 80 }] }];
  const spec = launchSpec({
    // Two test runs on one host must not meet at the lock of an instance.
    instance: `${INSTANCE.slice(0, -6)}${String(port).padStart(6, '0')}`,
    folder: join(base, 'i'),
    disks: [launchDisk('disk0', server.socketPath)],
    settings: {
      provider: 'qemu',
      cpus: 1,
      memoryBytes: 256 * 1024 * 1024,
      firmware: kind === 'uefi' ? 'uefi' : 'bios',
      nics,
      ...(kind === 'plain' ? { kernel: plainKernel('virtio') } : {}),
    },
    ...overrides,
  });
  const made = { spec, server, serial: guestFiles(spec.folder).serial, port };
  rigs.push(made);
  return made;
}

const ready = ({ serial }: Rig, boots = 1): Promise<void> => waitForSerial(serial, `READY boots=${boots}`);
const processesOf = (folder: string): number =>
  processesWhere((args) => isGuestOf(folder, args) || isSupervisorOf(folder, args)).length;
/** A file of the guest's filesystem, read from its image. */
const fromImage = (image: string, path: string): string =>
  execFileSync('debugfs', ['-R', `cat ${path}`, image], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
/** One QEMU and one supervisor; a second supervisor that lost against the first may take a moment to leave. */
async function expectOneGuest(folder: string): Promise<void> {
  expect(processesWhere((args) => isGuestOf(folder, args))).toHaveLength(1);
  await until('one supervisor is left', () => processesOf(folder) === 2);
}
const checkContext = async (r: Rig): Promise<BootCheckContext> => ({
  spec: r.spec,
  serialPath: r.serial,
  startedAtMs: (await provider.state(r.spec)).startedAtMs ?? 0,
  clock: systemClock,
  ...context,
  state: () => provider.state(r.spec),
});

describe.skipIf(unavailable !== null)('guests', () => {
  beforeAll(() => void plainKernel('virtio'));
  afterAll(async () => {
    for (const { spec, server } of rigs) {
      await provider.kill(spec, context);
      await server.kill();
    }
  });

  it('outlive their starter and a killed server of their disks; power off clean', async () => {
    const r = await rig('plain', 'outlive');
    const { spec, server, serial, port } = r;
    expect(await provider.state(spec)).toEqual({ running: false, detail: 'never started', startedAtMs: null });
    expect(await provider.problems(spec, null)).toEqual([]);

    const starter = spawn(process.execPath, [join(BUILD, 'test/compute/starter.js'), JSON.stringify(spec)], {
      detached: true,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let said = '';
    starter.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
    await until('the starter says STARTED', () => said.includes('STARTED'));
    expect(said).toMatch(/^QEMU with (tcg|kvm): /m);
    // The whole process group, as a terminal or a supervisor of services would.
    process.kill(-(starter.pid ?? 0), 'SIGKILL');
    await once(starter, 'exit');

    // The port is open from the first moment, but nobody in the guest answers.
    const tcp = { type: 'tcp', host: '127.0.0.1', port, timeoutMs: 1 } as const;
    const early = await runBootCheck(tcp, await checkContext(r));
    if (!readFileSync(serial, 'latin1').includes('READY')) {
      expect(early).toMatchObject({
        passed: false,
        detail: expect.stringContaining('nothing in the guest answers') as string,
      });
    }
    const check = { type: 'serial', text: 'READY boots=1', timeoutMs: 60_000 } as const;
    expect(await runBootCheck(check, await checkContext(r))).toMatchObject({ passed: true });
    expect(await runBootCheck({ ...tcp, timeoutMs: 30_000 }, await checkContext(r))).toMatchObject({ passed: true });
    const http = {
      type: 'http',
      url: `http://127.0.0.1:${port}/boots.log`,
      text: 'boot 1',
      timeoutMs: 60_000,
    } as const;
    expect(await runBootCheck(http, await checkContext(r))).toMatchObject({ passed: true });
    expect(await runBootCheck({ type: 'none' }, await checkContext(r))).toMatchObject({ passed: true });
    expect(readFileSync(serial, 'latin1')).toContain(
      `HARDWARE uuid=${hardwareUuid(spec.instance)} mac=${derivedMac(spec.instance, 0)} disk=disk0 cpus=1`,
    );

    // Another start finds it running.
    const before = await runningGuest(spec.folder);
    await provider.start(spec, context);
    expect(await runningGuest(spec.folder)).toEqual(before);
    await expectOneGuest(spec.folder);
    expect(await provider.problems(spec, null)).toEqual([]);

    // The server of its disk is killed while it writes.
    const written = (): Promise<number> => guestHttp(port, '/writer.log').then((text) => readWriterLog(text).last);
    const first = await written();
    await server.kill();
    await sleep(1500);
    await server.start();
    await until('the guest writes again', async () => (await written()) > first + 5);
    expect(await guestHttp(port, '/cgi-bin/append?after')).toContain('OK after');
    expect(await provider.state(spec)).toMatchObject({ running: true, detail: 'running' });
    expect(readFileSync(serial, 'latin1')).not.toMatch(/WRITER FAILED|I\/O error|EXT4-fs error/);

    expect(await provider.shutdown(spec, { timeoutMs: 30_000, force: false, ...context })).toBe('clean');
    expect(await provider.state(spec)).toMatchObject({ running: false, detail: 'ended: powered off' });
    expect(await provider.shutdown(spec, { timeoutMs: 30_000, force: false, ...context })).toBe('not-running');
    // What the guest said it wrote is on the disk.
    const log = readWriterLog(fromImage(server.image, '/writer.log'));
    expect(log.last).toBeGreaterThan(first + 5);
    expect(fromImage(server.image, '/data.log')).toBe('after\n');
  });

  it('end at once when killed, and only then can be cleaned up', async () => {
    const r = await rig('plain', 'errors');
    const { spec, server, serial, port } = r;
    // Two receivers, or one that repeats itself: one guest.
    await Promise.all([provider.start(spec, context), provider.start(spec, context)]);
    await expectOneGuest(spec.folder);
    await expect(provider.cleanup(spec, context)).rejects.toThrow(/the guest runs/);
    // It is still booting and doesn't hear the button.
    const late = provider.shutdown(spec, { timeoutMs: 50, force: false, ...context });
    await expect(late).rejects.toMatchObject({ code: 'guest-does-not-power-off' });
    await ready(r);

    // Its disk fails: it is stopped, not damaged, and goes on when asked to start.
    const trigger = server.errorTrigger ?? '';
    writeFileSync(trigger, '');
    await until('the guest is paused', async () => (await provider.state(spec)).detail === 'paused (I/O error)');
    // Nor does it power off later, because a button was pressed while it was stopped.
    const stuck = provider.shutdown(spec, { timeoutMs: 50, force: false, ...context });
    await expect(stuck).rejects.toThrow(/paused \(I\/O error\)/);
    expect(await runBootCheck({ type: 'none' }, { ...(await checkContext(r)), startedAtMs: 0 })).toMatchObject({
      passed: false,
    });
    rmSync(trigger);
    await provider.start(spec, context);
    expect(await provider.state(spec)).toMatchObject({ running: true, detail: 'running' });
    expect(await guestHttp(port, '/cgi-bin/append?1')).toContain('OK 1');
    expect(readFileSync(serial, 'latin1')).not.toMatch(/WRITER FAILED|I\/O error/);

    // A supervisor that died takes nothing along.
    const supervisor = (await supervisorFile.read(spec.folder))?.supervisor;
    if (supervisor === undefined) throw new Error('no supervisor');
    signalProcess(supervisor, 'SIGKILL');
    await until('the supervisor is gone', () => processesOf(spec.folder) === 1);
    await provider.start(spec, context);
    expect(await provider.state(spec)).toMatchObject({ running: true });
    await provider.kill(spec, context);
    expect(processesOf(spec.folder)).toBe(0);
    expect((await provider.state(spec)).detail).toMatch(/^ended for an unknown reason/);
    const { mtimeMs } = statSync(server.image);
    await sleep(300);
    expect(statSync(server.image).mtimeMs).toBe(mtimeMs);

    // It starts again; this time its supervisor sees the end.
    await provider.start(spec, context);
    await ready(r, 2);
    await provider.kill(spec, context);
    expect(await provider.state(spec)).toMatchObject({ running: false, detail: 'ended by signal SIGKILL' });
    const check = { type: 'tcp', host: '127.0.0.1', port, timeoutMs: 60_000 } as const;
    expect(await runBootCheck(check, await checkContext(r))).toMatchObject({
      passed: false,
      detail: 'the guest is not running: ended by signal SIGKILL',
    });
    await provider.cleanup(spec, context);
    await provider.cleanup(spec, context);
    expect(existsSync(spec.folder)).toBe(false);
  });

  it('a guest that hangs is ended by force; a half start is taken up or swept away', async () => {
    const r = await rig('plain', 'hang', { settings: {} });
    // -S: the CPUs never begin.
    const spec = { ...r.spec, settings: { memoryBytes: 64 * 1024 * 1024, qemuArguments: ['-S'] } };
    const cut = new AbortController();
    const half = provider.start(spec, { ...context, signal: cut.signal });
    await until('the supervisor is there', () => existsSync(join(spec.folder, 'launch.json')));
    cut.abort();
    await Promise.allSettled([half]);
    await provider.start(spec, context);
    await expectOneGuest(spec.folder);
    expect((await provider.state(spec)).detail).toBe('paused (before its start)');
    expect(await provider.shutdown(spec, { timeoutMs: 300, force: true, ...context })).toBe('forced');
    expect(processesOf(spec.folder)).toBe(0);

    const again = new AbortController();
    const swept = provider.start(spec, { ...context, signal: again.signal });
    await until('the supervisor is there', () => processesOf(spec.folder) > 0);
    again.abort();
    await Promise.allSettled([swept]);
    await provider.kill(spec, context);
    expect(processesOf(spec.folder)).toBe(0);
    await sleep(500);
    expect(processesOf(spec.folder)).toBe(0);

    // What QEMU doesn't like is told, and doesn't stand in the way of the next start.
    await r.server.kill();
    rmSync(r.server.socketPath, { force: true });
    await expect(provider.start(spec, context)).rejects.toMatchObject({
      code: 'guest-not-started',
      hint: expect.stringContaining('No such file') as string,
    });
    expect((await provider.state(spec)).running).toBe(false);
    await r.server.start();
    await provider.start(spec, context);
    // A QEMU that vanishes under a shutdown was not shut down.
    const shutdown = provider.shutdown(spec, { timeoutMs: 20_000, force: false, ...context });
    await sleep(300);
    for (const guest of processesWhere((args) => isGuestOf(spec.folder, args))) signalProcess(guest, 'SIGKILL');
    await expect(shutdown).rejects.toMatchObject({ code: 'guest-ended-uncleanly' });
  });

  it('QMP: answers, errors, events, a socket that is taken', async () => {
    const r = await rig('plain', 'qmp', { settings: {} });
    const spec = {
      ...r.spec,
      settings: { memoryBytes: 64 * 1024 * 1024, qemuArguments: ['-S'], diskBus: 'scsi' as const },
    };
    await provider.start(spec, context);
    const path = guestFiles(spec.folder).qmp;
    const events: string[] = [];
    const qmp = await QmpClient.connect(path, { onEvent: ({ event }) => events.push(event) });
    const answers = await Promise.all([qmp.execute('query-status'), qmp.execute('query-version')]);
    expect(answers).toMatchObject([{ status: 'prelaunch' }, { qemu: {} }]);
    await expect(qmp.execute('no-such-command')).rejects.toMatchObject({ code: 'qmp-error' });
    await qmp.execute('cont');
    await until('the event arrives', () => events.includes('RESUME'));
    // QEMU serves one client at a time: the second waits for the greeting, not for ever.
    await expect(QmpClient.connect(path, { timeoutMs: 200 })).rejects.toMatchObject({ code: 'qmp-timeout' });
    const open = qmp.execute('quit').catch(() => undefined);
    await qmp.closed;
    await open;
    await expect(qmp.execute('query-status')).rejects.toMatchObject({ code: 'qmp-lost' });
    await expect(withQmp(path, (q) => q.execute('query-status'))).rejects.toMatchObject({ code: 'qmp-lost' });
    await until(
      'the end is noted',
      async () => (await provider.state(spec)).detail === 'ended by the host (host-qmp-quit)',
    );
  });

  it.for(['bios', 'uefi'] as const)('%s: a disk with its own boot loader', async (kind, test) => {
    if (kind === 'uefi' && process.env['AFTERIMAGE_TEST_UEFI'] !== '1') {
      console.log('uefi: skipped, OVMF is slow under emulation; AFTERIMAGE_TEST_UEFI=1 runs it');
      test.skip();
    }
    const r = await rig(kind, kind, { test: true });
    await provider.start(r.spec, context);
    await ready(r);
    expect(await provider.shutdown(r.spec, { timeoutMs: 30_000, force: false, ...context })).toBe('clean');
    expect(existsSync(guestFiles(r.spec.folder).vars)).toBe(kind === 'uefi');
  });
});
