/** A process that is killed at random moments, on a real file system. */
import { spawn } from 'node:child_process';
import { cp } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { checkSame, isState } from './check.js';
import { emptyModel, openStore } from './model.js';
import { firstSteps } from './plan.js';
import { Random } from './random.js';

const SEED = 7;
const KILLS = 12;
removeTempFolders();

/** Lets a child go on from a step, kills it after a while. Returns how many steps it finished. */
async function runAndKill(folder: string, next: number, afterMs: number): Promise<number> {
  const child = spawn(
    process.execPath,
    ['--import', './test/helpers/ts-loader.mjs', 'test/hash-store/killed-child.ts', folder, String(SEED), String(next)],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  let out = '';
  const opened = new Promise<void>((resolve) => {
    child.stdout.on('data', (data: Buffer) => {
      out += data.toString();
      resolve();
    });
  });
  const closed = new Promise((resolve) => child.on('close', resolve));
  await Promise.race([opened, closed]);
  await setTimeout(afterMs);
  child.kill('SIGKILL');
  await closed;
  expect(child.signalCode).toBe('SIGKILL');
  return Number(out.trim().split('\n').at(-1)) || next;
}

test(`${KILLS} kills at random moments`, async () => {
  const random = new Random(SEED);
  const folder = await tempFolder('hash-store-kill');
  let done = 0;
  let states = 0;
  for (let kill = 0; kill < KILLS; kill++) {
    const finished = await runAndKill(folder, done, random.below(60));
    const steps = firstSteps(SEED, finished + 1);
    const [before, after] = [steps[finished - 1]?.after ?? emptyModel, steps[finished]?.after ?? emptyModel];
    // A copy is looked at, so that the next child recovers by itself.
    const copy = join(await tempFolder('hash-store-copy'), 'store');
    await cp(folder, copy, { recursive: true });
    const { store, state } = await openStore(copy, 'boot');
    expect(state).toBe('recovered');
    const unchanged = await isState(store, before);
    await checkSame(store, unchanged ? before : after, random);
    await store.close();
    done = finished + (unchanged ? 0 : 1);
    states += done - finished;
  }
  console.info(`hash store: ${KILLS} kills, ${done} steps, ${states} found after the step that was cut`);
  expect(done).toBeGreaterThan(KILLS);
}, 120_000);
