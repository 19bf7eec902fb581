import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Btf, KERNEL_BTF_PATH } from '../../agent/tracker/ebpf/btf.js';
import { btfTypes } from '../../agent/tracker/ebpf/kernel-types.js';
import { parseTracepointFormat } from '../../agent/tracker/ebpf/mounts.js';

/** A tiny BTF: struct inner { ; union { int a; int b }; int c }, typedef btf_trace_t for void (*)(void *, const struct inner *, int). */
function sample(): Buffer {
  const strings = ['', 'int', 'inner', 'a', 'b', 'c', 'btf_trace_t'];
  const offsets = strings.map((_, i) => strings.slice(0, i).reduce((sum, s) => sum + s.length + 1, 0));
  const at = (s: string): number => offsets[strings.indexOf(s)] ?? 0;
  const info = (kind: number, elements: number): number => ((kind << 24) | elements) >>> 0;
  const types = [
    ...[at('int'), info(1, 0), 4, 32], // 1 int
    ...[0, info(5, 2), 4, at('a'), 1, 0, at('b'), 1, 0], // 2 union
    ...[at('inner'), info(4, 2), 12, 0, 2, 32, at('c'), 1, 64], // 3 struct
    ...[0, info(10, 0), 3], // 4 const struct inner
    ...[0, info(2, 0), 4], // 5 pointer to it
    ...[0, info(2, 0), 0], // 6 void *
    ...[0, info(13, 3), 0, 0, 6, 0, 5, 0, 1], // 7 prototype
    ...[0, info(2, 0), 7], // 8 pointer to it
    ...[at('btf_trace_t'), info(8, 0), 8], // 9 typedef
  ];
  const text = Buffer.from(strings.map((s) => `${s}\0`).join(''));
  const header = Buffer.alloc(24);
  header.writeUInt16LE(0xeb9f, 0);
  [24, 0, types.length * 4, types.length * 4, text.length].forEach((v, i) => header.writeUInt32LE(v, 4 + i * 4));
  const body = Buffer.alloc(types.length * 4);
  types.forEach((v, i) => body.writeUInt32LE(v, i * 4));
  return Buffer.concat([header, body, text]);
}

describe('BTF', () => {
  it('finds members, also within anonymous unions', () => {
    const btf = new Btf(sample());
    expect(['a', 'b', 'c', 'd'].map((name) => btf.memberOffset('inner', name))).toEqual([4, 4, 8, undefined]);
    expect(btf.memberOffset('outer', 'a')).toBeUndefined();
  });

  it('reads the prototype of a tracepoint', () => {
    const btf = new Btf(sample());
    expect(btf.tracepoint('t')).toEqual({ id: 9, arguments: ['struct inner', 'other'] });
    expect(btf.tracepoint('u')).toBeUndefined();
  });

  it('refuses other files', () => {
    expect(() => new Btf(Buffer.alloc(64))).toThrow('not BTF');
    expect(() => new Btf(Buffer.alloc(3))).toThrow('not BTF');
  });

  it.skipIf(!existsSync(KERNEL_BTF_PATH))('describes the running kernel', () => {
    const types = btfTypes(Btf.ofRunningKernel());
    expect(types.events.block_rq_complete.argumentCount).toBeGreaterThanOrEqual(3);
    expect(types.bio.sizeBytes).toBeGreaterThan(types.bio.sector);
  });
});

describe('format of a classic tracepoint', () => {
  it('gives the offset of each field, arrays too', () => {
    const text = [
      '\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;',
      '\tfield:dev_t dev;\toffset:8;\tsize:4;\tsigned:0;',
      '\tfield:char rwbs[10];\toffset:28;\tsize:10;\tsigned:1;',
    ].join('\n');
    const { id, offsets } = parseTracepointFormat(7, text);
    expect([id, offsets.get('dev'), offsets.get('rwbs'), offsets.get('comm')]).toEqual([7, 8, 28, undefined]);
  });
});
