/**
 * Bugs that are planted on purpose, each a way in which a guard could be missing. The simulation must catch every one of them, or it proves nothing by
 * being content with the code as it is. A bug is planted by standing between real parts, or by replacing one method of one; each gets some seeds.
 */
import { afterEach, expect, it, vi } from 'vitest';
import { HashStore } from '../../agent/cycle/hash-store/store.js';
import type { MarkTracker } from '../../agent/tracker/tracker.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { BlockSet } from '../../shared/blocks/block-set.js';
import type { MachineShape } from './machine.js';
import type { Plan } from './plan.js';
import { runWorld, type Bugs } from './world.js';

/** Seeds that a bug may take to show. */
const SEEDS_MAX = 12;
const FIRST_SEED = 1_000;

const busy: MachineShape = {
  disks: [{ sizeBytes: 1024 * 1024, blockBytes: 4096 }],
  workload: {
    writers: 3,
    thinkMs: 60,
    deviceMs: 10,
    hotShare: 0.1,
    burstBlocks: 10,
    burstChance: 0.1,
    raceChance: 0.5,
  },
};

const BASE: Partial<Plan> = {
  machines: [busy],
  receivers: 2,
  interval: '1s',
  netLatencyMs: 2,
  storeLatencyMs: 5,
  storePageNames: 100,
  faultyMs: 60_000,
  healingMs: 300_000,
  checks: 4,
  faults: new Set(),
  faultEveryMs: 10_000,
  store: { error: 0.01, lostRequest: 0.01, lostReply: 0.01, late: 0.01, repeated: 0.01 },
  tracker: { missedCompletion: 0, missedSubmission: 0, falseHit: 0 },
};

/** A thing of which some methods are replaced. */
function wrapped<T extends object>(thing: T, replaced: Partial<T>): T {
  return new Proxy(thing, {
    get(target, name): unknown {
      const mine: unknown = Reflect.get(replaced, name);
      if (mine !== undefined) return mine;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
}

const isManifest = (name: string): boolean => name.includes('/manifest/');

interface Planted {
  readonly bug: string;
  readonly plan: Partial<Plan>;
  readonly bugs?: Bugs;
  /** Replaces methods of classes; undone after the test. */
  readonly spy?: () => void;
}

const trackerBug = (change: (tracker: MarkTracker) => Partial<MarkTracker>): Bugs => ({
  wrapTracker: (tracker) => wrapped(tracker, change(tracker)),
});

const PLANTED: readonly Planted[] = [
  {
    bug: 'the receiver acknowledges a commit before it is durable',
    plan: { faults: new Set(['receiver-crash', 'store-requests']) },
    bugs: {
      wrapStore: (store) =>
        wrapped<ObjectStore>(store, {
          createIfAbsent: async (name, bytes) => {
            const result = store.createIfAbsent(name, bytes);
            if (!isManifest(name)) return result;
            result.catch(() => undefined);
            return 'created';
          },
        }),
    },
  },
  {
    bug: 'a commit overwrites whatever has its number: no fence',
    plan: { faults: new Set(['receiver-stall', 'reroute', 'partition']) },
    bugs: {
      wrapStore: (store, service) =>
        wrapped<ObjectStore>(store, {
          createIfAbsent: (name, bytes) => {
            if (isManifest(name)) service.objects.delete(name);
            return store.createIfAbsent(name, bytes);
          },
        }),
    },
  },
  {
    bug: 'an owner that was fenced takes it for its own success',
    plan: { faults: new Set(['takeover']) },
    bugs: {
      wrapStore: (store) =>
        wrapped<ObjectStore>(store, {
          createIfAbsent: async (name, bytes) => {
            await store.createIfAbsent(name, bytes);
            return 'created';
          },
        }),
    },
  },
  {
    bug: 'the agent forgets marks when they are taken, not when they are committed',
    plan: { faults: new Set(['agent-crash']) },
    bugs: trackerBug((tracker) => ({
      take: () => {
        const take = tracker.take();
        for (const id of take.disks.keys()) tracker.committed(id, new BlockSet());
        return take;
      },
    })),
  },
  {
    bug: 'the agent forgets at a commit what it had taken for the next cycle',
    plan: { faults: new Set(['agent-crash']), faultEveryMs: 3_000 },
    bugs: trackerBug((tracker) => ({ committed: (id) => tracker.committed(id, new BlockSet()) })),
  },
  {
    bug: 'a cut is called one without a look at what was submitted meanwhile',
    plan: {},
    bugs: trackerBug((tracker) => ({
      take: () => {
        const take = tracker.take();
        const naive = { mayHold: () => false };
        return {
          ...take,
          disks: new Map([...take.disks].map(([id, { marked }]) => [id, { marked, submitted: naive }])),
        };
      },
    })),
  },
  {
    bug: 'writes are marked when they are submitted, not when they complete',
    plan: {},
    bugs: {
      changeMachine: ({ disks }) => {
        for (const disk of disks) disk.hooks = { ...disk.hooks, completed: () => undefined };
      },
    },
  },
  {
    bug: 'completions that went unseen are not read again',
    plan: { faults: new Set(['missed-marks']), tracker: { missedCompletion: 0.02, missedSubmission: 0, falseHit: 0 } },
    bugs: trackerBug((tracker) => ({
      audit: (id) => {
        tracker.audit(id);
        return { kind: 'balanced' };
      },
    })),
  },
  {
    bug: 'a commit in doubt is taken for one that failed',
    plan: { faults: new Set(['connection-loss', 'receiver-crash']), faultEveryMs: 2_000 },
    spy: () => {
      vi.spyOn(HashStore.prototype, 'commit').mockImplementation(async function (this: HashStore, cycle) {
        await this.drop(cycle);
      });
    },
  },
];

afterEach(() => {
  vi.restoreAllMocks();
});

it.each(PLANTED)('is caught: $bug', async ({ plan, bugs = {}, spy }) => {
  spy?.();
  let caught: readonly string[] = [];
  for (let i = 0; i < SEEDS_MAX && caught.length === 0; i++) {
    const result = await runWorld({ seed: FIRST_SEED + i, plan: { ...BASE, ...plan }, bugs });
    caught = result.violations;
  }
  expect(caught).not.toEqual([]);
});
