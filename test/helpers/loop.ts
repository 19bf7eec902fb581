/** Loop devices for tests that run as root; detached when the test file ends. */
import { execFileSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync } from 'node:fs';
import { afterAll } from 'vitest';

const attached: string[] = [];

export function loopDevice(backing: string, sizeBytes: number): string {
  const fd = openSync(backing, 'a');
  ftruncateSync(fd, sizeBytes);
  closeSync(fd);
  const device = execFileSync('losetup', ['-f', '--show', backing], { encoding: 'utf8' }).trim();
  attached.push(device);
  return device;
}

export function detachLoops(): void {
  afterAll(() => {
    for (const device of attached.splice(0)) execFileSync('losetup', ['-d', device]);
  });
}

export const isRoot = process.getuid?.() === 0;
