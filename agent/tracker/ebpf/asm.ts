/**
 * Assembler for BPF programs: instructions in, machine code out, with labels. Pure: no kernel, no I/O.
 *
 * Atomic adds and ors: on x86-64 a locked instruction is a full barrier whatever its result is used for. On arm64 the plain
 * form is relaxed, and only the fetching form is ordered; so there `orderedAtomics` emits the fetching form, which
 * overwrites the source register. Callers therefore treat the source register of an atomic as lost.
 */
export type Register = 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10;

/** Frame pointer: the stack of a program is [FP - 512, FP). */
export const FP: Register = 10;

const CLASS_ALU64 = 0x07;
const CLASS_JMP = 0x05;
const USE_REGISTER = 0x08;
const LOAD_IMM64 = 0x18;
const PSEUDO_MAP_FD = 1;
const PSEUDO_MAP_VALUE = 2;
const ATOMIC_64 = 0xdb;
const ATOMIC_ADD = 0x00;
const ATOMIC_OR = 0x40;
const ATOMIC_FETCH = 0x01;

const ALU = { add: 0x00, sub: 0x10, and: 0x50, lsh: 0x60, rsh: 0x70, mov: 0xb0 } as const;
const JUMP = { eq: 0x10, gt: 0x20, ge: 0x30, ne: 0x50, lt: 0xa0, le: 0xb0 } as const;
const LOAD = { 8: 0x79, 4: 0x61, 1: 0x71 } as const;
const STORE = { 8: 0x7b, 4: 0x63 } as const;

export type AluOp = keyof typeof ALU;
export type JumpOp = keyof typeof JUMP;

/** An operand is a register or an immediate; `imm(5)` keeps the two apart. */
export interface Immediate {
  readonly imm: number;
}
export const imm = (value: number): Immediate => ({ imm: value });

export const INSTRUCTION_BYTES = 8;

export class Assembler {
  readonly #code: Buffer[] = [];
  readonly #labels = new Map<string, number>();
  readonly #jumps: { at: number; label: string }[] = [];
  readonly #orderedAtomics: boolean;
  #serial = 0;

  constructor(options: { readonly orderedAtomics: boolean }) {
    this.#orderedAtomics = options.orderedAtomics;
  }

  get orderedAtomics(): boolean {
    return this.#orderedAtomics;
  }

  /** A label name that nobody else uses, for pieces that are emitted more than once. */
  fresh(name: string): string {
    return `${name}#${this.#serial++}`;
  }

  label(name: string): this {
    if (this.#labels.has(name)) throw new Error(`label ${name} stands twice`);
    this.#labels.set(name, this.#code.length);
    return this;
  }

  alu(op: AluOp, target: Register, operand: Register | Immediate): this {
    return typeof operand === 'object'
      ? this.#emit(ALU[op] | CLASS_ALU64, target, 0, 0, operand.imm)
      : this.#emit(ALU[op] | CLASS_ALU64 | USE_REGISTER, target, operand, 0, 0);
  }

  mov(target: Register, operand: Register | Immediate): this {
    return this.alu('mov', target, operand);
  }

  /** Jumps when `left op right` holds (64 bits, unsigned; immediates are sign-extended). */
  jumpIf(left: Register, op: JumpOp, right: Register | Immediate, label: string): this {
    this.#jumps.push({ at: this.#code.length, label });
    return typeof right === 'object'
      ? this.#emit(JUMP[op] | CLASS_JMP, left, 0, 0, right.imm)
      : this.#emit(JUMP[op] | CLASS_JMP | USE_REGISTER, left, right, 0, 0);
  }

  jump(label: string): this {
    this.#jumps.push({ at: this.#code.length, label });
    return this.#emit(CLASS_JMP, 0, 0, 0, 0);
  }

  load(bytes: keyof typeof LOAD, target: Register, base: Register, offset: number): this {
    return this.#emit(LOAD[bytes], target, base, offset, 0);
  }

  store(bytes: keyof typeof STORE, base: Register, offset: number, source: Register): this {
    return this.#emit(STORE[bytes], base, source, offset, 0);
  }

  /** 64-bit constant (two slots). */
  mov64(target: Register, value: bigint): this {
    const low = Number(BigInt.asIntN(32, value));
    const high = Number(BigInt.asIntN(32, value >> 32n));
    return this.#emit(LOAD_IMM64, target, 0, 0, low).#emit(0, 0, 0, 0, high);
  }

  /** Handle of a map, as an argument of a helper. */
  mapHandle(target: Register, mapFd: number): this {
    return this.#emit(LOAD_IMM64, target, PSEUDO_MAP_FD, 0, mapFd).#emit(0, 0, 0, 0, 0);
  }

  /** Address of a byte in the only value of an array map of one entry. */
  mapValue(target: Register, mapFd: number, offset = 0): this {
    return this.#emit(LOAD_IMM64, target, PSEUDO_MAP_VALUE, 0, mapFd).#emit(0, 0, 0, 0, offset);
  }

  /** *(u64 *)(base + offset) += source. The source register is lost. */
  atomicAdd(base: Register, offset: number, source: Register): this {
    return this.#emit(ATOMIC_64, base, source, offset, ATOMIC_ADD | this.#fetch());
  }

  /** *(u64 *)(base + offset) |= source. The source register is lost. */
  atomicOr(base: Register, offset: number, source: Register): this {
    return this.#emit(ATOMIC_64, base, source, offset, ATOMIC_OR | this.#fetch());
  }

  call(helper: number): this {
    return this.#emit(0x85, 0, 0, 0, helper);
  }

  exit(): this {
    return this.#emit(0x95, 0, 0, 0, 0);
  }

  /** Machine code with all jumps resolved. */
  build(): Buffer {
    for (const { at, label } of this.#jumps) {
      const target = this.#labels.get(label);
      if (target === undefined) throw new Error(`label ${label} is missing`);
      this.#code[at]?.writeInt16LE(target - at - 1, 2);
    }
    return Buffer.concat(this.#code);
  }

  #fetch(): number {
    return this.#orderedAtomics ? ATOMIC_FETCH : 0;
  }

  #emit(opcode: number, target: number, source: number, offset: number, immediate: number): this {
    const instruction = Buffer.alloc(INSTRUCTION_BYTES);
    instruction[0] = opcode;
    instruction[1] = (source << 4) | target;
    instruction.writeInt16LE(offset, 2);
    instruction.writeInt32LE(immediate | 0, 4);
    this.#code.push(instruction);
    return this;
  }
}
