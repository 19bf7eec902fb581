/**
 * A rehearsal with a real machine: a guest with its own kernel and filesystem boots from a loop device that the agent protects, answers over HTTP and
 * writes a log. Its host burns, it is failed over, it comes home. What the guest acknowledged over HTTP is the measure of what was lost.
 *
 *   const drill = await Drill.open({ sizeBytes: 64 * MIB });
 *   await drill.bootHome();
 *   await drill.client.more(20);
 *   await drill.afterimage('failover', 'lab', '--planned', '--yes', '--commit');
 *   await drill.cleanUp();
 *
 * The test's process plays the hypervisor at home: it boots the guest from the loop device, and ends it when the agent's pre-shutdown hook asks for it.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { RecoveryView } from '../../receiver/failover/operations.js';
import type { Job } from '../../receiver/catalog/recovery.js';
import { MIB } from '../../shared/units.js';
import { freePort, Lab, MACHINE_NAME, sleep } from '../e2e/lab.js';
import { runToEnd, type Output } from '../e2e/program.js';
import { bootGuest, guestImage, plainKernel, type Guest } from '../guest/guest.js';
import { AppendClient } from './client.js';
import { HomeHooks } from './hooks.js';

export interface DrillOptions {
  readonly sizeBytes?: number;
  /** Distance of points, at home and in the recovery site. */
  readonly interval?: string;
  /** Further launch settings. */
  readonly settings?: Readonly<Record<string, unknown>>;
  /** Further keys of the receiver's `failover:`. */
  readonly failover?: Readonly<Record<string, unknown>>;
}

const BOOT_LIMIT_MS = 120_000;

export class Drill {
  readonly lab: Lab;
  readonly client = new AppendClient();
  readonly hooks: HomeHooks;
  readonly recoveryPort: number;
  readonly testPort: number;
  home: Guest | null = null;
  readonly homePort: number;

  private constructor(lab: Lab, hooks: HomeHooks, ports: readonly number[]) {
    const [homePort = 0, recoveryPort = 0, testPort = 0] = ports;
    this.lab = lab;
    this.hooks = hooks;
    this.homePort = homePort;
    this.recoveryPort = recoveryPort;
    this.testPort = testPort;
  }

  /** A protected machine with its first point; its guest isn't running yet. */
  static async open(options: DrillOptions = {}): Promise<Drill> {
    const { sizeBytes = 64 * MIB, interval = '1s' } = options;
    const hookFolder = mkdtempSync('/dev/shm/afterimage-hooks-');
    let drill: Drill | null = null;
    const hooks = new HomeHooks(hookFolder, {
      stop: async () => drill?.powerDownHome(),
      resume: async () => drill?.bootHome(),
    });
    const lab = await Lab.open({
      disks: [sizeBytes],
      interval,
      agent: { failover: { preShutdown: [hooks.path('stop')], resume: [hooks.path('resume')], timeout: '60s' } },
      receiver: (folder) => ({
        controlSocket: join(folder, 'r.sock'),
        failover: { folder: join(folder, 'v'), interval, ...options.failover },
      }),
    });
    drill = new Drill(lab, hooks, [await freePort(), await freePort(), await freePort()]);
    lab.undo(() => rmSync(hookFolder, { recursive: true, force: true }));
    lab.undo(() => hooks.stop());
    try {
      await drill.#setUp(sizeBytes, options.settings ?? {});
    } catch (error) {
      await drill.cleanUp();
      throw error;
    }
    return drill;
  }

  async #setUp(sizeBytes: number, settings: Readonly<Record<string, unknown>>): Promise<void> {
    const { lab } = this;
    const path = join(lab.folder, 'guest.img');
    await guestImage({ kind: 'plain', path, sizeBytes });
    execFileSync('dd', [`if=${path}`, `of=${this.device}`, 'bs=1M', 'conv=sparse,notrunc,fsync', 'status=none']);
    rmSync(path);
    await lab.setUp();
    const launch = {
      provider: 'qemu',
      diskBus: 'nvme',
      cpus: 1,
      memoryBytes: 256 * MIB,
      kernel: plainKernel('nvme'),
      nics: [
        {
          network: 'isolated',
          forwards: [{ host: '127.0.0.1', hostPort: this.recoveryPort, testHostPort: this.testPort, guestPort: 80 }],
        },
      ],
      bootCheck: { type: 'serial', text: 'READY boots=', timeoutMs: BOOT_LIMIT_MS },
      ...settings,
    };
    const file = join(lab.folder, 'launch.yaml');
    writeFileSync(file, stringify(launch));
    await this.afterimage('launch-settings', MACHINE_NAME, '--set', file);
    this.client.start();
  }

  get device(): string {
    const disk = this.lab.disks[0];
    if (disk === undefined) throw new Error('the lab has no disk');
    return disk.device;
  }

  // ---------------------------------------------------------------- the guest at home

  /** Boots the guest from the protected disk; the client talks to it from then on. */
  async bootHome(): Promise<void> {
    const folder = join(this.lab.folder, 'home');
    mkdirSync(folder, { recursive: true });
    this.home = await bootGuest({
      kind: 'plain',
      disk: this.device,
      serialPath: join(folder, 'serial.log'),
      qmpSocket: join(folder, 'qmp.sock'),
      httpPort: this.homePort,
    });
    await this.home.waitFor('READY', BOOT_LIMIT_MS);
    this.client.port = this.homePort;
  }

  async powerDownHome(): Promise<void> {
    const { home } = this;
    if (home?.isRunning === true) await home.powerDown();
    this.client.port = null;
  }

  /** The host burns: guest and agent are gone at once, in mid-write. */
  async burnHome(): Promise<void> {
    await Promise.all([this.home?.kill(), this.lab.agent?.kill()]);
    this.client.port = null;
  }

  // ---------------------------------------------------------------- the operator

  /** A command of `afterimage` with the receiver's configuration, whatever its exit code. */
  tryAfterimage(...args: string[]): Promise<Output> {
    return runToEnd('cli', ['--config', this.lab.configs.receiver, ...args]);
  }

  async afterimage(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.tryAfterimage(...args);
    if (code === 0) return stdout;
    throw new Error(`afterimage ${args.join(' ')}: exit code ${code}\n${stderr}${stdout}`);
  }

  /** Runs an operation to its end; the job as it ended. */
  async operate(operation: string, ...args: string[]): Promise<Job> {
    return JSON.parse(await this.afterimage(operation, MACHINE_NAME, ...args, '--json')) as Job;
  }

  async view(): Promise<RecoveryView> {
    return JSON.parse(await this.afterimage('status', MACHINE_NAME, '--json')) as RecoveryView;
  }

  /** What a served guest holds in a file of its web root. */
  async fetchFrom(port: number, path: string): Promise<string> {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`, { signal: AbortSignal.timeout(20_000) });
    if (!answer.ok) throw new Error(`${path}: HTTP status ${answer.status}`);
    return answer.text();
  }

  /** Waits until the newest point of the chain is as wanted. */
  async untilPoint(isWanted: (newest: number) => boolean, limitMs = 30_000): Promise<void> {
    const end = performance.now() + limitMs;
    for (;;) {
      const newest = (await this.lab.points())[0]?.number ?? 0;
      if (isWanted(newest)) return;
      if (performance.now() > end) throw new Error(`the newest point is still ${newest}`);
      await sleep(200);
    }
  }

  async cleanUp(): Promise<void> {
    await this.client.stop();
    if (this.home?.isRunning === true) await this.home.kill();
    // A guest in the recovery site outlives its receiver on purpose: here it must not.
    for (const pid of guestPids(this.lab.folder)) process.kill(pid, 'SIGKILL');
    await this.lab.cleanUp();
  }
}

/** Processes that were started with paths in the lab's folder, our daemons aside. */
export function guestPids(folder: string): number[] {
  try {
    const text = execFileSync('pgrep', ['-f', `(qemu-system|guest-supervisor).*${folder}`], { encoding: 'utf8' });
    return text.trim().split('\n').map(Number);
  } catch {
    // pgrep: none found.
    return [];
  }
}
