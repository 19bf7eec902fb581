/**
 * A Debian machine with systemd in QEMU that is to be protected: a root disk, and a data disk with LVM. Owns its images and its process; both end with
 * the test.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MIB } from '../../shared/units.js';
import { bootGuest, guestKernel, type Guest } from '../guest/guest.js';
import { begin, execute, type Ran } from './guest-agent.js';

/** Under emulation on a busy machine. */
const BOOT_LIMIT_MS = 900_000;
const COMMAND_LIMIT_MS = 600_000;
const POLL_MS = 500;
const ROOT_BYTES = 1400 * MIB;
const DATA_BYTES = 512 * MIB;
const UUID = '0d0d0d0d-1111-4222-8333-000000000001';

function sources(): string {
  let folder = import.meta.dirname;
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder);
  return join(folder, 'test/guest-life');
}

/** The root of all such guests; some minutes the first time. */
function guestTree(): string {
  const script = join(sources(), 'build.sh');
  const kernel = dirname(guestKernel().image);
  const version = createHash('sha256').update(readFileSync(script)).update(kernel).digest('hex').slice(0, 12);
  const folder = `/var/tmp/afterimage-guest-life-${version}`;
  execFileSync('bash', [script, folder, kernel], { stdio: ['ignore', 'ignore', 'inherit'] });
  return join(folder, 'tree');
}

/** With files put into /root. */
function makeRoot(path: string, files: readonly string[]): void {
  const options = ['-q', '-F', '-L', 'root', '-m', '0', '-E', 'lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0'];
  execFileSync('mkfs.ext4', [...options, '-d', guestTree(), path, `${ROOT_BYTES / MIB}M`], { stdio: 'ignore' });
  const commands = files.map((file) => `write ${file} /root/${file.slice(file.lastIndexOf('/') + 1)}\n`).join('');
  execFileSync('debugfs', ['-w', '-f', '-', path], { input: commands, stdio: ['pipe', 'ignore', 'ignore'] });
}

export interface GuestDisks {
  readonly root: string;
  readonly data: string;
}

export class SourceGuest {
  readonly disks: GuestDisks;
  readonly #folder: string;
  #guest: Guest | null = null;
  #serial = 0;

  private constructor(folder: string, disks: GuestDisks) {
    this.#folder = folder;
    this.disks = disks;
  }

  /** New images. `files` of this host lie in /root of the guest. */
  static make(folder: string, files: readonly string[]): SourceGuest {
    const disks = { root: join(folder, 'root.img'), data: join(folder, 'data.img') };
    makeRoot(disks.root, files);
    writeFileSync(disks.data, '');
    truncateSync(disks.data, DATA_BYTES);
    return new SourceGuest(folder, disks);
  }

  /** Images that are there already. */
  static of(folder: string, disks: GuestDisks): SourceGuest {
    return new SourceGuest(folder, disks);
  }

  get #socket(): string {
    return join(this.#folder, 'qga');
  }

  get #running(): Guest {
    if (this.#guest?.isRunning !== true) throw new Error('the guest does not run');
    return this.#guest;
  }

  /** Seconds until it was up. */
  async boot(): Promise<number> {
    const startMs = performance.now();
    this.#guest = await bootGuest({
      kind: 'plain',
      bus: 'virtio',
      disk: [this.disks.root, this.disks.data],
      serialPath: join(this.#folder, `serial-${this.#serial++}`),
      serial: 'life',
      uuid: UUID,
      memoryMib: 1024,
      cpus: 2,
      extraArguments: [
        ...['-netdev', 'user,id=n1,net=10.0.3.0/24'],
        ...['-device', 'virtio-net-pci,netdev=n1,mac=52:54:00:00:00:99,romfile='],
        ...['-device', 'virtio-serial-pci', '-chardev', `socket,path=${this.#socket},server=on,wait=off,id=ga0`],
        ...['-device', 'virtserialport,chardev=ga0,name=org.qemu.guest_agent.0'],
      ],
    });
    await this.#untilUp(1);
    return (performance.now() - startMs) / 1000;
  }

  #boots(): number {
    return this.#running.serial().split('READY boot=').length - 1;
  }

  async #untilUp(boots: number): Promise<void> {
    const endMs = performance.now() + BOOT_LIMIT_MS;
    while (this.#boots() < boots) {
      if (performance.now() > endMs) throw new Error(`the guest is not up:\n${this.#running.serial().slice(-3000)}`);
      await sleep(POLL_MS);
    }
    // Its guest agent may start a moment later.
    for (;;) {
      try {
        await execute(this.#socket, 'true', COMMAND_LIMIT_MS);
        return;
      } catch (error) {
        if (performance.now() > endMs) throw error;
        await sleep(POLL_MS);
      }
    }
  }

  /** A shell command in the guest, whatever its exit code. */
  try(command: string): Promise<Ran> {
    return execute(this.#socket, command, COMMAND_LIMIT_MS);
  }

  /** The same; throws unless it exits with 0. Resolves to its output. */
  async run(command: string): Promise<string> {
    const { code, stdout, stderr } = await this.try(command);
    if (code !== 0) throw new Error(`in the guest: ${command}: exit code ${code}\n${stderr}${stdout}`);
    return stdout;
  }

  /** `systemctl reboot`, until it is up again. */
  async reboot(): Promise<void> {
    const before = this.#boots();
    await begin(this.#socket, 'systemctl reboot');
    await this.#untilUp(before + 1);
  }

  async powerOff(): Promise<void> {
    await begin(this.#socket, 'systemctl poweroff');
    const late = sleep(BOOT_LIMIT_MS, 'late');
    if ((await Promise.race([this.#running.ended, late])) === 'late') throw new Error('the guest does not power off');
  }

  /** As when the plug is pulled: what QEMU has not been told to keep is gone with its process. */
  async cutPower(): Promise<void> {
    await this.#running.kill();
  }

  /** What stands on its console. */
  console(): string {
    return this.#guest?.serial() ?? '';
  }

  async end(): Promise<void> {
    if (this.#guest?.isRunning === true) await this.#guest.kill();
  }
}
