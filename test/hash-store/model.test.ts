/** The store does what the model does, whatever happens to the process between and within calls. */
import { describe, expect, test } from 'vitest';
import { checkHashes, checkSame, isState, sameHashes } from './check.js';
import type { HashStore } from '../../agent/cycle/hash-store/store.js';
import { Killed, MemoryFolder } from './memory-folder.js';
import {
  emptyModel,
  geometry,
  openStore,
  randomEnd,
  randomStep,
  seenOf,
  seenOfStore,
  segmentHashes,
  type Model,
  type Step,
} from './model.js';
import { firstSteps } from './plan.js';
import { Random } from './random.js';

describe('hash store against a model', () => {
  test('random calls, closed or killed between them', async () => {
    for (let seed = 1; seed <= 6; seed++) {
      const random = new Random(seed);
      let folder = new MemoryFolder();
      let { store, state } = await openStore(folder, 'boot');
      expect(state).toBe('created');
      let model = emptyModel;
      for (let i = 0; i < 150; i++) {
        const step = randomStep(model, random);
        await step.run(store);
        model = step.after;
        expect(seenOfStore(store), step.name).toBe(seenOf(model));
        if (random.chance(0.2)) await checkSame(store, model, random);
        if (!random.chance(0.15)) continue;
        const clean = random.chance(0.5);
        if (clean) await store.close();
        folder = folder.afterKill();
        ({ store, state } = await openStore(folder, 'boot'));
        expect(state).toBe(clean ? 'clean' : 'recovered');
        await checkSame(store, model, random);
      }
    }
  });

  test('killed at every single write: the state is that before or after the call', async () => {
    for (let seed = 100; seed < 104; seed++) {
      const steps = firstSteps(seed, 25);
      const dry = new MemoryFolder();
      const { store } = await openStore(dry, 'boot');
      for (const step of steps) await step.run(store);
      await store.close();
      let [before, after] = [0, 0];
      for (let at = 1; at <= dry.operations; at++) {
        const random = new Random(seed * 100_000 + at);
        const folder = new MemoryFolder();
        folder.killAt(at, random);
        const run = await runUntilKilled(folder, steps);
        const { store: reopened } = await openStore(folder.afterKill(), 'boot');
        const model = (await isState(reopened, run.before)) ? run.before : run.after;
        await checkSame(reopened, model, random);
        if (run.before === run.after) continue;
        if (model === run.before) before++;
        else after++;
      }
      expect(before).toBeGreaterThan(10);
      expect(after).toBeGreaterThan(10);
    }
  }, 60_000);

  test('killed during recovery, again and again', async () => {
    for (let seed = 200; seed < 230; seed++) {
      const random = new Random(seed);
      const steps = firstSteps(seed, 20);
      let folder = new MemoryFolder();
      folder.killAt(40 + random.below(150), random);
      const run = await runUntilKilled(folder, steps);
      for (let kill = 1; ; kill++) {
        folder = folder.afterKill();
        folder.killAt(kill, random);
        // Another boot makes recovery do all it ever does; the page cache is whole here.
        const opened = await openStore(folder, `boot-${kill}`).catch(ignoreKilled);
        if (opened === undefined) continue;
        folder.killAt(Infinity, random);
        const model = (await isState(opened.store, run.before)) ? run.before : run.after;
        await checkSame(opened.store, model, random);
        break;
      }
    }
  });
});

describe('power cuts', () => {
  test('after a close nothing is lost and nothing is doubted; after the next opening it may be', async () => {
    for (let seed = 500; seed < 560; seed++) {
      const random = new Random(seed);
      const folder = new MemoryFolder();
      const steps = firstSteps(seed, 30);
      const { store } = await openStore(folder, 'boot-0');
      for (const step of steps) await step.run(store);
      await store.close();
      const model = steps.at(-1)?.after ?? emptyModel;
      const off = folder.afterPowerCut(random);
      const opened = await openStore(off, 'boot-1');
      expect(opened.state).toBe('clean');
      await checkSame(opened.store, model, random);
      const next = randomStep(model, random);
      await next.run(opened.store);
      const again = await openStore(off.afterPowerCut(random), 'boot-2');
      expect(again.state).toBe('recovered');
      const isNext = await isState(again.store, next.after);
      expect(isNext || (await isState(again.store, model))).toBe(true);
    }
  });

  test('an earlier state whose hashes are right or not believed, never one in between', async () => {
    let [believed, doubted, lost] = [0, 0, 0];
    for (let seed = 300; seed < 420; seed++) {
      const random = new Random(seed);
      let folder = new MemoryFolder();
      let model: Model = emptyModel;
      for (let boot = 0; boot < 4; boot++) {
        const { store } = await openStore(folder, `boot-${boot}`);
        expect(seenOfStore(store)).toBe(seenOf(model));
        const opened = model;
        let untrusted = await checkHashes(store, model, random);
        believed += geometry.segmentCount - untrusted.length;
        doubted += untrusted.length;
        if (model.prepared !== null) {
          const step = randomEnd(model, random);
          await step.run(store);
          model = step.after;
          untrusted = await checkHashes(store, model, random);
        }
        await heal(store, model, untrusted);
        folder.killAt(folder.operations + 5 + random.below(120), random);
        const versions = await runRandomUntilKilled(store, [opened, model], random);
        folder = folder.afterPowerCut(random);
        const next = await openStore(folder.afterKill(), `boot-${boot + 1}`);
        expect(next.state).toBe('recovered');
        let found = versions.length - 1;
        while (found >= 0 && !(await isState(next.store, versions[found] ?? emptyModel))) found--;
        expect(found, `seed ${seed} boot ${boot}: ${seenOfStore(next.store)}`).toBeGreaterThanOrEqual(0);
        if (found < versions.length - 1) lost++;
        model = versions[found] ?? emptyModel;
      }
    }
    // The test must have seen all kinds.
    expect(believed).toBeGreaterThan(100);
    expect(doubted).toBeGreaterThan(100);
    expect(lost).toBeGreaterThan(50);
  }, 60_000);
});

async function heal(store: HashStore, model: Model, segments: number[]): Promise<void> {
  for (const segment of segments) {
    // Without a digest `model` is only one of the states that fit.
    const rule = model.unknown.size > 0 ? 'take' : 'must-agree';
    await store.replaceSegment(segment, segmentHashes(model, segment), rule);
    expect(sameHashes(await store.readSegment(segment), segmentHashes(model, segment))).toBe(true);
  }
}

function ignoreKilled(error: unknown): undefined {
  if (!(error instanceof Killed)) throw error;
}

async function runUntilKilled(folder: MemoryFolder, steps: Step[]): Promise<{ before: Model; after: Model }> {
  let before = emptyModel;
  let after = emptyModel;
  try {
    const { store } = await openStore(folder, 'boot');
    for (const step of steps) {
      after = step.after;
      await step.run(store);
      before = after;
    }
    await store.close();
  } catch (error) {
    ignoreKilled(error);
  }
  return { before, after };
}

/** Runs until the kill. Returns all states that the next boot may show: none older than the last durable one. */
async function runRandomUntilKilled(store: HashStore, start: readonly Model[], random: Random): Promise<Model[]> {
  let versions = [...start];
  try {
    for (;;) {
      const step = randomStep(versions[versions.length - 1] ?? emptyModel, random);
      versions.push(step.after);
      await step.run(store);
      if (step.durable) versions = [step.after];
    }
  } catch (error) {
    ignoreKilled(error);
  }
  return versions;
}
