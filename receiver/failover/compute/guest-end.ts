/**
 * How a guest ended, in words for people: from QEMU's exit and the last shutdown event that it told. Pure.
 */
export interface GuestExit {
  readonly exitCode: number | null;
  readonly signal: string | null;
  /** `reason` of QMP's SHUTDOWN; null when none was heard. */
  readonly shutdown: string | null;
  /** The last line that QEMU printed. */
  readonly lastWords: string;
}

export function describeGuestEnd({ exitCode, signal, shutdown, lastWords }: GuestExit): {
  poweredOff: boolean;
  detail: string;
} {
  if (signal !== null) return { poweredOff: false, detail: `ended by signal ${signal}` };
  if (exitCode !== 0) {
    const words = lastWords === '' ? '' : `: ${lastWords}`;
    return { poweredOff: false, detail: `ended: QEMU failed with exit code ${exitCode}${words}` };
  }
  switch (shutdown) {
    case 'guest-shutdown':
      return { poweredOff: true, detail: 'ended: powered off' };
    case 'guest-panic':
      return { poweredOff: false, detail: 'ended: the guest panicked' };
    case 'guest-reset':
      return { poweredOff: false, detail: 'ended: the guest reset itself, and is not to start again' };
    case 'host-qmp-quit':
    case 'host-signal':
      return { poweredOff: false, detail: `ended by the host (${shutdown})` };
    default:
      return {
        poweredOff: false,
        detail: `ended for an unknown reason (exit code ${exitCode}, ${shutdown ?? 'no event'})`,
      };
  }
}
