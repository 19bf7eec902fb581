/**
 * What the programs must know of the running kernel: where in its structures, or in the records of classic tracepoints,
 * an event says which disk, which operation and which sectors. Read once; throws `unsupported` when something is missing.
 */
import { AfterimageError } from '../../../shared/errors.js';
import { Btf, type TracepointPrototype } from './btf.js';
import { readTracepointFormat } from './mounts.js';

export const EVENTS = ['block_bio_queue', 'block_rq_complete', 'block_bio_complete'] as const;
export type EventName = (typeof EVENTS)[number];

/** Offsets in bytes; `argument` is the index of the event's bio or request. */
export interface BtfEvent {
  readonly attachBtfId: number;
  readonly argument: number;
  readonly argumentCount: number;
}

export interface BtfTypes {
  readonly mode: 'btf';
  readonly events: Readonly<Record<EventName, BtfEvent>>;
  readonly bio: {
    readonly operation: number;
    readonly sector: number;
    readonly sizeBytes: number;
    /** Pointers to follow from a bio to its gendisk. */
    readonly toDisk: readonly number[];
  };
  readonly request: { readonly operation: number; readonly sector: number; readonly toDisk: readonly number[] };
  readonly disk: { readonly major: number; readonly firstMinor: number };
}

export interface ClassicEvent {
  readonly tracepointId: number;
  readonly device: number;
  readonly sector: number;
  readonly sectors: number;
  /** Operation as letters. */
  readonly letters: number;
}

export interface ClassicTypes {
  readonly mode: 'tracepoint';
  readonly events: Readonly<Record<EventName, ClassicEvent>>;
}

export type KernelTypes = BtfTypes | ClassicTypes;

function missing(what: string): AfterimageError {
  return new AfterimageError(`this kernel has no ${what}, so writes can't be followed`, {
    code: 'tracker-unsupported',
    kind: 'unsupported',
    hint: 'use the scan tracker on this machine',
  });
}

function found<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw missing(what);
  return value;
}

function btfEvent(btf: Btf, name: EventName, struct: string): BtfEvent {
  const prototype: TracepointPrototype = found(btf.tracepoint(name), `tracepoint ${name}`);
  const argument = prototype.arguments.indexOf(struct);
  if (argument < 0) throw missing(`${struct} in tracepoint ${name}`);
  return { attachBtfId: prototype.id, argument, argumentCount: prototype.arguments.length };
}

/** Before 5.12 a bio names its disk itself; before 5.17 a request does. */
function bioToDisk(btf: Btf): number[] {
  const bdev = btf.memberOffset('bio', 'bi_bdev');
  if (bdev === undefined) return [found(btf.memberOffset('bio', 'bi_disk'), 'bio.bi_disk')];
  return [bdev, found(btf.memberOffset('block_device', 'bd_disk'), 'block_device.bd_disk')];
}

function requestToDisk(btf: Btf): number[] {
  const direct = btf.memberOffset('request', 'rq_disk');
  if (direct !== undefined) return [direct];
  const queue = found(btf.memberOffset('request', 'q'), 'request.q');
  return [queue, found(btf.memberOffset('request_queue', 'disk'), 'request_queue.disk')];
}

export function btfTypes(btf: Btf): BtfTypes {
  const offset = (struct: string, member: string): number =>
    found(btf.memberOffset(struct, member), `${struct}.${member}`);
  const iterator = offset('bio', 'bi_iter');
  return {
    mode: 'btf',
    events: {
      block_bio_queue: btfEvent(btf, 'block_bio_queue', 'struct bio'),
      block_rq_complete: btfEvent(btf, 'block_rq_complete', 'struct request'),
      block_bio_complete: btfEvent(btf, 'block_bio_complete', 'struct bio'),
    },
    bio: {
      operation: offset('bio', 'bi_opf'),
      sector: iterator + offset('bvec_iter', 'bi_sector'),
      sizeBytes: iterator + offset('bvec_iter', 'bi_size'),
      toDisk: bioToDisk(btf),
    },
    request: {
      operation: offset('request', 'cmd_flags'),
      sector: offset('request', '__sector'),
      toDisk: requestToDisk(btf),
    },
    disk: { major: offset('gendisk', 'major'), firstMinor: offset('gendisk', 'first_minor') },
  };
}

function classicEvent(name: EventName): ClassicEvent {
  const format = readTracepointFormat(name);
  const field = (fieldName: string): number =>
    found(format.offsets.get(fieldName), `field ${fieldName} in tracepoint ${name}`);
  return {
    tracepointId: format.id,
    device: field('dev'),
    sector: field('sector'),
    sectors: field('nr_sector'),
    letters: field('rwbs'),
  };
}

export function classicTypes(): ClassicTypes {
  return {
    mode: 'tracepoint',
    events: {
      block_bio_queue: classicEvent('block_bio_queue'),
      block_rq_complete: classicEvent('block_rq_complete'),
      block_bio_complete: classicEvent('block_bio_complete'),
    },
  };
}

/** Types of the running kernel. The BTF is let go of at once: it costs some MiB. */
export const readKernelTypes = (mode: 'btf' | 'tracepoint'): KernelTypes =>
  mode === 'btf' ? btfTypes(Btf.ofRunningKernel()) : classicTypes();
