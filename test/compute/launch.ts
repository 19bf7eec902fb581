/**
 * What the tests of compute providers launch: specs with defaults, and NBD servers (nbdkit) that can be killed and started again.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, rmSync } from 'node:fs';
import type { LaunchDisk, LaunchSpec } from '../../receiver/failover/compute/provider.js';
import { asDiskId, asMachineId } from '../../shared/units.js';

export const INSTANCE = '0b5e7a2c-1111-4222-8333-444455556666';

export function launchSpec(overrides: Partial<LaunchSpec> = {}): LaunchSpec {
  return {
    instance: INSTANCE,
    machine: { id: asMachineId('11111111-2222-4333-8444-555555555555'), name: 'web1' },
    test: false,
    point: 7,
    description: null,
    settings: {},
    disks: [launchDisk('disk0', '/run/a.sock')],
    folder: '/run/afterimage/i',
    ...overrides,
  };
}

export const launchDisk = (disk: string, socketPath: string, exportName = disk): LaunchDisk => ({
  disk: asDiskId(disk),
  sizeBytes: 64 * 1024 * 1024,
  uri: `nbd+unix:///${exportName}?socket=${socketPath}`,
  socketPath,
  exportName,
});

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  timeoutMs = 20_000,
): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await sleep(20);
  }
}

/** A disk image over NBD. `errorTrigger`: writes fail with EIO while that file exists. */
export class NbdServer {
  #child: ChildProcess | null = null;

  constructor(
    readonly image: string,
    readonly socketPath: string,
    readonly errorTrigger?: string,
  ) {}

  async start(): Promise<void> {
    rmSync(this.socketPath, { force: true });
    const filter = this.errorTrigger === undefined ? [] : ['--filter=error'];
    const trigger =
      this.errorTrigger === undefined ? [] : ['error=EIO', 'error-pwrite-rate=100%', `error-file=${this.errorTrigger}`];
    this.#child = spawn('nbdkit', ['-f', '-U', this.socketPath, ...filter, 'file', this.image, ...trigger], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    await until('nbdkit listens', () => existsSync(this.socketPath));
  }

  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = null;
    if (child?.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
}
