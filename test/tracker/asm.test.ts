import { describe, expect, it } from 'vitest';
import { Assembler, FP, imm } from '../../agent/tracker/ebpf/asm.js';
import { btfTypes, type BtfTypes, type ClassicTypes } from '../../agent/tracker/ebpf/kernel-types.js';
import { mapSizes } from '../../agent/tracker/ebpf/maps/layout.js';
import { buildProgram, PROGRAM_NAMES } from '../../agent/tracker/ebpf/programs.js';
import { geometryOf } from '../../shared/blocks/geometry.js';
import { TIB } from '../../shared/units.js';
import type { Btf } from '../../agent/tracker/ebpf/btf.js';

const hex = (code: Buffer): string[] => code.toString('hex').match(/.{16}/g) ?? [];

describe('assembler', () => {
  it('encodes each kind of instruction', () => {
    const a = new Assembler({ orderedAtomics: false });
    a.mov(1, imm(-1)).mov(2, 1).alu('and', 3, imm(63)).alu('lsh', 3, 4);
    a.load(8, 1, FP, -8).load(4, 1, 2, 16).load(1, 1, 2, 3).store(8, FP, -16, 6).store(4, FP, -4, 9);
    a.atomicOr(1, 8, 3).atomicAdd(6, 0, 2).call(8).exit();
    expect(hex(a.build())).toEqual([
      'b7010000ffffffff',
      'bf12000000000000',
      '570300003f000000',
      '6f43000000000000',
      '79a1f8ff00000000',
      '6121100000000000',
      '7121030000000000',
      '7b6af0ff00000000',
      '639afcff00000000',
      'db31080040000000',
      'db26000000000000',
      '8500000008000000',
      '9500000000000000',
    ]);
  });

  it('loads 64-bit constants and addresses of maps in two slots', () => {
    const a = new Assembler({ orderedAtomics: false });
    a.mov64(1, 0x1_2345_6789n).mov64(2, 0xffff_ffffn).mapHandle(3, 7).mapValue(4, 9, 128);
    expect(hex(a.build())).toEqual([
      '1801000089674523',
      '0000000001000000',
      '18020000ffffffff',
      '0000000000000000',
      '1813000007000000',
      '0000000000000000',
      '1824000009000000',
      '0000000080000000',
    ]);
  });

  it('resolves jumps both ways', () => {
    const a = new Assembler({ orderedAtomics: false });
    a.label('top')
      .jumpIf(1, 'eq', imm(5), 'end')
      .jumpIf(1, 'lt', 2, 'top')
      .jump('end')
      .mov(0, imm(0))
      .label('end')
      .exit();
    expect(hex(a.build())).toEqual([
      '1501030005000000',
      'ad21feff00000000',
      '0500010000000000',
      'b700000000000000',
      '9500000000000000',
    ]);
  });

  it('fetches with atomics where only that is ordered', () => {
    const a = new Assembler({ orderedAtomics: true });
    expect(hex(a.atomicOr(1, 0, 2).atomicAdd(1, 0, 2).build())).toEqual(['db21000041000000', 'db21000001000000']);
  });

  it('refuses labels that are missing or stand twice', () => {
    const a = new Assembler({ orderedAtomics: false });
    expect(() => a.label('x').label('x')).toThrow('twice');
    expect(() => a.jump('y').build()).toThrow('label y is missing');
  });
});

describe('programs', () => {
  const event = { attachBtfId: 1, argument: 0, argumentCount: 3 };
  const btf: BtfTypes = {
    mode: 'btf',
    events: { block_bio_queue: event, block_rq_complete: event, block_bio_complete: event },
    bio: { operation: 16, sector: 32, sizeBytes: 40, toDisk: [8, 64] },
    request: { operation: 24, sector: 48, toDisk: [0, 72] },
    disk: { major: 0, firstMinor: 4 },
  };
  const classicEvent = { tracepointId: 1, device: 8, sector: 16, sectors: 24, letters: 32 };
  const classic: ClassicTypes = {
    mode: 'tracepoint',
    events: { block_bio_queue: classicEvent, block_rq_complete: classicEvent, block_bio_complete: classicEvent },
  };
  const fd = 3;
  const target = {
    major: 7,
    minor: 1,
    startSector: 2048,
    sectorCount: TIB / 512,
    sectorsPerBlock: 8,
    sizes: mapSizes(geometryOf(TIB, 4096), 2),
    controlFd: fd,
    mapFds: { marks: fd, summary: fd, coarse: fd, pending: fd, suspects: fd, filter: fd, slots: fd, identity: fd },
  };

  it.each(PROGRAM_NAMES)('%s is built for both ways to attach and both kinds of atomics', (name) => {
    for (const types of [btf, classic]) {
      for (const orderedAtomics of [false, true]) {
        const { code } = buildProgram(name, types, target, { orderedAtomics });
        const atomics = hex(code).filter((instruction) => instruction.startsWith('db'));
        expect(atomics.length).toBeGreaterThan(3);
        for (const atomic of atomics) expect(atomic.endsWith('1000000')).toBe(orderedAtomics);
      }
    }
  });

  it('says what a kernel lacks', () => {
    const none = { memberOffset: () => undefined, tracepoint: () => undefined } as unknown as Btf;
    expect(() => btfTypes(none)).toThrow('this kernel has no bio.bi_iter');
  });
});
