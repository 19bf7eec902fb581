/**
 * The life of a protected machine from installation to removal, each chapter proven: what the agent says of it, and points restored and compared. The
 * data disk (LVM: ext4 and XFS) is compared byte for byte, the root disk by the files that a point must hold. Chapters throw when something isn't as promised.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Check } from '../../agent/doctor/check.js';
import type { CycleResult } from '../../agent/cycle/machine-cycle.js';
import type { AgentSnapshot, DiskSnapshot } from '../../agent/status.js';
import { MIB, formatBytes } from '../../shared/units.js';
import { NAME, Site } from './site.js';
import { SourceGuest } from './source-guest.js';

const HOST = '10.0.3.2';
const PROTECTED_LIMIT_MS = 1_800_000;
const POLL_MS = 2_000;
/** More than is written between two chapters, much less than a disk holds. */
const SENT_BYTES_MAX = 64 * MIB;
const DATA = '/dev/vdb';
const ROOT = '/dev/vda';
const PACKAGES = '/dev/vdc';
const MOUNTS = 'mount /srv/data && mount /srv/more';
const CONFIG = '/etc/afterimage/agent.yaml';
/** The agent looks for other paths before each point, and at what rules take every few seconds; with time for emulation. */
const NOTICED_LIMIT_MS = 180_000;
const SHARED_NUMBER = 'naa.5000c500a1b2c3d4';
/** As `curl` would; starting a program of ours takes seconds of a processor under emulation. */
const STATUS = String.raw`bash -c 'exec 3<>/dev/tcp/127.0.0.1/7445 && printf "GET /status HTTP/1.0\r\n\r\n" >&3 && cat <&3'`;

export interface LifeOptions {
  /** For images, store, logs; on a filesystem that knows O_DIRECT. */
  readonly folder: string;
  /** Packages of two versions, the older first. */
  readonly packages: readonly [string, string];
  /** Protect the root disk, too. */
  readonly withRoot: boolean;
  readonly say: (text: string) => void;
}

type DiskWord = 'goes-on' | 'compared';

export class Life {
  readonly #options: LifeOptions;
  readonly #guest: SourceGuest;
  readonly #site: Site;

  private constructor(options: LifeOptions, guest: SourceGuest, site: Site) {
    this.#options = options;
    this.#guest = guest;
    this.#site = site;
  }

  /** With a new machine. */
  static async begin(options: LifeOptions): Promise<Life> {
    return Life.#start(options, SourceGuest.make(options.folder, options.packages), false);
  }

  /** With the machine that another run left in the folder, as after a power cut. */
  static async goOn(options: LifeOptions): Promise<Life> {
    return Life.#start(options, SourceGuest.in(options.folder), true);
  }

  static async #start(options: LifeOptions, guest: SourceGuest, withPaths: boolean): Promise<Life> {
    const site = await Site.start(options.folder);
    const life = new Life(options, guest, site);
    try {
      const seconds = Math.round(await guest.boot({ withPaths }));
      life.#say(`a Debian machine with systemd and LVM is up (${seconds} s)`);
    } catch (error) {
      await life.end();
      throw error;
    }
    return life;
  }

  async end(): Promise<void> {
    await this.#guest.end();
    await this.#site.end();
  }

  // ---------------------------------------------------------------- chapters

  async install(): Promise<void> {
    await this.#guest.run(
      [
        'set -e',
        `pvcreate -q ${DATA}; vgcreate -q data ${DATA}; lvcreate -q -y -n files -L 120M data; lvcreate -q -y -n more -L 320M data`,
        'mkfs.ext4 -q /dev/data/files; mkfs.xfs -q /dev/data/more',
        "echo '/dev/data/files /srv/data ext4 defaults 0 2' >>/etc/fstab; echo '/dev/data/more /srv/more xfs defaults 0 2' >>/etc/fstab",
        `systemctl daemon-reload; ${MOUNTS}`,
      ].join('\n'),
    );
    const out = await this.#dpkg(0);
    expectThat(out.includes('nothing is protected yet'), `dpkg said: ${out}`);
    const enabled = await this.#guest.try('systemctl is-enabled afterimage-agent afterimage-arm afterimage-close');
    expectThat(!/^enabled/m.test(enabled.stdout), `installing enabled something: ${enabled.stdout}`);
    this.#say('the package is installed; nothing is enabled');
  }

  async protect(): Promise<void> {
    const token = await this.#site.token(HOST);
    await this.#guest.run(`afterimage-agent enroll ${token} --name ${NAME}`);
    const disks = this.#options.withRoot ? `${DATA} ${ROOT}` : DATA;
    await this.#guest.run(`afterimage-agent protect ${disks}`);
    await this.#write();
    // Under emulation all takes longer than limits that are meant for a machine.
    await this.#guest.run(
      `mkdir -p /etc/afterimage; printf 'freeze: { deadline: 10s }\\napplicationPoints: { deadline: 10min }\\nhooks: { timeout: 2min }\\n' >${CONFIG}`,
    );
    await this.#guest.run('systemctl enable --now afterimage-agent 2>&1');
    await this.#untilProtected();
    await this.#doctor();
    await this.#prove('first copy');
  }

  /** Hooks can do what an operator can, though the agent can't; and they are undone when it is killed amid them. */
  async applicationPoint(): Promise<void> {
    const hook = [
      '#!/bin/sh',
      'echo "$1" >/srv/data/state',
      // The agent may neither write there nor see it.
      'echo "$1 in $(cat /proc/self/cgroup)" >>/root/hook-calls',
      '[ ! -e /root/slow ] || [ "$1" != pre ] || sleep 60',
    ].join('\n');
    await this.#guest.run(
      `mkdir -p /etc/afterimage/hooks.d; printf '%s\\n' '${hook}' >/etc/afterimage/hooks.d/10-app; chmod 755 /etc/afterimage/hooks.d/10-app`,
    );
    const made = JSON.parse(await this.#guest.run('afterimage-agent point --label guest --json')) as CycleResult;
    expectThat(made.cut.consistency === 'application', `the point is weaker: ${made.cut.weaker}`);
    const calls = await this.#guest.run('cat /root/hook-calls');
    expectThat(/^pre in [^]*^post in /m.test(calls), `the hook was called otherwise: ${calls}`);
    expectThat(
      /run-\S+\.service/.test(calls) && !calls.includes('afterimage-agent'),
      `it ran in the sandbox: ${calls}`,
    );
    this.#say(
      `application-consistent point ${made.point}, frozen for ${made.cut.freezeMs.toFixed(0)} ms, hooks outside the sandbox`,
    );

    await this.#guest.run('touch /root/slow; rm /root/hook-calls');
    await this.#guest.run(
      '(afterimage-agent point >/dev/null 2>&1 &) ; until grep -q pre /root/hook-calls; do sleep 1; done',
    );
    await this.#guest.run('systemctl kill --signal=SIGKILL afterimage-agent');
    await this.#guest.run('timeout 120 sh -c "until grep -q ^abort /root/hook-calls; do sleep 1; done"');
    await this.#guest.run('rm -f /root/slow; test "$(cat /srv/data/state)" = abort');
    const left = await this.#guest.try('pgrep -f "[s]leep 60"');
    expectThat(left.code !== 0, 'the hook that was under way goes on');
    await this.#untilProtected();
    await this.#guest.run('rm /etc/afterimage/hooks.d/10-app');
    this.#say('the agent was killed amid a hook: it was undone by the service that runs hooks');
  }

  async cleanReboot(): Promise<void> {
    const before = await this.#disk(DATA);
    await this.#write();
    await this.#guest.reboot();
    await this.#afterBoot('clean reboot', before, 'goes-on');
    if (this.#options.withRoot) this.#compared(await this.#disk(ROOT), /mounted on \//);
    await this.#prove('clean reboot');
  }

  /** Off and on again: as a reboot, if it isn't for long. Comes back with one disk more, behind two paths. */
  async cleanPowerOff(): Promise<void> {
    const before = await this.#disk(DATA);
    await this.#write();
    await this.#guest.powerOff();
    await this.#guest.boot({ withPaths: true });
    await this.#afterBoot('power off and on', before, 'goes-on');
    await this.#prove('power off and on');
  }

  async powerCut(): Promise<void> {
    const before = await this.#disk(DATA);
    await this.#write();
    await this.#guest.cutPower();
    await this.#guest.boot();
    await this.#afterBoot('power cut', before, 'compared', /not shut down cleanly/);
    await this.#prove('power cut');
  }

  /** One disk behind two paths: refused while nothing joins them, protected once when multipath does, whichever is named, however I/O goes. */
  async multipath(): Promise<void> {
    const others = (await this.#untilProtected()).disks.length;
    const twins = new RegExp(`sd[ab] and sd[ab] carry the same number ${SHARED_NUMBER}`);
    await this.#refused('afterimage-agent protect /dev/sda', twins);
    await this.#guest.run(`cp ${CONFIG} /root/agent.yaml; echo 'disks: { include: [{ name: "sd*" }] }' >>${CONFIG}`);
    await this.#restart();
    const alone = await this.#untilProtected();
    expectThat(alone.disks.length === others, `a rule took a path: ${JSON.stringify(alone.disks)}`);
    const journal = await this.#guest.run('journalctl -b -u afterimage-agent -o cat');
    expectThat(twins.test(journal), `the rule is silent about the two paths:\n${journal.slice(-3000)}`);
    this.#say('two paths that nothing joins: refused by name, left alone by rule, the reason is said');

    await this.#guest.run(
      [
        'printf "defaults {\\n user_friendly_names yes\\n find_multipaths yes\\n}\\n" >/etc/multipath.conf',
        'modprobe dm-multipath; systemctl start multipathd',
        'timeout 120 sh -c "until test -e /dev/mapper/mpatha; do sleep 1; done"',
      ].join('; '),
    );
    const isShared = ({ id }: DiskSnapshot): boolean => id.startsWith('mpath-');
    const joined = await this.#until('the rule takes the joined paths', 2 * NOTICED_LIMIT_MS, ({ disks }) =>
      disks.some((disk) => isShared(disk) && disk.state === 'Protected'),
    );
    const shared = joined.disks.find(isShared);
    if (shared === undefined || joined.disks.length !== others + 1)
      throw new Error(`not protected once: ${JSON.stringify(joined.disks)}`);
    // A rule may look at a path in the moment in which it is joined, and is refused; from then on it knows better.
    const refusals = 'journalctl -b -u afterimage-agent -o cat | grep -c "protected already"; true';
    const before = await this.#guest.run(refusals);
    await this.#guest.run('sleep 20');
    expectThat((await this.#guest.run(refusals)) === before, 'a rule goes on trying the second path');
    await this.#refused('afterimage-agent protect /dev/sdb', /protected already, as disk mpath-/);
    await this.#refused(`afterimage-agent unprotect ${shared.id}`, /would be protected again at once/);
    this.#say(`joined by multipath: protected once, by rule, as ${shared.device} (${shared.id})`);

    await this.#guest.run(
      [
        'set -e; mkfs.ext4 -q /dev/mapper/mpatha; mkdir -p /srv/shared; mount /dev/mapper/mpatha /srv/shared',
        'head -c 3000000 /dev/urandom >/srv/shared/first; sync',
        'echo offline >/sys/block/sda/device/state',
        'head -c 3000000 /dev/urandom >/srv/shared/second; sync; umount /srv/shared',
      ].join('\n'),
    );
    await this.#proveShared(shared);
    const now = (await this.#untilProtected()).disks.find(isShared);
    expectThat(now?.series === shared.series, `tracking did not go on: ${JSON.stringify(now)}`);
    this.#say('written over one path, then over the other: the point holds what the disk held, by tracking alone');

    await this.#guest.run(
      [
        `set -e; cp /root/agent.yaml ${CONFIG}; systemctl restart afterimage-agent; afterimage-agent unprotect ${shared.id}`,
        'echo running >/sys/block/sda/device/state',
        'systemctl stop multipathd.socket multipathd.service; dmsetup remove --retry mpatha; rm /etc/multipath.conf',
      ].join('\n'),
    );
  }

  /** A disk that is protected while it has one path gets another: from then on writes may go past the tracker. */
  async secondPath(): Promise<void> {
    const takeAway = 'echo 1 >/sys/block/sdb/device/delete; udevadm settle';
    await this.#guest.run(`${takeAway}; afterimage-agent protect /dev/sda`);
    const followed = ({ disks }: AgentSnapshot): DiskSnapshot | undefined =>
      disks.find(({ id, state }) => id === SHARED_NUMBER && state === 'Protected');
    const first = await this.#until(
      'a single path is protected',
      NOTICED_LIMIT_MS,
      (now) => followed(now) !== undefined,
    );
    await this.#guest.run('for h in /sys/class/scsi_host/*/scan; do echo "- - -" >$h; done; udevadm settle');
    await this.#until('the second path is noticed', NOTICED_LIMIT_MS, (now) => followed(now) === undefined);
    await this.#guest.run(
      'head -c 1000000 /dev/urandom | dd of=/dev/sdb bs=64k oflag=direct iflag=fullblock conv=sync 2>&1',
    );
    const said = await this.#guest.run('journalctl -b -u afterimage-agent -o cat | grep "disk is not open"');
    expectThat(/carry the same number|lead\S* to the same bytes/.test(said), `what was said of it: ${said}`);
    await this.#guest.run(takeAway);
    const back = await this.#until('it is back', NOTICED_LIMIT_MS, (now) => followed(now) !== undefined);
    const [before, now] = [followed(first), followed(back)];
    if (now === undefined || now.series === before?.series || now.lastSweep?.kind !== 'comparison')
      throw new Error(`it was not compared: ${JSON.stringify(now)}`);
    await this.#proveShared(now);
    this.#say('a second path to a protected disk: its points stop with the reason; compared when that path is gone');
    await this.#guest.run(`afterimage-agent unprotect ${SHARED_NUMBER}`);
  }

  async upgrade(): Promise<void> {
    const before = await this.#disk(DATA);
    await this.#write();
    await this.#dpkg(1);
    // What is written while one agent ends and the next begins must be in the next point.
    await this.#write();
    const after = await this.#untilProtected();
    expectThat(after.program.endsWith('0.1.1'), `the agent that runs is ${after.program}`);
    const disk = diskOf(after, DATA);
    expectThat(
      disk.series === before.series && disk.lastSweep === null,
      `tracking did not go on: ${JSON.stringify(disk)}`,
    );
    this.#say(`upgraded to ${after.program} while it was written: the same series, nothing compared`);
    await this.#prove('upgrade');
  }

  async remove(): Promise<void> {
    await this.#guest.run('dpkg -r afterimage-agent 2>&1');
    const left = await this.#guest.try(
      'ls /sys/fs/bpf; ls /usr/lib/systemd/system /etc/systemd/system/*.wants | grep afterimage; command -v afterimage-agent',
    );
    expectThat(left.stdout.trim() === '', `removing left: ${left.stdout}`);
    await this.#guest.run('test -s /var/lib/afterimage-agent/identity.json');
    await this.#guest.run('dpkg -P afterimage-agent 2>&1');
    await this.#guest.run('test ! -e /var/lib/afterimage-agent');
    await this.#guest.run(MOUNTS.replaceAll('mount ', 'mountpoint -q '));
    this.#say('removed: no unit, no pin, the state stays; purged: the state is gone, too');
  }

  // ---------------------------------------------------------------- steps

  async #dpkg(which: 0 | 1): Promise<string> {
    const name = basename(this.#options.packages[which]);
    return this.#guest.run(
      `set -e; mkdir -p /media; mount -o ro ${PACKAGES} /media; dpkg -i /media/${name} 2>&1; umount /media`,
    );
  }

  /** Files on each filesystem, with their sums; on stable storage when this returns, in no point yet. */
  async #write(): Promise<void> {
    const folders = ['/srv/data', '/srv/more', '/root/files'];
    await this.#guest.run(
      `set -e; mkdir -p /root/files; for d in ${folders.join(' ')}; do
        touch $d/SUMS; n=file$(wc -l <$d/SUMS); head -c 1500000 /dev/urandom >$d/$n; (cd $d && sha256sum $n >>SUMS); done; sync`,
    );
  }

  /** Null while none answers. */
  async #status(): Promise<AgentSnapshot | null> {
    const { code, stdout } = await this.#guest.try(STATUS);
    const body = stdout.slice(stdout.indexOf('\r\n\r\n'));
    return code === 0 && body.trim() !== '' ? (JSON.parse(body) as AgentSnapshot) : null;
  }

  async #until(what: string, limitMs: number, holds: (status: AgentSnapshot) => boolean): Promise<AgentSnapshot> {
    const endMs = performance.now() + limitMs;
    for (;;) {
      const status = await this.#status();
      if (status !== null && holds(status)) return status;
      if (performance.now() > endMs) {
        const journal = await this.#guest.try('journalctl -b -u afterimage-agent -u afterimage-arm -o cat | tail -40');
        throw new Error(`not in time: ${what}: ${JSON.stringify(status)}\n${journal.stdout}`);
      }
      await sleep(POLL_MS);
    }
  }

  #untilProtected(): Promise<AgentSnapshot> {
    return this.#until(
      'protected',
      PROTECTED_LIMIT_MS,
      ({ receiver, state, lastPoint }) => receiver.connected && state === 'Protected' && lastPoint !== null,
    );
  }

  async #refused(command: string, reason: RegExp): Promise<void> {
    const { code, stdout, stderr } = await this.#guest.try(command);
    expectThat(code === 2 && reason.test(stderr), `${command}: exit code ${code}\n${stderr}${stdout}`);
  }

  #restart(): Promise<string> {
    return this.#guest.run('systemctl restart afterimage-agent');
  }

  #say(text: string): void {
    this.#options.say(`${text} [${this.#guest.processorSeconds().toFixed(0)} s of processor]`);
  }

  async #disk(device: string): Promise<DiskSnapshot> {
    return diskOf(await this.#untilProtected(), device);
  }

  async #doctor(): Promise<void> {
    const { stdout } = await this.#guest.try('afterimage-agent doctor --json');
    const { fine, checks } = JSON.parse(stdout) as { fine: boolean; checks: Check[] };
    expectThat(fine, `doctor: ${JSON.stringify(checks.filter(({ verdict }) => verdict === 'fail'))}`);
    const reboot = checks.find(({ name }) => name === 'reboot');
    expectThat(reboot?.verdict === 'ok', `doctor on reboots: ${JSON.stringify(reboot)}`);
    this.#say(`doctor: ${checks.length} checks, none fails`);
  }

  async #afterBoot(what: string, before: DiskSnapshot, word: DiskWord, reason?: RegExp): Promise<void> {
    const disk = await this.#disk(DATA);
    if (word === 'compared') {
      expectThat(disk.series !== before.series, 'the series goes on, over a boot of which nothing is known');
      this.#compared(disk, reason ?? /./);
      return;
    }
    if (disk.series !== before.series || disk.lastSweep !== null) {
      const journal = await this.#guest.try('journalctl -b -u afterimage-arm -o cat; dmesg | grep -i afterimage');
      throw new Error(
        `after ${what} it was compared: ${JSON.stringify(disk)}\n${journal.stdout}\n${this.#guest.console()}`,
      );
    }
    this.#say(`${what}: the data disk's series goes on, nothing is compared`);
  }

  #compared(disk: DiskSnapshot, reason: RegExp): void {
    const sweep = disk.lastSweep;
    expectThat(sweep?.kind === 'comparison', `${disk.device} was not compared: ${JSON.stringify(disk)}`);
    if (sweep === null) return;
    expectThat(reason.test(sweep.reason), `compared for another reason: ${sweep.reason}`);
    expectThat(sweep.readBytes >= disk.sizeBytes, `compared, but only ${sweep.readBytes} bytes were read`);
    expectThat(sweep.sentBytes < SENT_BYTES_MAX, `the comparison sent ${sweep.sentBytes} bytes that the receiver had`);
    const bytes = `${formatBytes(sweep.readBytes)} read, ${formatBytes(sweep.sentBytes)} sent`;
    this.#say(`${disk.device} was compared: ${bytes} (${sweep.reason})`);
  }

  /** A point of now, restored and compared. */
  async #prove(what: string): Promise<void> {
    await this.#write();
    // What lies on an unmounted disk stands still: it can be compared as a whole.
    await this.#guest.run('umount /srv/data /srv/more');
    const { point } = JSON.parse(await this.#guest.run('afterimage-agent sync-now --json')) as { point: number };
    const status = await this.#untilProtected();
    const restored = {
      data: join(this.#options.folder, 'restored-data'),
      root: join(this.#options.folder, 'restored-root'),
    };
    const to: Record<string, string> = { [diskOf(status, DATA).id]: restored.data };
    if (this.#options.withRoot) to[diskOf(status, ROOT).id] = restored.root;
    await this.#site.restore(point, to);
    execFileSync('cmp', [this.#guest.disks.data, restored.data]);
    await this.#guest.run(MOUNTS);
    await this.#guest.run('set -e; for d in /srv/data /srv/more; do (cd $d && sha256sum --quiet -c SUMS); done');
    if (this.#options.withRoot) this.#proveRoot(restored.root);
    this.#say(`${what}: point ${point} restored, it holds what the disks held`);
  }

  /** The disk behind two paths; it must not be in use. */
  async #proveShared({ id }: DiskSnapshot): Promise<void> {
    const { point } = JSON.parse(await this.#guest.run('afterimage-agent sync-now --json')) as { point: number };
    const restored = join(this.#options.folder, 'restored-shared');
    await this.#site.restore(point, { [id]: restored });
    execFileSync('cmp', [this.#guest.disks.shared, restored]);
  }

  /** The root is in use: its point is as after a power cut. Its files must be there, and its filesystem whole. */
  #proveRoot(image: string): void {
    const at = `${image}.mnt`;
    mkdirSync(at, { recursive: true });
    execFileSync('mount', ['-o', 'loop', image, at]);
    try {
      execFileSync('sha256sum', ['--quiet', '-c', 'SUMS'], {
        cwd: join(at, 'root/files'),
        stdio: ['ignore', 'ignore', 'pipe'],
      });
    } finally {
      execFileSync('umount', [at]);
    }
    execFileSync('e2fsck', ['-fn', image], { stdio: 'ignore' });
  }
}

function diskOf(status: AgentSnapshot, device: string): DiskSnapshot {
  const disk = status.disks.find((d) => d.device === device);
  if (disk === undefined) throw new Error(`no disk ${device} in ${JSON.stringify(status.disks)}`);
  return disk;
}

function expectThat(holds: boolean, otherwise: string): void {
  if (!holds) throw new Error(otherwise);
}
