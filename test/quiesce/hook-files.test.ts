/** Which hooks are run, in which order, and which are refused. */
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { boundedLines } from '../../agent/quiesce/hooks/bounded-lines.js';
import { findHooks, type HookSettings } from '../../agent/quiesce/hooks/hook-files.js';
import { descendantsOf, remainingOf } from '../../agent/quiesce/hooks/process-tree.js';
import { isRoot } from './loop-disks.js';

describe('hook files', () => {
  let dir: string;
  beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'afterimage-hooks-'))));
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  const add = (name: string, mode = 0o755): string => {
    writeFileSync(join(dir, name), '#!/bin/sh\n');
    chmodSync(join(dir, name), mode);
    return join(dir, name);
  };
  const find = (more: Partial<HookSettings> = {}): ReturnType<typeof findHooks> =>
    findHooks({ dir, timeout: 1000, timeouts: {}, ...more });
  const names = (): string[] => find().hooks.map(({ name }) => name);

  it('are called in the order of their names, by bytes', () => {
    for (const name of ['b', '20-x', 'B', '100-y', 'ä']) add(name);
    expect(names()).toEqual(['100-y', '20-x', 'B', 'b', 'ä']);
  });

  it('are not what editors and package managers leave behind', () => {
    for (const name of ['10-a', '10-a~', '.swp', '10-a.bak', '10-a.dpkg-old', '10-a.rpmsave', '10-a.disabled'])
      add(name);
    add('README.md', 0o644);
    expect(find()).toMatchObject({ hooks: [{ name: '10-a' }], refused: [] });
  });

  it('have their own time limits', () => {
    for (const name of ['a', 'b']) add(name);
    expect(find({ timeouts: { b: 5000 } }).hooks.map(({ timeoutMs }) => timeoutMs)).toEqual([1000, 5000]);
  });

  it('end with the script of Site Recovery, called in its way', () => {
    add('10-a');
    const other = mkdtempSync(join(tmpdir(), 'afterimage-asr-'));
    const script = join(other, 'customscript.sh');
    writeFileSync(script, '#!/bin/sh\n', { mode: 0o755 });
    expect(find({ script }).hooks.map(({ name, style }) => [name, style])).toEqual([
      ['10-a', 'word'],
      ['customscript.sh', 'option'],
    ]);
    rmSync(other, { recursive: true });
    expect(find({ script }).refused).toMatchObject([{ name: 'customscript.sh' }]);
  });

  it('a folder that is not there has none', () => {
    expect(find({ dir: join(dir, 'missing') })).toEqual({ hooks: [], refused: [] });
  });

  it.each([
    ['not executable', 0o644, 'it is not executable'],
    ['writable by its group', 0o775, 'can be written by others'],
    ['writable by all', 0o757, 'can be written by others'],
  ])('are refused when %s', (_, mode, why) => {
    add('10-a', mode);
    const { hooks, refused } = find();
    expect(hooks).toEqual([]);
    expect(refused[0]?.why).toContain(why);
  });

  it('are refused when the folder can be written by others, or what a link leads to', () => {
    const other = mkdtempSync(join(tmpdir(), 'afterimage-other-'));
    writeFileSync(join(other, 'x'), '#!/bin/sh\n', { mode: 0o755 });
    chmodSync(join(other, 'x'), 0o777);
    symlinkSync(join(other, 'x'), join(dir, '10-link'));
    mkdirSync(join(dir, '20-folder'));
    expect(find().refused.map(({ name }) => name)).toEqual(['10-link', '20-folder']);
    rmSync(other, { recursive: true });
    chmodSync(dir, 0o777);
    expect(find()).toMatchObject({ hooks: [], refused: [{ name: dir }] });
  });

  it.skipIf(!isRoot)('are refused when they belong to another user', () => {
    chownSync(add('10-a'), 12345, 0);
    expect(find().refused[0]?.why).toContain('belongs to user 12345');
  });
});

describe('processes of a hook', () => {
  const entry = (
    pid: number,
    parent: number,
    startTicks = pid,
  ): { pid: number; parent: number; startTicks: number } => ({
    pid,
    parent,
    startTicks,
  });
  const all = [entry(1, 0), entry(10, 1), entry(11, 10), entry(12, 11), entry(20, 1), entry(21, 20)];

  it('are all below it', () => {
    expect(descendantsOf(10, all).map(({ pid }) => pid)).toEqual([11, 12]);
    expect(descendantsOf(99, all)).toEqual([]);
  });

  it('remain when they are the same ones still, with all they started since', () => {
    const before = descendantsOf(10, all);
    const now = [entry(1, 0), entry(11, 1, 77), entry(12, 1), entry(30, 12), entry(31, 30), entry(40, 11)];
    // 11 is another process by now.
    expect(remainingOf(before, now).map(({ pid }) => pid)).toEqual([12, 30, 31]);
  });
});

describe('lines of output', () => {
  it('are cut, joined over pieces, and never pile up', () => {
    const lines: string[] = [];
    const take = boundedLines(5, (line) => lines.push(line));
    const euro = Buffer.from('€');
    for (const piece of [
      Buffer.from('ab'),
      Buffer.from('c\n\nlonger than that\r\nx'),
      euro.subarray(0, 1),
      euro.subarray(1),
    ])
      take(piece);
    for (let i = 0; i < 1000; i++) take(Buffer.alloc(1000, 'y'));
    take(Buffer.from('\nlast\n'));
    expect(lines).toEqual(['abc', 'longe', 'x€yyy', 'last']);
  });
});
