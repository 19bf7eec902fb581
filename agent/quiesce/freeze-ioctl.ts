/**
 * Freeze and thaw of one filesystem, the same code for the guard and for the agent. Numbers: include/uapi/linux/fs.h of Linux.
 */
import { ioctl } from '../../shared/native/libc.js';

const FIFREEZE = 0xc0045877;
const FITHAW = 0xc0045878;
const EINVAL = 22;

/** Blocks until no write is under way. 0, or -errno (EBUSY: frozen already, by somebody else). */
export const freezeNow = (fd: number): number => ioctl(fd, FIFREEZE);

export type ThawResult = 'thawed' | 'was-not-frozen' | 'failed';

/** EINVAL says that nobody holds it frozen: good for the applications, but then our freeze was not held until now. */
export function thawNow(fd: number): ThawResult {
  for (let attempt = 0; attempt < 3; attempt++) {
    const result = ioctl(fd, FITHAW);
    if (result >= 0) return 'thawed';
    if (result === -EINVAL) return 'was-not-frozen';
  }
  return 'failed';
}

/** Runs the same path through FFI and kernel on a descriptor that can't be frozen (a pipe or socket), so that its code is loaded. */
export const exerciseThaw = (fd: number): void => void ioctl(fd, FITHAW);
