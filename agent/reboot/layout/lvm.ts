/**
 * Where logical volumes begin on a physical volume, by LVM's own metadata on it (format: lvm2's text format, `vgcfgbackup` writes the same). Read from
 * the disk and not from device mapper, as volumes are switched off by the time it is asked. Pure on the bytes given.
 */
import type { ReadAt } from './bytes.js';
import { lvmLabelAt } from './signature.js';

const SECTOR_BYTES = 512;
const LABEL_AREA_BYTES = 4 * SECTOR_BYTES;
/** Of the text; a group of ten thousand volumes has less. */
const TEXT_BYTES_MAX = 16 * 1024 * 1024;

export interface VolumeStart {
  readonly name: string;
  /** Where the volume begins and how far it goes on in one piece, in bytes from the beginning of the physical volume. */
  readonly offset: number;
  readonly length: number;
}

export type LvmLayout = { readonly volumes: readonly VolumeStart[] } | { readonly doubt: string };

type Value = string | number | readonly Value[] | Section;
interface Section {
  readonly [key: string]: Value;
}

const isSection = (value: Value | undefined): value is Section =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Words of the text: names, numbers, strings, and the marks { } [ ] = , */
function wordsOf(text: string): string[] {
  return [...text.matchAll(/"(?:[^"\\]|\\.)*"|#[^\n]*|[{}[\]=,]|[^\s{}[\]=,#"]+/g)]
    .map(([word]) => word)
    .filter((word) => !word.startsWith('#'));
}

class Reader {
  readonly #words: readonly string[];
  #at = 0;

  constructor(text: string) {
    this.#words = wordsOf(text);
  }

  section(): Section {
    const section: Record<string, Value> = {};
    for (let name = this.#next(); name !== undefined && name !== '}'; name = this.#next()) {
      const mark = this.#next();
      if (mark === '{') section[name] = this.section();
      else if (mark === '=') section[name] = this.#value();
      else throw new Error(`"${mark ?? ''}" after "${name}"`);
    }
    return section;
  }

  #next(): string | undefined {
    return this.#words[this.#at++];
  }

  #value(): Value {
    const word = this.#next();
    if (word === undefined) throw new Error('it ends too early');
    if (word !== '[') return plain(word);
    const list: Value[] = [];
    for (let item = this.#next(); item !== ']'; item = this.#next()) {
      if (item === undefined) throw new Error('it ends too early');
      if (item !== ',') list.push(plain(item));
    }
    return list;
  }
}

const plain = (word: string): string | number => {
  if (word.startsWith('"')) return word.slice(1, -1);
  const number = Number(word);
  return Number.isNaN(number) ? word : number;
};

/** Offset of the newest metadata text and its length; null when the header isn't one that we understand. */
function textRange(read: ReadAt): { offset: number; length: number; uuid: string } | null {
  const head = read(0, LABEL_AREA_BYTES);
  const label = lvmLabelAt(head);
  if (label === null) return null;
  const header = label + head.readUInt32LE(label + 20);
  const uuid = head.toString('latin1', header, header + 32);
  // UUID, size, then two lists of (offset, size), each ended by zeroes: data areas, metadata areas.
  let at = header + 40;
  const entry = (): number => Number(head.readBigUInt64LE(at));
  while (entry() !== 0) at += 16;
  at += 16;
  const areaOffset = entry();
  const areaBytes = Number(head.readBigUInt64LE(at + 8));
  if (areaOffset === 0) return null;
  const area = read(areaOffset, SECTOR_BYTES);
  if (area.toString('latin1', 4, 20) !== ' LVM2 x[5A%r0N*>') return null;
  const offset = Number(area.readBigUInt64LE(40));
  const length = Number(area.readBigUInt64LE(48));
  // A text that goes over the end of its ring is put together by nobody here.
  if (offset === 0 || length === 0 || length > TEXT_BYTES_MAX || offset + length > areaBytes) return null;
  return { offset: areaOffset + offset, length, uuid };
}

export function lvmLayout(read: ReadAt): LvmLayout {
  try {
    const range = textRange(read);
    if (range === null) return { doubt: 'a physical volume whose metadata is not understood' };
    const text = read(range.offset, range.length).toString('utf8').replaceAll('\0', '');
    return volumesIn(text, range.uuid);
  } catch (error) {
    return { doubt: `a physical volume whose metadata can't be read: ${error instanceof Error ? error.message : ''}` };
  }
}

const same = (a: Value | undefined, uuid: string): boolean => typeof a === 'string' && a.replaceAll('-', '') === uuid;
const numberOf = (section: Section, key: string): number => {
  const value = section[key];
  if (typeof value !== 'number') throw new Error(`${key} is no number`);
  return value;
};

/** `uuid`: of the physical volume that was read. */
export function volumesIn(text: string, uuid: string): LvmLayout {
  const group = Object.values(new Reader(text).section()).find(isSection);
  if (group === undefined) return { doubt: 'a volume group without content' };
  const sections = (key: string): [string, Section][] =>
    Object.entries(isSection(group[key]) ? group[key] : {}).flatMap(([name, value]) =>
      isSection(value) ? [[name, value]] : [],
    );
  const self = sections('physical_volumes').find(([, pv]) => same(pv['id'], uuid));
  if (self === undefined) return { doubt: 'a physical volume that its own metadata does not know' };
  const [selfName, pv] = self;
  const extentBytes = numberOf(group, 'extent_size') * SECTOR_BYTES;
  const dataOffset = numberOf(pv, 'pe_start') * SECTOR_BYTES;
  const volumes: VolumeStart[] = [];
  for (const [name, volume] of sections('logical_volumes')) {
    const segments = Object.values(volume).filter(isSection);
    if (!segments.some((segment) => liesOn(segment, selfName))) continue;
    const first = segments.find((segment) => segment['start_extent'] === 0);
    const simple = segments.every((s) => s['type'] === 'striped' && s['stripe_count'] === 1);
    if (first === undefined || !simple) return { doubt: `the logical volume ${name} is not linear` };
    const start = stripesOf(first);
    if (start[0] !== selfName) return { doubt: `the logical volume ${name} begins on another disk` };
    volumes.push({
      name,
      offset: dataOffset + Number(start[1]) * extentBytes,
      length: numberOf(first, 'extent_count') * extentBytes,
    });
  }
  return { volumes };
}

const stripesOf = (segment: Section): readonly Value[] => {
  const stripes = segment['stripes'];
  return Array.isArray(stripes) ? (stripes as readonly Value[]) : [];
};

/** Of a kind that we don't know, a segment may lie anywhere. */
const liesOn = (segment: Section, pv: string): boolean =>
  segment['type'] !== 'striped' || stripesOf(segment).includes(pv);
