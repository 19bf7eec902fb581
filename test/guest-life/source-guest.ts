/**
 * A Debian machine with systemd in QEMU that is to be protected: a root disk, a data disk with LVM, a disk of packages, and, where asked for, one that is
 * reached by two paths. Owns its images and its process; both end with the test.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MIB } from '../../shared/units.js';
import { bootGuest, guestKernel, type Guest } from '../guest/guest.js';
import { begin, execute, type Ran } from './guest-agent.js';

/** Under emulation on a busy machine. */
const BOOT_LIMIT_MS = 900_000;
const COMMAND_LIMIT_MS = 600_000;
const POLL_MS = 500;
const DATA_BYTES = 512 * MIB;
const SHARED_BYTES = 64 * MIB;
/** Ticks of the processor's time in /proc/PID/stat, on all Linux that Node runs on. */
const TICKS_PER_S = 100;
const UUID = '0d0d0d0d-1111-4222-8333-000000000001';

function sources(): string {
  let folder = import.meta.dirname;
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder);
  return join(folder, 'test/guest-life');
}

/** The root disk of all such guests, to be copied; some minutes the first time. */
function guestRoot(): string {
  const script = join(sources(), 'build.sh');
  const kernel = dirname(guestKernel().image);
  const version = createHash('sha256').update(readFileSync(script)).update(kernel).digest('hex').slice(0, 12);
  const folder = `/var/tmp/afterimage-guest-life-${version}`;
  execFileSync('bash', [script, folder, kernel], { stdio: ['ignore', 'ignore', 'inherit'] });
  return join(folder, 'root.img');
}

/** On a disk of their own: neither unpacking nor replicating the root disk has to do with them. */
function makePackagesDisk(path: string, files: readonly string[]): void {
  const at = `${path}.files`;
  mkdirSync(at);
  for (const file of files) cpSync(file, join(at, basename(file)));
  const bytes = files.reduce((sum, file) => sum + statSync(file).size, 0);
  const options = ['-q', '-F', '-m', '0', '-O', '^has_journal', '-d', at];
  execFileSync('mkfs.ext4', [...options, path, `${Math.ceil((bytes * 1.1) / MIB) + 8}M`], { stdio: 'ignore' });
  rmSync(at, { recursive: true });
}

function sparse(path: string, bytes: number): void {
  writeFileSync(path, '');
  truncateSync(path, bytes);
}

export interface GuestDisks {
  readonly root: string;
  readonly data: string;
  readonly packages: string;
  /** By two paths, in guests that are booted so. */
  readonly shared: string;
}

const disksIn = (folder: string): GuestDisks => ({
  root: join(folder, 'root.img'),
  data: join(folder, 'data.img'),
  packages: join(folder, 'packages.img'),
  shared: join(folder, 'shared.img'),
});

/** One image behind two adapters, as a disk on a storage network is: both say the same WWN. */
function pathsArguments(image: string): string[] {
  const path = (n: number): string[] => [
    ...['-drive', `file=${image},if=none,id=p${n},format=raw,cache=none,aio=threads,file.locking=off`],
    ...['-device', `virtio-scsi-pci,id=adapter${n}`],
    ...['-device', `scsi-hd,bus=adapter${n}.0,drive=p${n},serial=SHARED-1,wwn=0x5000c500a1b2c3d4,share-rw=on`],
  ];
  return [...path(0), ...path(1)];
}

export class SourceGuest {
  readonly disks: GuestDisks;
  readonly #folder: string;
  #guest: Guest | null = null;
  #serial = 0;
  /** What stood on the console of the run before this one. */
  #consoleBefore = '';
  #withPaths = false;

  private constructor(folder: string) {
    this.#folder = folder;
    this.disks = disksIn(folder);
  }

  /** New images. */
  static make(folder: string, packages: readonly string[]): SourceGuest {
    const guest = new SourceGuest(folder);
    execFileSync('cp', ['--sparse=always', guestRoot(), guest.disks.root]);
    makePackagesDisk(guest.disks.packages, packages);
    sparse(guest.disks.data, DATA_BYTES);
    sparse(guest.disks.shared, SHARED_BYTES);
    return guest;
  }

  /** Images that are there already. */
  static in(folder: string): SourceGuest {
    return new SourceGuest(folder);
  }

  get #socket(): string {
    return join(this.#folder, 'qga');
  }

  get #running(): Guest {
    if (this.#guest?.isRunning !== true) throw new Error('the guest does not run');
    return this.#guest;
  }

  /** Of QEMU, since it was started: tells what a busy host hides. */
  processorSeconds(): number {
    const stat = readFileSync(`/proc/${this.#running.pid}/stat`, 'latin1');
    // Behind the name, which may hold spaces: the state is field 3, user and system time are 14 and 15.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_S;
  }

  /** Seconds until it was up. */
  async boot({ withPaths = false } = {}): Promise<number> {
    const startMs = performance.now();
    this.#withPaths = withPaths;
    this.#consoleBefore = this.#guest?.serial() ?? '';
    this.#guest = await bootGuest({
      kind: 'plain',
      bus: 'virtio',
      disk: [this.disks.root, this.disks.data, this.disks.packages],
      serialPath: join(this.#folder, `serial-${this.#serial++}`),
      serial: 'life',
      uuid: UUID,
      memoryMib: 1024,
      // A second one spends its time waiting for the first, which a busy host doesn't run at that moment.
      cpus: 1,
      extraArguments: [
        '-no-reboot',
        ...['-netdev', 'user,id=n1,net=10.0.3.0/24'],
        ...['-device', 'virtio-net-pci,netdev=n1,mac=52:54:00:00:00:99,romfile='],
        ...['-device', 'virtio-serial-pci', '-chardev', `socket,path=${this.#socket},server=on,wait=off,id=ga0`],
        ...['-device', 'virtserialport,chardev=ga0,name=org.qemu.guest_agent.0'],
        ...(withPaths ? pathsArguments(this.disks.shared) : []),
      ],
    });
    await this.#untilUp();
    return (performance.now() - startMs) / 1000;
  }

  async #untilUp(): Promise<void> {
    const endMs = performance.now() + BOOT_LIMIT_MS;
    while (!this.#running.serial().includes('READY boot=')) {
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

  /**
   * `systemctl reboot`, until it is up again. QEMU ends and is started anew: an emulator that goes on compares each write to memory with what it had
   * translated before, and the kernel takes minutes instead of seconds to begin.
   */
  async reboot(): Promise<void> {
    await this.#shutDown('reboot');
    await this.boot({ withPaths: this.#withPaths });
  }

  powerOff(): Promise<void> {
    return this.#shutDown('poweroff');
  }

  async #shutDown(how: 'reboot' | 'poweroff'): Promise<void> {
    const { ended } = this.#running;
    await begin(this.#socket, `systemctl ${how}`);
    const late = sleep(BOOT_LIMIT_MS, 'late', { ref: false });
    if ((await Promise.race([ended, late])) === 'late') throw new Error(`the guest does not end: ${how}`);
  }

  /** As when the plug is pulled: what QEMU has not been told to keep is gone with its process. */
  async cutPower(): Promise<void> {
    await this.#running.kill();
  }

  /** What stands on its console, and what stood there before it was started last. */
  console(): string {
    return this.#consoleBefore + (this.#guest?.serial() ?? '');
  }

  async end(): Promise<void> {
    if (this.#guest?.isRunning === true) await this.#guest.kill();
  }
}
