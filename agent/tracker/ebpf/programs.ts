/**
 * The three programs of a disk: one where writes are submitted, two where they complete (requests, and bios of devices
 * without requests). Each finds disk, operation and sectors of its event, then counts and marks (marking.ts). Pure.
 *
 * A write is every operation that isn't a read, a flush or a passthrough read: new kinds of writes are marked without our
 * knowing them. A discard is REQ_OP_DISCARD alone, as in the kernel's own statistics, which the audit compares with.
 */
import { Assembler, imm, type Register } from './asm.js';
import { PROGRAM_TYPE, type ProgramImage } from './bpf.js';
import type { BtfTypes, ClassicEvent, EventName, KernelTypes } from './kernel-types.js';
import { RARE } from './maps/layout.js';
import { emitCountAndMark, type MarkTarget, type Marking } from './marking.js';

/** Promises that a test can break on purpose, to prove that it would notice. Never set in production. */
export type TestOnlyDisable = 'completion' | 'submission-filter';

/** In the order in which they are attached: submissions first, so that nothing is completed that wasn't seen before. */
export const PROGRAM_NAMES = ['submission', 'request-completion', 'bio-completion'] as const;
export type ProgramName = (typeof PROGRAM_NAMES)[number];

export const PROGRAM_EVENT: Readonly<Record<ProgramName, EventName>> = {
  submission: 'block_bio_queue',
  'request-completion': 'block_rq_complete',
  'bio-completion': 'block_bio_complete',
};

const SHORT_NAME: Readonly<Record<ProgramName, string>> = {
  submission: 'afterimage_sub',
  'request-completion': 'afterimage_rq',
  'bio-completion': 'afterimage_bio',
};

const OPERATION = { mask: 0xff, read: 0, flush: 2, discard: 3, scsiOut: 33, driverIn: 34, driverOut: 35 } as const;
const CONTEXT: Register = 1;

export function buildProgram(
  name: ProgramName,
  types: KernelTypes,
  target: MarkTarget,
  options: { readonly disable?: TestOnlyDisable | undefined; readonly orderedAtomics: boolean },
): ProgramImage {
  const a = new Assembler({ orderedAtomics: options.orderedAtomics });
  const event = PROGRAM_EVENT[name];
  if (types.mode === 'tracepoint') emitClassicFilter(a, types.events[event], target);
  else if (name === 'request-completion') emitRequestFilter(a, types, target);
  else emitBioFilter(a, types, types.events[event].argument, target);
  const marking: Marking = {
    kind: name,
    mark: name === 'submission' || options.disable !== 'completion',
    filter: options.disable !== 'submission-filter',
  };
  emitCountAndMark(a, target, marking);
  a.label('out').mov(0, imm(0)).exit();
  const base = { name: SHORT_NAME[name], code: a.build() };
  return types.mode === 'btf'
    ? { ...base, type: PROGRAM_TYPE.tracing, attachBtfId: types.events[event].attachBtfId }
    : { ...base, type: PROGRAM_TYPE.tracepoint };
}

function emitBioFilter(a: Assembler, types: BtfTypes, argument: number, target: MarkTarget): void {
  a.load(8, 6, CONTEXT, argument * 8).load(4, 2, 6, types.bio.operation);
  emitOperationFilter(a);
  emitDiskFilter(a, types, types.bio.toDisk, target);
  emitDiscardFlag(a);
  a.load(4, 8, 6, types.bio.sizeBytes).alu('rsh', 8, imm(9)).jumpIf(8, 'eq', imm(0), 'out');
  a.load(8, 7, 6, types.bio.sector);
}

function emitRequestFilter(a: Assembler, types: BtfTypes, target: MarkTarget): void {
  const event = types.events.block_rq_complete;
  a.load(8, 6, CONTEXT, event.argument * 8).load(8, 8, CONTEXT, (event.argumentCount - 1) * 8);
  a.load(4, 2, 6, types.request.operation);
  emitOperationFilter(a);
  emitDiskFilter(a, types, types.request.toDisk, target);
  // A passthrough write says nothing of where it wrote.
  a.jumpIf(2, 'eq', imm(OPERATION.driverOut), 'opaque').jumpIf(2, 'eq', imm(OPERATION.scsiOut), 'opaque');
  emitDiscardFlag(a);
  // The last argument is a 32-bit number of bytes; the upper half of its register is not defined.
  a.alu('lsh', 8, imm(32))
    .alu('rsh', 8, imm(32 + 9))
    .jumpIf(8, 'eq', imm(0), 'out');
  a.load(8, 7, 6, types.request.sector).jump('count');
  a.label('opaque').mov(2, imm(1)).mapValue(1, target.mapFds.slots, RARE.opaque).atomicAdd(1, 0, 2).jump('out');
  a.label('count');
}

/** r2 = operation; leaves unless it writes. */
function emitOperationFilter(a: Assembler): void {
  a.alu('and', 2, imm(OPERATION.mask));
  for (const harmless of [OPERATION.read, OPERATION.flush, OPERATION.driverIn]) a.jumpIf(2, 'eq', imm(harmless), 'out');
}

/** r9 = whether operation r2 is a discard. */
function emitDiscardFlag(a: Assembler): void {
  a.mov(9, imm(1)).jumpIf(2, 'eq', imm(OPERATION.discard), 'discard').mov(9, imm(0)).label('discard');
}

/** Leaves unless the gendisk behind r6 is the target. Keeps r2. */
function emitDiskFilter(a: Assembler, types: BtfTypes, toDisk: readonly number[], target: MarkTarget): void {
  let from: Register = 6;
  for (const offset of toDisk) {
    a.load(8, 3, from, offset).jumpIf(3, 'eq', imm(0), 'out');
    from = 3;
  }
  a.load(4, 4, 3, types.disk.major).jumpIf(4, 'ne', imm(target.major), 'out');
  a.load(4, 4, 3, types.disk.firstMinor).jumpIf(4, 'ne', imm(target.minor), 'out');
}

const MINOR_BITS = 20;
const letter = (text: string): number => text.charCodeAt(0);

/**
 * Classic tracepoints give letters for the operation: 'R' reads, 'D' discards ("DE" is a secure erase, which counts as a
 * write). Passthrough commands show as 'N' at sector 2^64-1, reads and writes alike, so they are left out in this mode.
 */
function emitClassicFilter(a: Assembler, event: ClassicEvent, target: MarkTarget): void {
  a.mov(6, CONTEXT)
    .load(4, 2, 6, event.device)
    .mov64(3, BigInt(target.major * 2 ** MINOR_BITS + target.minor));
  a.jumpIf(2, 'ne', 3, 'out');
  a.load(1, 2, 6, event.letters).jumpIf(2, 'eq', imm(letter('R')), 'out');
  a.load(4, 8, 6, event.sectors).jumpIf(8, 'eq', imm(0), 'out');
  a.load(8, 7, 6, event.sector).jumpIf(7, 'eq', imm(-1), 'out');
  a.mov(9, imm(0)).jumpIf(2, 'ne', imm(letter('D')), 'kind');
  a.load(1, 2, 6, event.letters + 1).jumpIf(2, 'eq', imm(letter('E')), 'kind');
  a.mov(9, imm(1)).label('kind');
}
