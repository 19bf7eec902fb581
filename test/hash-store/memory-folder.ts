/**
 * A folder in memory that can be killed between any two operations, or in the middle of a write, and whose power can be cut: then each
 * 4 KiB page that was not synced is old or new by chance, and creations, renames and removals are lost from some point on.
 */
import type { StateFile, StateFolder } from '../../agent/cycle/hash-store/files.js';
import { fileError } from '../../agent/cycle/hash-store/errors.js';
import type { Random } from './random.js';

const PAGE_BYTES = 4096;

export interface Content {
  bytes: Buffer;
  durable: Buffer;
}
type NameChange = (names: Map<string, Content>) => void;

export class Killed extends Error {}

export class MemoryFolder implements StateFolder {
  readonly #names: Map<string, Content>;
  readonly #durableNames: Map<string, Content>;
  #unsynced: NameChange[] = [];
  #operations = 0;
  #killAt = Infinity;
  #fullAt = Infinity;
  #dead = false;
  #random: Random | null = null;

  constructor(names = new Map<string, Content>()) {
    this.#names = names;
    this.#durableNames = new Map(names);
  }

  /** Changes made so far: one for each system call that writes. */
  get operations(): number {
    return this.#operations;
  }

  /** The n-th change from the beginning is the last: not made, or, if it is a write, made in part. */
  killAt(operation: number, random: Random): void {
    this.#killAt = operation;
    this.#random = random;
  }

  /** Writes that make a file larger fail from the n-th change on; Infinity: no more. */
  fullAt(operation: number): void {
    this.#fullAt = operation;
  }

  names(): string[] {
    return [...this.#names.keys()].sort();
  }

  /** The file whose name begins like this. */
  content(prefix: string): Content {
    const found = [...this.#names].find(([name]) => name.startsWith(prefix));
    if (found === undefined) throw new Error(`no ${prefix}`);
    return found[1];
  }

  /** What a new process finds: all that was written. */
  afterKill(): MemoryFolder {
    const next = new MemoryFolder(copyOf(this.#names));
    return next;
  }

  /** What the next boot finds. */
  afterPowerCut(random: Random): MemoryFolder {
    const names = new Map(this.#durableNames);
    for (const change of this.#unsynced.slice(0, random.below(this.#unsynced.length + 1))) change(names);
    const survivors = new Map<string, Content>();
    for (const [name, content] of names) {
      const bytes = mixed(content, random);
      survivors.set(name, { bytes, durable: Buffer.from(bytes) });
    }
    return new MemoryFolder(survivors);
  }

  list(): Promise<string[]> {
    this.#alive();
    return Promise.resolve(this.names());
  }

  async create(name: string): Promise<StateFile> {
    await this.#change();
    const content: Content = { bytes: Buffer.alloc(0), durable: Buffer.alloc(0) };
    this.#rename((names) => names.set(name, content));
    return this.#file(content);
  }

  open(name: string): Promise<StateFile | null> {
    this.#alive();
    const content = this.#names.get(name);
    return Promise.resolve(content === undefined ? null : this.#file(content));
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#change();
    this.#rename((names) => {
      const content = names.get(from);
      names.delete(from);
      if (content !== undefined) names.set(to, content);
    });
  }

  async remove(name: string): Promise<void> {
    await this.#change();
    this.#rename((names) => names.delete(name));
  }

  async sync(): Promise<void> {
    await this.#change();
    for (const change of this.#unsynced.splice(0)) change(this.#durableNames);
  }

  #rename(change: NameChange): void {
    change(this.#names);
    this.#unsynced.push(change);
  }

  #alive(): void {
    if (this.#dead) throw new Killed();
  }

  async #change(): Promise<void> {
    this.#count();
  }

  #count(): void {
    this.#alive();
    if (++this.#operations < this.#killAt) return;
    this.#dead = true;
    throw new Killed();
  }

  #write(content: Content, from: Uint8Array, position: number): void {
    const grow = (bytes: number): void => {
      if (bytes <= content.bytes.length) return;
      if (this.#operations >= this.#fullAt)
        throw fileError('write', Object.assign(new Error('no space'), { code: 'ENOSPC' }));
      content.bytes = Buffer.concat([content.bytes, Buffer.alloc(bytes - content.bytes.length)]);
    };
    let part = from;
    try {
      this.#count();
    } catch (error) {
      if (this.#operations !== this.#killAt || this.#random === null) throw error;
      part = from.subarray(0, this.#random.below(from.length + 1));
      grow(position + part.length);
      content.bytes.set(part, position);
      throw error;
    }
    grow(position + part.length);
    content.bytes.set(part, position);
  }

  #file(content: Content): StateFile {
    return {
      readAt: (into, bytes, position) => {
        this.#alive();
        const n = Math.max(0, Math.min(bytes, content.bytes.length - position));
        into.set(content.bytes.subarray(position, position + n));
        return n;
      },
      writeAt: (from, start, bytes, position) => {
        this.#write(content, from.subarray(start, start + bytes), position);
      },
      append: async (from, position) => {
        this.#write(content, from, position);
      },
      sync: async () => {
        this.#count();
        content.durable = Buffer.from(content.bytes);
      },
      truncate: async (bytes) => {
        this.#count();
        const old = content.bytes.subarray(0, bytes);
        content.bytes = Buffer.concat([old, Buffer.alloc(bytes - old.length)]);
      },
      sizeBytes: () => Promise.resolve(content.bytes.length),
      close: () => Promise.resolve(),
    };
  }
}

function copyOf(names: Map<string, Content>): Map<string, Content> {
  const copy = new Map<string, Content>();
  for (const [name, { bytes, durable }] of names) {
    copy.set(name, { bytes: Buffer.from(bytes), durable: Buffer.from(durable) });
  }
  return copy;
}

function mixed({ bytes, durable }: Content, random: Random): Buffer {
  const [short, long] = [Math.min(bytes.length, durable.length), Math.max(bytes.length, durable.length)];
  // Often the length of the last sync: then the journal ends at a whole record, and nothing shows that there was more.
  const lengths = [bytes.length, durable.length, short + random.below(long - short + 1)];
  const out = Buffer.alloc(lengths[random.below(lengths.length)] ?? 0);
  for (let at = 0; at < out.length; at += PAGE_BYTES) {
    const source = random.chance(0.5) ? bytes : durable;
    out.set(source.subarray(at, Math.min(at + PAGE_BYTES, out.length)), at);
  }
  return out;
}
