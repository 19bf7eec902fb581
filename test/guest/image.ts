/**
 * Bootable guest disks for tests: a Debian cloud kernel and busybox, made by build.sh (once, kept under /var/tmp by the version of these files)
 * and image.sh (a fraction of a second each). After a crash: an unfinished build is begun anew, its work folder remains until then.
 */
import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { MIB } from '../../shared/units.js';

/** `plain`: ext4 on the whole disk, booted with -kernel (the fastest); `bios`: MBR and SYSLINUX; `uefi`: GPT, the kernel as an EFI program. */
export type GuestKind = 'plain' | 'bios' | 'uefi';

export interface GuestKernel {
  /** Unpacked kernel for -kernel. */
  readonly image: string;
  /** Brings virtio-blk; NVMe is in the kernel. */
  readonly initrd: string;
}

export interface GuestImage {
  readonly kind: GuestKind;
  readonly path: string;
  readonly sizeBytes: number;
  readonly kernel: GuestKernel;
}

const run = promisify(execFile);
const TOOLS = 'qemu-system-x86_64 qemu-img busybox syslinux mcopy mkfs.vfat mkfs.ext4 objcopy sfdisk lz4 cpio'.split(
  ' ',
);
const FILES = [
  '/usr/share/OVMF/OVMF_CODE.fd',
  '/usr/lib/syslinux/mbr/mbr.bin',
  '/usr/lib/systemd/boot/efi/linuxx64.efi.stub',
];

/** This folder in the sources: the scripts are not part of the build. */
function sources(): string {
  let folder = import.meta.dirname;
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder);
  return join(folder, 'test/guest');
}

/** Why guests can't be made here, for `skip`; null when they can. */
export function guestUnavailable(): string | null {
  const path = (process.env['PATH'] ?? '').split(':').concat('/usr/sbin', '/sbin');
  const missing = TOOLS.filter((tool) => !path.some((folder) => existsSync(join(folder, tool))));
  missing.push(...FILES.filter((file) => !existsSync(file)));
  return missing.length === 0 ? null : `test guests need ${missing.join(', ')}: run test/setup/packages.sh as root`;
}

/** Changes with every file that a guest is made of. */
function version(folder: string): string {
  const hash = createHash('sha256');
  const add = (path: string): void => {
    if (statSync(path).isDirectory()) for (const name of readdirSync(path).sort()) add(join(path, name));
    else hash.update(path.slice(folder.length)).update(readFileSync(path));
  };
  for (const name of ['build.sh', 'image.sh', 'initramfs-init', 'root']) add(join(folder, name));
  return hash.digest('hex').slice(0, 12);
}

let built: string | null = null;
/** Builds what all guests share, unless it was; some 5 s the first time. */
function cache(): string {
  if (built !== null) return built;
  const folder = `/var/tmp/afterimage-guest-${process.getuid?.() ?? 0}-${version(sources())}`;
  execFileSync('bash', [join(sources(), 'build.sh'), folder], { stdio: ['ignore', 'ignore', 'inherit'] });
  return (built = folder);
}

export function guestKernel(): GuestKernel {
  const folder = cache();
  return { image: join(folder, 'vmlinux'), initrd: join(folder, 'initrd.img') };
}

/** Settings `kernel` of a launch (and -kernel, -initrd, -append) for a `plain` disk that is the first on its bus. */
export function plainKernel(bus: 'nvme' | 'virtio'): { image: string; initrd?: string; append: string } {
  const { image, initrd } = guestKernel();
  const device = bus === 'nvme' ? '/dev/nvme0n1' : '/dev/vda';
  const append = `console=ttyS0 root=${device} ro init=/init quiet panic=-1 mitigations=off`;
  return bus === 'nvme' ? { image, append } : { image, initrd, append };
}

export interface ImageOptions {
  readonly kind: GuestKind;
  /** The sparse file to be made; one that is there is replaced. */
  readonly path: string;
  /** Default 64 MiB; up to some TiB. */
  readonly sizeBytes?: number;
}

export async function guestImage({ kind, path, sizeBytes = 64 * MIB }: ImageOptions): Promise<GuestImage> {
  const kernel = guestKernel();
  await run('bash', [join(sources(), 'image.sh'), cache(), kind, String(sizeBytes), path]);
  return { kind, path, sizeBytes, kernel };
}
