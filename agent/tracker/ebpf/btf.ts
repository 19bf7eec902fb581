/**
 * Reader of BTF, the kernel's description of its own types: offsets of struct members and prototypes of tracepoints, so
 * that the programs fit the running kernel without a compiler. Pure on the bytes given; a few MiB, dropped after use.
 */
import { readFileSync } from 'node:fs';
import { corrupt } from '../../../shared/errors.js';

export const KERNEL_BTF_PATH = '/sys/kernel/btf/vmlinux';

const MAGIC = 0xeb9f;
const TYPE_BYTES = 12;
const KIND = { ptr: 2, struct: 4, union: 5, typedef: 8, volatile: 9, const: 10, restrict: 11, typeTag: 18 };
const TRANSPARENT_KINDS: ReadonlySet<number> = new Set([
  KIND.typedef,
  KIND.volatile,
  KIND.const,
  KIND.restrict,
  KIND.typeTag,
]);
/** Kinds with a fixed tail, and kinds with a tail per element (`vlen`), in bytes. Others have none. */
const FIXED_TAIL = new Map([
  [1, 4], // int
  [3, 12], // array
  [14, 4], // var
  [17, 4], // decl tag
]);
const ELEMENT_TAIL = new Map([
  [4, 12], // struct
  [5, 12], // union
  [6, 8], // enum
  [13, 8], // function prototype
  [15, 12], // data section
  [19, 12], // enum64
]);

interface BtfType {
  readonly position: number;
  readonly nameOffset: number;
  readonly kind: number;
  readonly elements: number;
  readonly bitfields: boolean;
  readonly reference: number;
}

export interface TracepointPrototype {
  /** BTF id of `btf_trace_<name>`: what a `tracing` program attaches to. */
  readonly id: number;
  /** Arguments as a program sees them: `struct <name>` for a pointer to a struct, else `other`. */
  readonly arguments: readonly string[];
}

export class Btf {
  readonly #bytes: Buffer;
  readonly #stringsAt: number;
  /** Where each type's record stands, by id. */
  readonly #positions: number[] = [0];

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    if (bytes.length < 24 || bytes.readUInt16LE(0) !== MAGIC) throw corrupt('btf-magic', 'this is not BTF');
    const headerBytes = this.#u32(4);
    const typesAt = headerBytes + this.#u32(8);
    this.#stringsAt = headerBytes + this.#u32(16);
    this.#locate(typesAt, typesAt + this.#u32(12));
  }

  static ofRunningKernel(): Btf {
    return new Btf(readFileSync(KERNEL_BTF_PATH));
  }

  /** Byte offset of a member, also within anonymous structs and unions; undefined when the kernel has none. */
  memberOffset(structName: string, memberName: string): number | undefined {
    const id = this.#find(KIND.struct, structName);
    return id === undefined ? undefined : this.#memberOffset(id, memberName, 0);
  }

  tracepoint(name: string): TracepointPrototype | undefined {
    const id = this.#find(KIND.typedef, `btf_trace_${name}`);
    if (id === undefined) return undefined;
    const pointer = this.#type(this.#strip(id));
    const prototype = this.#type(this.#strip(pointer.reference));
    const names: string[] = [];
    // Argument 0 is the tracepoint's private data, which programs don't get.
    for (let i = 1; i < prototype.elements; i++) {
      names.push(this.#describe(this.#u32(prototype.position + TYPE_BYTES + i * 8 + 4)));
    }
    return { id, arguments: names };
  }

  #describe(id: number): string {
    const type = this.#type(this.#strip(id));
    if (type.kind !== KIND.ptr) return 'other';
    const target = this.#type(this.#strip(type.reference));
    return target.kind === KIND.struct ? `struct ${this.#string(target.nameOffset)}` : 'other';
  }

  #memberOffset(id: number, memberName: string, baseBytes: number): number | undefined {
    const type = this.#type(id);
    for (let i = 0; i < type.elements; i++) {
      const at = type.position + TYPE_BYTES + i * 12;
      const name = this.#string(this.#u32(at));
      const bits = type.bitfields ? this.#u32(at + 8) & 0xffffff : this.#u32(at + 8);
      if (name === memberName) return baseBytes + bits / 8;
      if (name !== '') continue;
      const inner = this.#strip(this.#u32(at + 4));
      const kind = this.#type(inner).kind;
      if (kind !== KIND.struct && kind !== KIND.union) continue;
      const found = this.#memberOffset(inner, memberName, baseBytes + bits / 8);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  #locate(start: number, end: number): void {
    let position = start;
    while (position < end) {
      const type = this.#read(position);
      this.#positions.push(position);
      const tail = FIXED_TAIL.get(type.kind) ?? (ELEMENT_TAIL.get(type.kind) ?? 0) * type.elements;
      position += TYPE_BYTES + tail;
    }
  }

  /** Id of the first type of that kind and name. Compares bytes in place: an index of all names would cost megabytes. */
  #find(kind: number, name: string): number | undefined {
    const wanted = Buffer.from(`${name}\0`);
    for (let id = 1; id < this.#positions.length; id++) {
      const position = this.#positions[id] ?? 0;
      if (((this.#u32(position + 4) >>> 24) & 0x1f) !== kind) continue;
      const at = this.#stringsAt + this.#u32(position);
      if (this.#bytes[at] !== wanted[0]) continue;
      if (this.#bytes.compare(wanted, 0, wanted.length, at, at + wanted.length) === 0) return id;
    }
    return undefined;
  }

  #strip(id: number): number {
    let current = id;
    for (;;) {
      const type = this.#type(current);
      if (!TRANSPARENT_KINDS.has(type.kind)) return current;
      current = type.reference;
    }
  }

  #type(id: number): BtfType {
    const position = this.#positions[id];
    // Id 0 is `void`, which has no record.
    if (id === 0) return { position: 0, nameOffset: 0, kind: 0, elements: 0, bitfields: false, reference: 0 };
    if (position === undefined) throw corrupt('btf-type', `BTF has no type ${id}`);
    return this.#read(position);
  }

  #read(position: number): BtfType {
    const info = this.#u32(position + 4);
    return {
      position,
      nameOffset: this.#u32(position),
      kind: (info >>> 24) & 0x1f,
      elements: info & 0xffff,
      bitfields: info >>> 31 === 1,
      reference: this.#u32(position + 8),
    };
  }

  #u32(offset: number): number {
    return this.#bytes.readUInt32LE(offset);
  }

  #string(offset: number): string {
    const start = this.#stringsAt + offset;
    return this.#bytes.toString('latin1', start, this.#bytes.indexOf(0, start));
  }
}
