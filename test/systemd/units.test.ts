import { execFile } from 'node:child_process';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const run = promisify(execFile);
const UNITS = new URL('../../systemd/', import.meta.url);
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'afterimage-units-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** A copy whose program exists, since verify asks for it. */
async function copyOf(name: string): Promise<string> {
  const program = join(folder, name);
  await writeFile(program, '#!/bin/sh\n');
  await chmod(program, 0o755);
  const unit = await readFile(new URL(`${name}.service`, UNITS), 'utf8');
  expect(unit).toContain(`ExecStart=/usr/bin/${name} run`);
  const path = join(folder, `${name}.service`);
  await writeFile(path, unit.replace(`/usr/bin/${name}`, program));
  return path;
}

describe.each([
  ['afterimage-agent', 40],
  ['afterimage-receiver', 20],
])('%s.service', (name, exposureMax) => {
  test('verify has nothing to say', async () => {
    // Its exit code is 0 for unknown keys too: what it prints counts.
    const { stdout, stderr } = await run('systemd-analyze', ['verify', await copyOf(name)]);
    expect(stdout + stderr).toBe('');
  });

  test('is hardened', async () => {
    const args = ['security', '--offline=yes', `--threshold=${exposureMax}`, await copyOf(name)];
    await expect(run('systemd-analyze', args)).resolves.toMatchObject({ stderr: '' });
  });

  test('keeps what a Node daemon under a watchdog needs', async () => {
    const unit = await readFile(new URL(`${name}.service`, UNITS), 'utf8');
    expect(unit).toMatch(/^SystemCallFilter=.*@pkey/m);
    expect(unit).not.toMatch(/^MemoryDenyWriteExecute/m);
    expect(Number(/^WatchdogSec=(\d+)$/m.exec(unit)?.[1])).toBeGreaterThanOrEqual(20);
    expect(unit).toMatch(/^Type=notify$/m);
    expect(unit).toMatch(/^RestartPreventExitStatus=2$/m);
  });

  test('keeps its state in a folder of its own that outlives a reboot', async () => {
    const unit = await readFile(new URL(`${name}.service`, UNITS), 'utf8');
    expect(unit).toContain(`\nStateDirectory=${name}\n`);
  });
});

describe.each(['arm', 'close'])('afterimage-%s.service', (verb) => {
  test('verify has nothing to say', async () => {
    const program = join(folder, 'program');
    await writeFile(program, '#!/bin/sh\n', { mode: 0o755 });
    const unit = await readFile(new URL(`afterimage-${verb}.service`, UNITS), 'utf8');
    expect(unit).toContain(`ExecStart=/usr/bin/afterimage-agent tracking ${verb}\n`);
    const path = join(folder, `afterimage-${verb}.service`);
    await writeFile(path, unit.replace('/usr/bin/afterimage-agent', program));
    const { stdout, stderr } = await run('systemd-analyze', ['verify', path]);
    expect(stdout + stderr).toBe('');
  });

  test('comes along with the agent, and holds neither boot nor shutdown up for long', async () => {
    const unit = await readFile(new URL(`afterimage-${verb}.service`, UNITS), 'utf8');
    expect(unit).toMatch(/^DefaultDependencies=no$/m);
    expect(Number(/^TimeoutStartSec=(\d+)$/m.exec(unit)?.[1])).toBeLessThanOrEqual(90);
    const agent = await readFile(new URL('afterimage-agent.service', UNITS), 'utf8');
    expect(agent).toMatch(new RegExp(`^Also=.*afterimage-${verb}\\.service`, 'm'));
  });
});

test('the agent can reach disks, mounts and BPF', async () => {
  const unit = await readFile(new URL('afterimage-agent.service', UNITS), 'utf8');
  expect(unit).toMatch(/^SystemCallFilter=.*\bbpf\b.*\bperf_event_open\b/m);
  expect(unit).not.toMatch(/^(PrivateTmp|PrivateDevices|ProtectHome|PrivateMounts|PrivateNetwork)=/m);
  // It would make bpffs read-only, whatever ReadWritePaths says (seen with systemd 252).
  expect(unit).not.toMatch(/^ProtectKernelTunables=/m);
  expect(unit).toMatch(/^ReadWritePaths=-\/sys\/fs\/bpf$/m);
});
