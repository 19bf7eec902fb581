/**
 * The part of a program that counts and marks, the same for both ways to attach. Registers at its start:
 *   r7 first sector (absolute), r8 number of sectors (not 0), r9 1 for a discard, else 0.
 * Stack: -4 key of a lookup, -16 this CPU's counters, -24 sectors, -32 loop counter, -40 epoch's place in the filter.
 *
 * Order within a submission: count "enter", read the epoch, filter, mark, summary, count "exit". The counters carry sectors,
 * so that one pair serves both the wait for stragglers and the audit. A completion marks, then counts; it needs neither
 * epoch nor "enter": nothing can depend on a write before its completion has been reported, which is after this program.
 *
 * "Skip when set": a completion that finds its bit set saw it before the agent's exchange, so the agent reads the block
 * after that write landed. The summary is looked at after the mark, even when the mark was there: whoever set the mark may
 * not have come to the summary yet. On arm64 nothing is skipped at the mark, as two plain loads may swap there.
 */
import { Assembler, FP, imm } from './asm.js';
import {
  CONTROL_EPOCH_OFFSET,
  FINE_BLOCKS_MAX,
  GROUP_BLOCKS,
  LINE_BYTES,
  RARE,
  SLOT,
  type MapName,
  type MapSizes,
} from './maps/layout.js';

export interface MarkTarget {
  readonly major: number;
  readonly minor: number;
  /** Window in sectors; what lies outside is counted, but not marked. */
  readonly startSector: number;
  readonly sectorCount: number;
  readonly sectorsPerBlock: number;
  readonly sizes: MapSizes;
  readonly controlFd: number;
  readonly mapFds: Readonly<Record<MapName, number>>;
}

/** What a program does at its event; both switches are off only in tests that prove their need. */
export interface Marking {
  readonly kind: 'submission' | 'request-completion' | 'bio-completion';
  readonly mark: boolean;
  readonly filter: boolean;
}

const HELPER_MAP_LOOKUP = 1;
const HELPER_CPU = 8;
const BIO_SECTORS_MAX = 2 ** 23;
const STACK = { key: -4, slot: -16, sectors: -24, count: -32, epoch: -40 } as const;

const COMPLETION_SLOT = { 'request-completion': SLOT.requestWrite, 'bio-completion': SLOT.bioWrite } as const;

/** Emits the whole part, to the end of the program. */
export function emitCountAndMark(a: Assembler, target: MarkTarget, marking: Marking): void {
  const submission = marking.kind === 'submission';
  emitCpuSlot(a, target, submission ? 4 : 3);
  a.store(8, FP, STACK.slot, 6).store(8, FP, STACK.sectors, 8);
  if (submission) {
    a.mov(2, 8).atomicAdd(6, SLOT.submitEnterWrite, 2);
    emitReadEpoch(a, target);
  }
  if (marking.mark) {
    emitClip(a, target);
    emitFine(a, target, marking);
    emitHuge(a, target, marking);
    a.label('too-big').mov(2, imm(1)).mapValue(1, target.mapFds.slots, RARE.tooBig).atomicAdd(1, 0, 2);
  }
  a.label('leave').load(8, 6, FP, STACK.slot).load(8, 2, FP, STACK.sectors);
  const exit = marking.kind === 'submission' ? SLOT.submitExitWrite : COMPLETION_SLOT[marking.kind];
  a.atomicAdd(6, exit, 2).mov(0, imm(0)).exit();
}

/** r6 = address of this CPU's line, moved on by r9 << shift, so that discards use their own counters. */
function emitCpuSlot(a: Assembler, target: MarkTarget, discardShift: number): void {
  a.alu('lsh', 9, imm(discardShift));
  a.call(HELPER_CPU)
    .alu('and', 0, imm(target.sizes.cpuSlots - 1))
    .alu('lsh', 0, imm(Math.log2(LINE_BYTES)))
    .alu('add', 0, 9);
  a.mapValue(6, target.mapFds.slots, LINE_BYTES).alu('add', 6, 0);
}

/** Reads the epoch, once; keeps the offset of its half of the filter. */
function emitReadEpoch(a: Assembler, target: MarkTarget): void {
  a.mapValue(1, target.controlFd, CONTROL_EPOCH_OFFSET).load(8, 2, 1, 0).alu('and', 2, imm(1));
  a.alu('lsh', 2, imm(Math.log2(target.sizes.filterWords * 8))).store(8, FP, STACK.epoch, 2);
}

/** r7, r8 = first and last block within the window. */
function emitClip(a: Assembler, target: MarkTarget): void {
  const shift = Math.log2(target.sectorsPerBlock);
  a.mov(3, 7).alu('add', 3, 8);
  if (target.startSector > 0) {
    a.mov64(2, BigInt(target.startSector)).jumpIf(3, 'le', 2, 'leave');
    a.jumpIf(7, 'ge', 2, 'inside').mov(7, 2).label('inside').alu('sub', 7, 2).alu('sub', 3, 2);
  }
  a.mov64(4, BigInt(target.sectorCount)).jumpIf(7, 'ge', 4, 'leave');
  a.jumpIf(3, 'le', 4, 'clipped').mov(3, 4).label('clipped');
  a.alu('sub', 3, imm(1)).alu('rsh', 3, imm(shift)).mov(8, 3).alu('rsh', 7, imm(shift));
}

/** Ranges of at most FINE_BLOCKS_MAX blocks: mostly one word, else a loop over words. */
function emitFine(a: Assembler, target: MarkTarget, marking: Marking): void {
  a.mov(2, 8).alu('sub', 2, 7).jumpIf(2, 'ge', imm(FINE_BLOCKS_MAX), 'huge');
  emitFirstWord(a, 'words');
  emitWord(a, target, marking);
  a.jump('leave');
  a.label('words').mov(2, imm(0)).store(8, FP, STACK.count, 2);
  a.label('next-word');
  emitWord(a, target, marking);
  emitNextWord(a, FINE_BLOCKS_MAX / GROUP_BLOCKS + 2, 'next-word', 'leave');
}

/** r9 = word of bit r7, r6 = mask of the bits in it; jumps when r8 lies in another word. */
function emitFirstWord(a: Assembler, severalWords: string): void {
  a.mov(9, 7).alu('rsh', 9, imm(6)).alu('and', 7, imm(63)).mov(6, imm(-1)).alu('lsh', 6, 7);
  a.mov(2, 8).alu('rsh', 2, imm(6)).jumpIf(2, 'ne', 9, severalWords);
  emitEndMask(a);
}

/** Takes the bits behind the last one out of r6. */
function emitEndMask(a: Assembler): void {
  a.mov(2, 8).alu('and', 2, imm(63)).mov(3, imm(63)).alu('sub', 3, 2);
  a.mov(4, imm(-1)).alu('rsh', 4, 3).alu('and', 6, 4);
}

/** Steps r9, r6 to the next word: on to `loop`, or to `done` behind the last; more than `max` steps are an error. */
function emitNextWord(a: Assembler, max: number, loop: string, done: string): void {
  const whole = a.fresh('whole');
  a.alu('add', 9, imm(1)).mov(2, 8).alu('rsh', 2, imm(6)).jumpIf(9, 'gt', 2, done);
  a.mov(6, imm(-1)).jumpIf(9, 'ne', 2, whole);
  emitEndMask(a);
  a.label(whole).load(8, 2, FP, STACK.count).alu('add', 2, imm(1)).store(8, FP, STACK.count, 2);
  a.jumpIf(2, 'lt', imm(max), loop).jump('too-big');
}

/** Marks the bits r6 of word r9. Keeps r6 to r9. */
function emitWord(a: Assembler, target: MarkTarget, marking: Marking): void {
  if (marking.kind === 'submission' && marking.filter) emitFilter(a, target);
  const marked = a.fresh('marked');
  a.store(4, FP, STACK.key, 9).mov(2, FP).alu('add', 2, imm(STACK.key));
  a.mapHandle(1, target.mapFds.marks).call(HELPER_MAP_LOOKUP).jumpIf(0, 'eq', imm(0), 'too-big');
  if (!a.orderedAtomics) a.load(8, 3, 0, 0).alu('and', 3, 6).jumpIf(3, 'eq', 6, marked);
  a.mov(3, 6).atomicOr(0, 0, 3).label(marked);
  emitSummary(a, target);
}

/** A word of marks and its word in the filter have the same bit positions: the filter is direct-mapped by block. */
function emitFilter(a: Assembler, target: MarkTarget): void {
  const { filterWords } = target.sizes;
  const set = a.fresh('filtered');
  a.mov(3, 9)
    .alu('and', 3, imm(filterWords - 1))
    .alu('lsh', 3, imm(3));
  // The mask tells verifiers that don't follow values through the stack what was stored there.
  a.load(8, 2, FP, STACK.epoch)
    .alu('and', 2, imm(filterWords * 8))
    .alu('add', 2, 3);
  a.mapValue(1, target.mapFds.filter).alu('add', 1, 2);
  a.load(8, 3, 1, 0).alu('and', 3, 6).jumpIf(3, 'eq', 6, set);
  a.mov(3, 6).atomicOr(1, 0, 3).label(set);
}

function emitSummary(a: Assembler, target: MarkTarget): void {
  const set = a.fresh('summed');
  a.mov(2, 9)
    .alu('rsh', 2, imm(6))
    .alu('and', 2, imm(target.sizes.groupWords - 1))
    .alu('lsh', 2, imm(3));
  a.mapValue(1, target.mapFds.summary).alu('add', 1, 2);
  a.mov(4, 9).alu('and', 4, imm(63)).mov(3, imm(1)).alu('lsh', 3, 4);
  a.load(8, 5, 1, 0).alu('and', 5, 3).jumpIf(5, 'ne', imm(0), set);
  a.atomicOr(1, 0, 3).label(set);
}

/** Huge ranges (discards, write-zeroes): whole groups in `coarse`; the filter holds "everything" for the epoch. */
function emitHuge(a: Assembler, target: MarkTarget, marking: Marking): void {
  const { filterWords, groupWords } = target.sizes;
  const groupsMax = BIO_SECTORS_MAX / target.sectorsPerBlock / GROUP_BLOCKS;
  a.label('huge');
  if (marking.kind === 'submission' && marking.filter) {
    a.load(8, 2, FP, STACK.epoch)
      .alu('rsh', 2, imm(Math.log2(filterWords)))
      .alu('and', 2, imm(8));
    a.mapValue(1, target.mapFds.filter, 2 * filterWords * 8).alu('add', 1, 2);
    a.mov(3, imm(1)).store(8, 1, 0, 3);
  }
  a.alu('rsh', 7, imm(6)).alu('rsh', 8, imm(6)).mov(2, imm(0)).store(8, FP, STACK.count, 2);
  emitFirstWord(a, 'coarse-word');
  a.label('coarse-word').mov(2, 9);
  a.alu('and', 2, imm(groupWords - 1)).alu('lsh', 2, imm(3));
  a.mapValue(1, target.mapFds.coarse).alu('add', 1, 2).mov(3, 6).atomicOr(1, 0, 3);
  emitNextWord(a, Math.ceil(groupsMax / 64) + 2, 'coarse-word', 'coarse-done');
  a.label('coarse-done')
    .mapValue(1, target.mapFds.coarse, groupWords * 8)
    .mov(3, imm(1));
  a.store(8, 1, 0, 3).jump('leave');
}
