/** Processes that change the list of protected disks in the same instant: none loses what another has written. */
import { spawn } from 'node:child_process';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { loadProtection } from '../../agent/protection.js';
import { MIB } from '../../shared/units.js';
import { isRoot, LoopDisks } from '../quiesce/loop-disks.js';

const ROUNDS = 2;
const FILES = 8;

let disks: LoopDisks;
beforeEach(() => (disks = new LoopDisks()));
afterEach(() => disks.cleanUp());

/** Resolves to its exit code. */
const child = (...args: string[]): Promise<number | null> =>
  new Promise((resolve, reject) => {
    const script = ['--import', './test/helpers/ts-loader.mjs', 'test/disks/protecting-child.ts'];
    const process_ = spawn(process.execPath, [...script, ...args], { stdio: ['ignore', 'inherit', 'inherit'] });
    process_.once('error', reject);
    process_.once('close', resolve);
  });

it.skipIf(!isRoot)('three that protect and give up, one that follows a rule', { timeout: 180_000 }, async () => {
  for (let round = 0; round < ROUNDS; round++) {
    const stateDir = join(disks.folder, `state-${round}`);
    const files = [0, 1, 2].map(() => Array.from({ length: FILES }, () => disks.image(MIB)));
    const device = disks.attach(disks.image(MIB));
    const codes = await Promise.all([
      ...files.map((own) => child(stateDir, 'files', ...own)),
      child(stateDir, 'rule', basename(device)),
    ]);
    expect(codes).toEqual([0, 0, 0, 0]);
    const { disks: listed, kept } = await loadProtection(stateDir);
    const expected = [...files.flatMap((own) => own.filter((_, i) => i % 2 === 0)), device];
    expect(listed.map(({ path }) => path).sort()).toEqual(expected.sort());
    // The ids of those that were given up are known for ever.
    expect(kept).toHaveLength(files.flat().length + 1);
  }
});
