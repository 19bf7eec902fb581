/**
 * KVM or TCG (emulation): what was asked for, else what the host can do. The decision is pure and says why; the probe only looks.
 */
import { constants } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { AfterimageError, messageOf } from '../../../shared/errors.js';
import { ioctl } from '../../../shared/native/libc.js';

export interface AccelerationProbe {
  /** Value of AFTERIMAGE_QEMU_ACCEL; undefined: `auto`. */
  readonly wanted: string | undefined;
  /** Whether the CPUs say that they can run guests: without it, KVM opens on some hosts but emulates instruction by instruction. */
  readonly cpuRunsGuests: boolean;
  /** Null when /dev/kvm works, else what stands in the way. */
  readonly kvmProblem: string | null;
}

export interface Acceleration {
  readonly kind: 'kvm' | 'tcg';
  readonly reason: string;
}

const KVM_GET_API_VERSION = 0xae00;
/** The only version that there has been since 2007; others must be refused. */
const KVM_API_VERSION = 12;

export function chooseAcceleration({ wanted = 'auto', cpuRunsGuests, kvmProblem }: AccelerationProbe): Acceleration {
  if (wanted === 'kvm' || wanted === 'tcg') return { kind: wanted, reason: `AFTERIMAGE_QEMU_ACCEL=${wanted}` };
  if (wanted !== 'auto') {
    throw new AfterimageError(`AFTERIMAGE_QEMU_ACCEL=${wanted} is unknown`, {
      code: 'unknown-acceleration',
      kind: 'usage',
      hint: 'It is kvm, tcg or auto.',
    });
  }
  if (!cpuRunsGuests) {
    return {
      kind: 'tcg',
      reason: 'the CPUs of this host offer no virtualisation (vmx, svm): guests are emulated, slowly',
    };
  }
  if (kvmProblem !== null)
    return { kind: 'tcg', reason: `KVM is not usable (${kvmProblem}): guests are emulated, slowly` };
  return { kind: 'kvm', reason: 'KVM works on this host' };
}

async function probeKvm(path: string): Promise<string | null> {
  let handle;
  try {
    handle = await open(path, constants.O_RDWR);
  } catch (error) {
    return messageOf(error);
  }
  try {
    const version = ioctl(handle.fd, KVM_GET_API_VERSION);
    return version === KVM_API_VERSION ? null : `${path} answers ${version} instead of version ${KVM_API_VERSION}`;
  } finally {
    await handle.close();
  }
}

export async function probeAcceleration(
  wanted: string | undefined,
  paths = { kvm: '/dev/kvm', cpuinfo: '/proc/cpuinfo' },
): Promise<AccelerationProbe> {
  const cpuinfo = await readFile(paths.cpuinfo, 'utf8');
  const cpuRunsGuests = /^flags\s*:.*\b(vmx|svm)\b/m.test(cpuinfo);
  return { wanted, cpuRunsGuests, kvmProblem: await probeKvm(paths.kvm) };
}
