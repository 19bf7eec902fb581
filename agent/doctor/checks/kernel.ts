/**
 * Can this kernel follow writes, and may we ask it to? Pure.
 */
import { fail, ok, warn, type Check } from '../check.js';
import type { KernelFacts, PrivilegeFacts } from '../facts.js';

type Version = readonly [major: number, minor: number];

/** Atomic operations of BPF programs on x86, and on ARM, where they came later. */
const OLDEST: Readonly<Record<string, Version>> = { x64: [5, 12], arm64: [5, 18] };
/** Pinned links to perf events, on which classic tracepoints stand. */
const OLDEST_WITHOUT_BTF: Version = [5, 15];

const SCAN_TODO =
  'Use a newer kernel. Without change tracking a disk is read from end to end for each point, and a point is made only when nothing wrote meanwhile.';

export function versionOf(release: string): Version | null {
  const match = /^(\d+)\.(\d+)/.exec(release);
  return match === null ? null : [Number(match[1]), Number(match[2])];
}

const isOlder = ([major, minor]: Version, than: Version): boolean =>
  major < than[0] || (major === than[0] && minor < than[1]);

export function kernelCheck({ release, arch, hasBtf, prefer }: KernelFacts): Check {
  const name = 'kernel';
  if (prefer === 'scan') return ok(name, `${release}; the configuration asks for no change tracking (tracker: scan)`);
  const oldest = OLDEST[arch];
  if (oldest === undefined) {
    return fail(
      name,
      `${release}: no change tracking on processor architecture ${arch}`,
      'Change tracking needs x86-64 or arm64; set `tracker: { prefer: scan }` to do without.',
    );
  }
  const version = versionOf(release);
  if (version === null) return warn(name, `${release}: a version that is not understood`, 'See the check `tracking`.');
  if (isOlder(version, oldest))
    return fail(name, `${release} is older than ${oldest.join('.')}, with which change tracking begins`, SCAN_TODO);
  if (!hasBtf && isOlder(version, OLDEST_WITHOUT_BTF)) {
    return fail(name, `${release} without BTF is older than ${OLDEST_WITHOUT_BTF.join('.')}`, SCAN_TODO);
  }
  return ok(name, release);
}

export function btfCheck({ hasBtf, prefer, lockdown }: KernelFacts): Check {
  const name = 'btf';
  if (hasBtf) return ok(name, 'the kernel describes its types (/sys/kernel/btf/vmlinux)');
  if (prefer === 'scan') return ok(name, 'not needed without change tracking');
  if (lockdown === 'confidentiality') {
    return fail(
      name,
      'the kernel has no BTF, and is locked down for confidentiality',
      'Boot with lockdown=integrity, or a kernel with CONFIG_DEBUG_INFO_BTF.',
    );
  }
  return warn(
    name,
    'the kernel has no BTF: classic tracepoints are used, which may skip events under other tracing',
    'A kernel with CONFIG_DEBUG_INFO_BTF (all of today’s distributions) tracks more exactly.',
  );
}

export function trackingCheck({ tracking: { mode, problem }, prefer }: KernelFacts): Check {
  const name = 'tracking';
  if (prefer === 'scan') return ok(name, 'off by configuration');
  if (problem !== null) return fail(name, problem.message, problem.hint ?? SCAN_TODO);
  return ok(name, `the programs load and attach (${mode ?? 'unknown'})`);
}

export function bpffsCheck({ bpffs, pinDirectory, prefer }: KernelFacts): Check {
  const name = 'bpf filesystem';
  if (bpffs === 'mounted') return ok(name, `marks outlive the agent in ${pinDirectory}`);
  if (prefer === 'scan') return ok(name, 'not needed without change tracking');
  return fail(name, `no BPF filesystem at ${pinDirectory}`, 'mount -t bpf bpf /sys/fs/bpf (systemd does it at boot).');
}

/** What the work needs, by the kernel's numbers; see also systemd/afterimage-agent.service. */
const NEEDED: readonly (readonly [number: number, name: string])[] = [
  [2, 'CAP_DAC_READ_SEARCH'],
  [14, 'CAP_IPC_LOCK'],
  [21, 'CAP_SYS_ADMIN'],
  [38, 'CAP_PERFMON'],
  [39, 'CAP_BPF'],
];

export function privilegeCheck({ uid, capabilities, lastCapability }: PrivilegeFacts): Check {
  const name = 'privileges';
  // Before Linux 5.8 SYS_ADMIN stands for the newer two.
  const missing = NEEDED.filter(
    ([number]) => number <= lastCapability && ((capabilities >> BigInt(number)) & 1n) === 0n,
  );
  if (uid === 0 && missing.length === 0) return ok(name, 'root, with all that is needed');
  const lacking = missing.map(([, capability]) => capability).join(', ');
  return fail(
    name,
    [uid === 0 ? 'root' : `user ${uid} is not root`, ...(lacking === '' ? [] : [`without ${lacking}`])].join(', '),
    'Run `afterimage-agent doctor` as root; in a container, these powers have to be given to it.',
  );
}
