/**
 * Which boot this is, and when it began. Reads /proc.
 */
import { readFileSync } from 'node:fs';
import { bootId } from '../open-disk.js';
import { corrupt } from '../../shared/errors.js';

export { bootId };

/** From the kernel's own count; whole seconds. */
export function bootedAtMs(procRoot = '/proc'): number {
  const seconds = /^btime (\d+)$/m.exec(readFileSync(`${procRoot}/stat`, 'utf8'))?.[1];
  if (seconds === undefined) throw corrupt('proc-stat', `${procRoot}/stat tells no time of boot`);
  return Number(seconds) * 1000;
}
