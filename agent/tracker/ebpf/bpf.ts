/**
 * The bpf(2) commands and the perf events that the tracker needs. Every function is one system call; what it returns is a
 * file descriptor that the caller closes. Nothing is kept here, so nothing is left behind by a crash but what was pinned.
 */
import { AfterimageError } from '../../../shared/errors.js';
import { addressOf, check, syscall, SysError } from '../../../shared/native/libc.js';
import { INSTRUCTION_BYTES } from './asm.js';

interface SyscallNumbers {
  readonly bpf: number;
  readonly perfEventOpen: number;
  readonly mount: number;
}
const NUMBERS: Readonly<Record<string, SyscallNumbers>> = {
  x64: { bpf: 321, perfEventOpen: 298, mount: 165 },
  arm64: { bpf: 280, perfEventOpen: 241, mount: 40 },
};

function numbers(): SyscallNumbers {
  const found = NUMBERS[process.arch];
  if (found === undefined) {
    throw new AfterimageError(`no BPF change tracking on processor architecture ${process.arch}`, {
      code: 'tracker-unsupported',
      kind: 'unsupported',
      hint: 'use the scan tracker on this machine',
    });
  }
  return found;
}

const COMMAND = { mapCreate: 0, progLoad: 5, objPin: 6, objGet: 7, objInfo: 15, rawTracepointOpen: 17, linkCreate: 28 };
const ATTRIBUTES_BYTES = 144;
const OBJECT_NAME_BYTES = 16;
const MAP_TYPE_ARRAY = 2;
const MAP_FLAG_MMAPABLE = 1 << 10;
const ATTACH_TRACE_RAW_TP = 23;
const ATTACH_PERF_EVENT = 41;
const LOG_BYTES = 1 << 20;
const LOG_SHOWN_CHARACTERS = 2000;

export const PROGRAM_TYPE = { tracepoint: 5, tracing: 26 } as const;

type Field = readonly [offset: number, bytes: 4 | 8, value: number | bigint];

function attributes(fields: readonly Field[]): Buffer {
  const buffer = Buffer.alloc(ATTRIBUTES_BYTES);
  for (const [offset, bytes, value] of fields) {
    if (bytes === 8) buffer.writeBigUInt64LE(BigInt(value), offset);
    else buffer.writeUInt32LE(Number(value) >>> 0, offset);
  }
  return buffer;
}

function bpf(command: number, fields: readonly Field[]): number {
  const buffer = attributes(fields);
  return syscall(numbers().bpf, command, addressOf(buffer), ATTRIBUTES_BYTES);
}

const cString = (text: string): Buffer => Buffer.from(`${text}\0`);

function nameFields(name: string, offset: number): Field[] {
  const buffer = Buffer.alloc(OBJECT_NAME_BYTES);
  buffer.write(name.slice(0, OBJECT_NAME_BYTES - 1));
  return [
    [offset, 8, buffer.readBigUInt64LE(0)],
    [offset + 8, 8, buffer.readBigUInt64LE(8)],
  ];
}

/** Array map that user space can mmap. */
export function createArrayMap(name: string, entries: number, valueBytes: number): number {
  const fd = bpf(COMMAND.mapCreate, [
    [0, 4, MAP_TYPE_ARRAY],
    [4, 4, 4],
    [8, 4, valueBytes],
    [12, 4, entries],
    [16, 4, MAP_FLAG_MMAPABLE],
    ...nameFields(name, 28),
  ]);
  if (fd === -1) {
    throw new AfterimageError(`creating BPF map ${name}: not permitted`, {
      code: 'tracker-unsupported',
      kind: 'unsupported',
      hint: 'run the agent as root (CAP_BPF, CAP_PERFMON); on kernels before 5.11 also raise LimitMEMLOCK',
    });
  }
  return check(fd, `creating BPF map ${name} of ${entries} × ${valueBytes} bytes`);
}

export interface ProgramImage {
  readonly name: string;
  readonly code: Buffer;
  readonly type: number;
  /** BTF type of the tracepoint, for programs of type `tracing`. */
  readonly attachBtfId?: number;
}

/** Loads a program. Throws kind `unsupported` with the end of the verifier's log when the kernel refuses it. */
export function loadProgram(image: ProgramImage): number {
  const license = cString('GPL');
  const fields: Field[] = [
    [0, 4, image.type],
    [4, 4, image.code.length / INSTRUCTION_BYTES],
    [8, 8, addressOf(image.code)],
    [16, 8, addressOf(license)],
    ...nameFields(image.name, 48),
  ];
  if (image.attachBtfId !== undefined) fields.push([68, 4, ATTACH_TRACE_RAW_TP], [108, 4, image.attachBtfId]);
  const fd = bpf(COMMAND.progLoad, fields);
  if (fd >= 0) return fd;
  // Once more with a log: asking for it at once would make every good load slower.
  const log = Buffer.alloc(LOG_BYTES);
  const again = bpf(COMMAND.progLoad, [...fields, [24, 4, 1], [28, 4, LOG_BYTES], [32, 8, addressOf(log)]]);
  if (again >= 0) return again;
  const text = log.toString('latin1', 0, Math.max(0, log.indexOf(0)));
  throw new AfterimageError(
    `the kernel refused program ${image.name} (${new SysError('load', -again).errnoName}): ${text.slice(-LOG_SHOWN_CHARACTERS)}`,
    { code: 'tracker-unsupported', kind: 'unsupported', hint: 'Linux 5.12 or newer is needed (arm64: 5.18)' },
  );
}

export function pinObject(fd: number, path: string): void {
  const name = cString(path);
  check(
    bpf(COMMAND.objPin, [
      [0, 8, addressOf(name)],
      [8, 4, fd],
    ]),
    `pinning ${path}`,
  );
}

/** Descriptor of a pinned object; undefined when there is none. */
export function openPinned(path: string): number | undefined {
  const name = cString(path);
  const fd = bpf(COMMAND.objGet, [[0, 8, addressOf(name)]]);
  if (fd >= 0) return fd;
  const error = new SysError(`opening ${path}`, -fd);
  if (error.errnoName === 'ENOENT') return undefined;
  throw error;
}

/** Attaches a `tracing` program to the tracepoint it was loaded for; the link's descriptor. */
export const attachTracing = (programFd: number): number =>
  check(bpf(COMMAND.rawTracepointOpen, [[8, 4, programFd]]), 'attaching to a tracepoint');

/** Attaches a classic tracepoint program to a perf event; the link's descriptor (Linux 5.15). */
export const attachPerfEvent = (programFd: number, perfFd: number): number =>
  check(
    bpf(COMMAND.linkCreate, [
      [0, 4, programFd],
      [4, 4, perfFd],
      [8, 4, ATTACH_PERF_EVENT],
    ]),
    'attaching to a perf event (Linux 5.15)',
  );

const PERF_TYPE_TRACEPOINT = 2;
const PERF_ATTRIBUTES_BYTES = 128;
const PERF_FLAG_CLOEXEC = 8;
const ALL = 0xffff_ffff_ffff_ffffn;

/** Perf event of a tracepoint on CPU 0, for any process: BPF programs on it run for events of all CPUs. */
export function openTracepointEvent(tracepointId: number): number {
  const buffer = Buffer.alloc(PERF_ATTRIBUTES_BYTES);
  buffer.writeUInt32LE(PERF_TYPE_TRACEPOINT, 0);
  buffer.writeUInt32LE(PERF_ATTRIBUTES_BYTES, 4);
  buffer.writeBigUInt64LE(BigInt(tracepointId), 8);
  buffer.writeBigUInt64LE(1n, 16);
  const fd = syscall(numbers().perfEventOpen, addressOf(buffer), ALL, 0, ALL, PERF_FLAG_CLOEXEC);
  return check(fd, `opening tracepoint event ${tracepointId}`);
}

function objectInfo(fd: number, bytes: number): Buffer {
  const info = Buffer.alloc(bytes);
  check(
    bpf(COMMAND.objInfo, [
      [0, 4, fd],
      [4, 4, bytes],
      [8, 8, addressOf(info)],
    ]),
    'reading BPF object info',
  );
  return info;
}

export interface ProgramInfo {
  readonly id: number;
  readonly runNs: number;
  readonly runCount: number;
  /** Events that the kernel didn't run the program for, as it was running already on that CPU. */
  readonly recursionMisses: number;
}

export function programInfo(fd: number): ProgramInfo {
  const info = objectInfo(fd, 232);
  return {
    id: info.readUInt32LE(4),
    runNs: Number(info.readBigUInt64LE(192)),
    runCount: Number(info.readBigUInt64LE(200)),
    recursionMisses: Number(info.readBigUInt64LE(208)),
  };
}

/** Id of the program that a link runs. */
export const linkedProgramId = (linkFd: number): number => objectInfo(linkFd, 64).readUInt32LE(8);

/** mount(2) of a pseudo filesystem. */
export function mountPseudo(type: string, directory: string): void {
  const [source, target, kind] = [cString(type), cString(directory), cString(type)];
  check(
    syscall(numbers().mount, addressOf(source), addressOf(target), addressOf(kind), 0, 0),
    `mounting ${type} on ${directory}`,
  );
}
