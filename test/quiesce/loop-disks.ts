/**
 * Loop devices with filesystems for tests, as root. Everything is undone in the reverse order, and thawed before that.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freezeNow, thawNow } from '../../agent/quiesce/freeze-ioctl.js';

export const isRoot = process.getuid?.() === 0;
if (!isRoot) console.warn('tests with loop devices are skipped: they need root');

const run = (command: string, ...args: string[]): string => execFileSync(command, args, { encoding: 'utf8' }).trim();

/** Tenths of a second. */
const UNMOUNT_ATTEMPTS = 150;

/** A killed process holds the filesystem until it is wholly gone: one that flushes to a slow disk, seconds. */
function unmount(path: string): void {
  for (let attempt = 1; ; attempt++) {
    try {
      execFileSync('umount', [path], {
        stdio: ['ignore', 'ignore', attempt < UNMOUNT_ATTEMPTS ? 'ignore' : 'inherit'],
      });
      return;
    } catch (error) {
      if (attempt === UNMOUNT_ATTEMPTS) throw error;
      execFileSync('sleep', ['0.1']);
    }
  }
}

export class LoopDisks {
  readonly folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'afterimage-'));
  readonly #undo: (() => void)[] = [];
  readonly #mounts: number[] = [];
  #count = 0;

  /** A sparse image file. */
  image(sizeBytes: number, folder = this.folder): string {
    const path = join(folder, `image-${this.#count++}`);
    writeFileSync(path, '');
    truncateSync(path, sizeBytes);
    return path;
  }

  /** A loop device on the file. */
  attach(file: string, ...options: string[]): string {
    const device = run('losetup', '-f', '--show', ...options, file);
    this.#undo.push(() => run('losetup', '-d', device));
    return device;
  }

  format(device: string, fsType: 'ext4' | 'xfs'): void {
    if (fsType === 'ext4') run('mkfs.ext4', '-q', '-F', device);
    else run('mkfs.xfs', '-q', '-f', device);
  }

  /** Makes a filesystem on the device and mounts it; returns the mount point. */
  mount(
    device: string,
    fsType: 'ext4' | 'xfs',
    options = 'defaults',
    at = join(this.folder, `mount ${this.#count++}`),
  ): string {
    this.format(device, fsType);
    mkdirSync(at, { recursive: true });
    run('mount', '-o', options, device, at);
    const fd = openSync(at, 'r');
    this.#mounts.push(fd);
    this.#undo.push(() => {
      closeSync(fd);
      unmount(at);
    });
    return at;
  }

  bind(from: string, to: string): void {
    mkdirSync(to, { recursive: true });
    run('mount', '--bind', from, to);
    this.#undo.push(() => unmount(to));
  }

  undo(step: () => void): void {
    this.#undo.push(step);
  }

  cleanUp(): void {
    for (const fd of this.#mounts) thawNow(fd);
    for (const step of this.#undo.reverse()) {
      try {
        step();
      } catch (error) {
        console.warn(`clean-up: ${String(error)}`);
      }
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Finds out by freezing: who comes second is refused. */
export function isFrozen(mountPoint: string): boolean {
  const fd = openSync(mountPoint, 'r');
  try {
    if (freezeNow(fd) < 0) return true;
    thawNow(fd);
    return false;
  } finally {
    closeSync(fd);
  }
}

export async function until(what: string, condition: () => boolean, timeoutMs = 5000): Promise<number> {
  const startMs = performance.now();
  while (!condition()) {
    if (performance.now() - startMs > timeoutMs) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return performance.now() - startMs;
}
