/**
 * Facts of the kernel and of this process's powers. Reads; the tracking probe makes kernel objects that end with it.
 */
import { existsSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import type { AgentConfig } from '../../config.js';
import { KERNEL_BTF_PATH } from '../../tracker/ebpf/btf.js';
import { isOnBpffs } from '../../tracker/ebpf/mounts.js';
import { bestMode, probeTracking } from '../../tracker/ebpf/probe.js';
import type { KernelFacts, PrivilegeFacts } from '../facts.js';
import { problemOf } from './problem.js';

const LOCKDOWN_PATH = '/sys/kernel/security/lockdown';
/** A kernel that doesn't tell is one from before 5.8 at most. */
const LAST_CAPABILITY_UNKNOWN = 37;

function textOf(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return null;
  }
}

/** `none [integrity] confidentiality`: the one in brackets is in force. */
export const lockdownOf = (text: string | null): string | null => /\[(\w+)\]/.exec(text ?? '')?.[1] ?? null;

export function kernelFacts({ tracker: { prefer, mode, pinDir } }: AgentConfig): KernelFacts {
  return {
    release: release(),
    arch: process.arch,
    hasBtf: existsSync(KERNEL_BTF_PATH),
    lockdown: lockdownOf(textOf(LOCKDOWN_PATH)),
    bpffs: isOnBpffs(pinDir) ? 'mounted' : 'missing',
    pinDirectory: pinDir,
    prefer,
    tracking: prefer === 'scan' ? { mode: null, problem: null } : tracking(mode === 'auto' ? bestMode() : mode),
  };
}

function tracking(mode: 'btf' | 'tracepoint'): KernelFacts['tracking'] {
  try {
    probeTracking(mode);
    return { mode, problem: null };
  } catch (error) {
    return { mode, problem: problemOf(error) };
  }
}

export function privilegeFacts(procRoot = '/proc'): PrivilegeFacts {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(textOf(`${procRoot}/self/status`) ?? '')?.[1] ?? '0';
  return {
    uid: process.geteuid?.() ?? -1,
    capabilities: BigInt(`0x${effective}`),
    lastCapability: Number(textOf(`${procRoot}/sys/kernel/cap_last_cap`) ?? LAST_CAPABILITY_UNKNOWN),
  };
}
