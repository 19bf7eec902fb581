/**
 * What stands in the way of a guest on this host, each with what to do. Facts are gathered apart; the judgement is pure.
 */
import { once } from 'node:events';
import { access, constants, readFile } from 'node:fs/promises';
import { createServer, isIPv4 } from 'node:net';
import { join } from 'node:path';
import { errnoOf } from '../../../shared/errors.js';
import { SOCKET_PATH_BYTES_MAX } from '../../../shared/limits.js';
import { formatBytes } from '../../../shared/units.js';
import { servedForwards, type Forward, type GuestShape } from './guest-shape.js';
import type { LaunchSpec } from './provider.js';
import { guestFiles, type HostFacts } from './qemu-arguments.js';

export const QEMU_PROGRAM = 'qemu-system-x86_64';
const KIB = 1024;
const DISKS_MAX = { virtio: 24, nvme: 24, scsi: 255, ide: 4 } as const;
/** The PC has 32 slots; its own devices, the rng and the SCSI controller take some. */
const SLOTS_MAX = 26;

const isReadable = (path: string): Promise<boolean> =>
  access(path, constants.R_OK).then(
    () => true,
    () => false, // whatever the reason: QEMU couldn't read it either
  );

async function firstReadable(paths: readonly string[]): Promise<string | null> {
  for (const path of paths) if (await isReadable(path)) return path;
  return null;
}

/** Debian's OVMF (4 MiB variant first, the current one), Fedora's and others'. */
const OVMF = [
  ['/usr/share/OVMF/OVMF_CODE_4M.fd', '/usr/share/OVMF/OVMF_VARS_4M.fd'],
  ['/usr/share/OVMF/OVMF_CODE.fd', '/usr/share/OVMF/OVMF_VARS.fd'],
  ['/usr/share/edk2/ovmf/OVMF_CODE.fd', '/usr/share/edk2/ovmf/OVMF_VARS.fd'],
  ['/usr/share/edk2/x64/OVMF_CODE.4m.fd', '/usr/share/edk2/x64/OVMF_VARS.4m.fd'],
] as const;

export async function findOvmf(): Promise<HostFacts['ovmf']> {
  for (const [code, vars] of OVMF) if ((await isReadable(code)) && (await isReadable(vars))) return { code, vars };
  return null;
}

export const findBridgeHelper = (): Promise<string | null> =>
  firstReadable(['/usr/lib/qemu/qemu-bridge-helper', '/usr/libexec/qemu-bridge-helper']);

export interface LaunchFacts {
  readonly programFound: boolean;
  readonly ovmfFound: boolean;
  readonly bridgeHelperFound: boolean;
  readonly memoryAvailableBytes: number;
  /** Text of /etc/qemu/bridge.conf; null when there is none. */
  readonly bridgeConf: string | null;
  readonly bridges: ReadonlySet<string>;
  readonly taps: ReadonlySet<string>;
  /** Forwards whose host port can't be had, with the reason. */
  readonly portProblems: ReadonlyMap<Forward, string>;
  readonly unreadableFiles: readonly string[];
  /** Null when acceleration is fine; else why it isn't. */
  readonly accelerationProblem: string | null;
}

function* networkProblems(shape: GuestShape, facts: LaunchFacts): Generator<string> {
  for (const { network } of shape.nics) {
    if (network.type === 'tap' && !facts.taps.has(network.tap)) {
      yield `there is no tap device ${network.tap} on this host: create it (ip tuntap add ${network.tap} mode tap), or choose another network in the launch settings`;
    }
    if (network.type !== 'bridge') continue;
    const { bridge } = network;
    if (!facts.bridges.has(bridge)) {
      yield `there is no bridge ${bridge} on this host: create it (ip link add ${bridge} type bridge), or choose another network in the launch settings`;
    } else if (!facts.bridgeHelperFound) {
      yield `qemu-bridge-helper is not installed: install QEMU's package that has it, or use a tap device instead of bridge ${bridge}`;
    } else if (
      !new RegExp(`^\\s*allow\\s+(all|${bridge.replaceAll('.', '\\.')})\\s*$`, 'm').test(facts.bridgeConf ?? '')
    ) {
      yield `QEMU may not use bridge ${bridge}: add the line "allow ${bridge}" to /etc/qemu/bridge.conf`;
    }
  }
  for (const forward of servedForwards(shape.nics)) {
    if (!isIPv4(forward.host)) {
      yield `a port can be forwarded from an IPv4 address only, not from ${forward.host}: change \`forwards\` in the launch settings`;
    }
    const problem = facts.portProblems.get(forward);
    if (problem !== undefined) {
      yield `port ${forward.hostPort} of ${forward.host} can't be used (${problem}): end what uses it, or change \`forwards\` in the launch settings (a test has its own \`testHostPort\`)`;
    }
  }
}

function* diskProblems(spec: LaunchSpec, shape: GuestShape): Generator<string> {
  if (spec.disks.length === 0) yield 'the machine has no disks at this point: choose another point';
  for (const name of spec.settings.disks ?? []) {
    if (!spec.disks.some(({ disk }) => disk === name)) {
      yield `the launch settings name disk ${name}, which this point doesn't have: correct \`disks\` there`;
    }
  }
  const max = DISKS_MAX[shape.bus];
  if (shape.disks.length > max) {
    yield `${shape.disks.length} disks are too many for ${shape.bus} (${max}): set \`diskBus\` to scsi in the launch settings`;
  }
  const slots = shape.nics.length + (shape.bus === 'virtio' || shape.bus === 'nvme' ? shape.disks.length : 0);
  if (slots > SLOTS_MAX) {
    yield `${slots} disks and network cards don't fit into ${SLOTS_MAX} slots: set \`diskBus\` to scsi in the launch settings`;
  }
}

export function launchProblems(spec: LaunchSpec, shape: GuestShape, facts: LaunchFacts): string[] {
  const problems: string[] = [];
  if (!facts.programFound) problems.push(`${QEMU_PROGRAM} is not installed: install it (Debian: qemu-system-x86)`);
  if (facts.accelerationProblem !== null) problems.push(facts.accelerationProblem);
  if (shape.firmware === 'uefi' && !facts.ovmfFound) {
    problems.push('the machine starts with UEFI, and OVMF is not installed: install it (Debian: ovmf)');
  }
  if (shape.memoryBytes > facts.memoryAvailableBytes) {
    problems.push(
      `the guest needs ${formatBytes(shape.memoryBytes)} of memory, this host has ${formatBytes(facts.memoryAvailableBytes)} left: ` +
        'end something, or set `memoryBytes` in the launch settings',
    );
  }
  for (const file of facts.unreadableFiles) {
    problems.push(`${file}, which the launch settings name, can't be read: put it there, or change \`kernel\``);
  }
  const socket = guestFiles(spec.folder).events;
  if (Buffer.byteLength(socket) > SOCKET_PATH_BYTES_MAX) {
    problems.push(
      `${socket} is too long for a socket (${SOCKET_PATH_BYTES_MAX} bytes): give the receiver a shorter stateDir`,
    );
  }
  problems.push(...diskProblems(spec, shape), ...networkProblems(shape, facts));
  return problems;
}

const isSamePort = (a: Forward, b: Forward): boolean => a.host === b.host && a.hostPort === b.hostPort;

async function portProblem({ host, hostPort }: Forward): Promise<string | null> {
  const server = createServer();
  try {
    server.listen({ host, port: hostPort, exclusive: true });
    await once(server, 'listening');
    return null;
  } catch (error) {
    return errnoOf(error) ?? String(error);
  } finally {
    server.close();
  }
}

async function memoryAvailableBytes(): Promise<number> {
  const match = /^MemAvailable:\s+(\d+) kB$/m.exec(await readFile('/proc/meminfo', 'utf8'));
  return match === null ? Infinity : Number(match[1]) * KIB;
}

export async function gatherFacts(
  spec: LaunchSpec,
  shape: GuestShape,
  host: {
    readonly program: string;
    readonly path: string;
    readonly ovmfFound: boolean;
    readonly accelerationProblem: string | null;
  },
  /** A guest that will have ended: its ports and memory are free then. */
  leaving: GuestShape | null,
): Promise<LaunchFacts> {
  const candidates = host.program.includes('/')
    ? [host.program]
    : host.path.split(':').map((folder) => join(folder, host.program));
  const [bridges, taps] = [new Set<string>(), new Set<string>()];
  for (const { network } of shape.nics) {
    if (network.type === 'bridge' && (await isReadable(`/sys/class/net/${network.bridge}/bridge`)))
      bridges.add(network.bridge);
    if (network.type === 'tap' && (await isReadable(`/sys/class/net/${network.tap}/tun_flags`))) taps.add(network.tap);
  }
  const portProblems = new Map<Forward, string>();
  for (const forward of servedForwards(shape.nics)) {
    const isFreed = leaving !== null && servedForwards(leaving.nics).some((f) => isSamePort(f, forward));
    const problem = isIPv4(forward.host) && !isFreed ? await portProblem(forward) : null;
    if (problem !== null) portProblems.set(forward, problem);
  }
  const unreadableFiles: string[] = [];
  const { kernel } = spec.settings;
  for (const file of [kernel?.image, kernel?.initrd]) {
    if (file !== undefined && !(await isReadable(file))) unreadableFiles.push(file);
  }
  return {
    programFound: (await firstReadable(candidates)) !== null,
    ovmfFound: host.ovmfFound,
    bridgeHelperFound: (await findBridgeHelper()) !== null,
    memoryAvailableBytes: (await memoryAvailableBytes()) + (leaving?.memoryBytes ?? 0),
    bridgeConf: await readFile('/etc/qemu/bridge.conf', 'utf8').catch(() => null), // absent or unreadable: nothing is allowed
    bridges,
    taps,
    portProblems,
    unreadableFiles,
    accelerationProblem: host.accelerationProblem,
  };
}
