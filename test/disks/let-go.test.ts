/** A list of disks that was changed while the agent can't close one of them: bounded, told, and nothing half done. */
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { letGoWithin } from '../../agent/let-go.js';
import { protect, unprotect } from '../../agent/protect.js';
import { loadProtection } from '../../agent/protection.js';
import { MIB } from '../../shared/units.js';
import { isRoot, LoopDisks } from '../quiesce/loop-disks.js';

/** Time that passes when it is told to. */
function handClock() {
  const sleepers: { ms: number; end: () => void }[] = [];
  return {
    sleepers,
    sleep: (ms: number, signal?: AbortSignal): Promise<void> =>
      new Promise((resolve) => {
        sleepers.push({ ms, end: resolve });
        signal?.addEventListener('abort', () => resolve(), { once: true });
      }),
  };
}

it('disks that are closed in time', async () => {
  const clock = handClock();
  await letGoWithin(Promise.resolve(), 60_000, clock);
  expect(clock.sleepers.map(({ ms }) => ms)).toEqual([60_000]);
});

it('a disk that does not answer is told of, not waited for', async () => {
  const clock = handClock();
  const waiting = letGoWithin(new Promise<void>(() => undefined), 60_000, clock);
  clock.sleepers[0]?.end();
  await expect(waiting).rejects.toMatchObject({ code: 'disks-busy', kind: 'refused' });
  await expect(waiting).rejects.toThrow(/not let go of its disks within 60 s/);
});

let disks: LoopDisks;
beforeEach(() => (disks = new LoopDisks()));
afterEach(() => disks.cleanUp());

it.skipIf(!isRoot)('a disk that the agent still has open stays protected, with all that is kept of it', async () => {
  const stateDir = join(disks.folder, 'state');
  const file = disks.image(MIB);
  let ids = 0;
  const [added] = await protect(stateDir, [file], () => `0b0b0b0b-0000-4000-8000-00000000000${ids++}`);
  const hashes = join(stateDir, 'hashes', added?.id ?? '');
  mkdirSync(hashes, { recursive: true });
  const before = await loadProtection(stateDir);
  const seen: number[] = [];
  const options = {
    pinDirectory: join(disks.folder, 'no-pins'),
    ruleFor: () => null,
    takeBack: async () => void seen.push((await loadProtection(stateDir)).disks.length),
  };
  const busy = async (): Promise<void> => {
    seen.push((await loadProtection(stateDir)).disks.length);
    throw new Error('busy');
  };
  await expect(unprotect(stateDir, file, { ...options, reload: busy })).rejects.toThrow('busy');
  // The agent was asked with the disk gone from the list, and told once it was back.
  expect(seen).toEqual([0, 1]);
  expect(await loadProtection(stateDir)).toEqual(before);
  expect(existsSync(hashes)).toBe(true);
  await unprotect(stateDir, file, { ...options, reload: async () => undefined });
  expect((await loadProtection(stateDir)).disks).toEqual([]);
  expect(existsSync(hashes)).toBe(false);
});
