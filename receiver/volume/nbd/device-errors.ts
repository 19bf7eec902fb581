/**
 * Errors of devices: what the client is told, and what is logged: the first of a burst at once, the others as a number.
 */
import type { Clock } from '../../../shared/clock.js';
import { errnoOf, messageOf } from '../../../shared/errors.js';
import { NBD_ERROR_LOG_INTERVAL_MS } from '../../../shared/limits.js';
import type { Logger } from '../../../shared/log.js';
import { ERRNO, type Errno } from './protocol.js';

const CAUSES_MAX = 8;
/** Of the system, and of ours (`…-full`, `no-space`). */
const SAYS_FULL = /^(ENOSPC|EDQUOT|no-space|[a-z-]+-full)$/;

/** A guest stops at ENOSPC and can go on when there is room again; EIO makes it give its filesystem up. */
export function wireErrno(error: unknown): Errno {
  let current = error;
  for (let i = 0; i < CAUSES_MAX && current !== undefined; i++) {
    if (SAYS_FULL.test(errnoOf(current) ?? '')) return ERRNO.ENOSPC;
    current = current instanceof Error ? current.cause : undefined;
  }
  return ERRNO.EIO;
}

export class DeviceErrorLog {
  #loggedMs = -Infinity;
  #suppressed = 0;

  constructor(
    private readonly log: Logger,
    private readonly clock: Clock,
  ) {}

  note(error: unknown, exportName: string, command: number, offset: number, length: number): void {
    const nowMs = this.clock.monotonicMs();
    if (nowMs - this.#loggedMs < NBD_ERROR_LOG_INTERVAL_MS) {
      this.#suppressed++;
      return;
    }
    const suppressed = this.#suppressed;
    this.#suppressed = 0;
    this.#loggedMs = nowMs;
    this.log.error(
      { err: error, export: exportName, command, offset, length, suppressed },
      `a request to a volume failed: ${messageOf(error)}`,
    );
  }
}
