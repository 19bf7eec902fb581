/**
 * Bugs that are planted on purpose, each a way in which a guard could be missing. The simulation must catch every one of them, or it proves nothing by
 * being content with the code as it is. A bug is planted by standing between real parts, or by replacing one method of one; each gets some seeds.
 */
import { afterEach, expect, it, vi } from 'vitest';
import { HashStore } from '../../agent/cycle/hash-store/store.js';
import type { MarkTracker } from '../../agent/tracker/tracker.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { plainHasher } from '../../shared/crypto/block-hasher.js';
import { MachineCipher } from '../../shared/crypto/machine-cipher.js';
import { busy, violationsWith, wrapped, type Hunt } from './bug.js';
import type { Plan } from './plan.js';
import type { Bugs } from './world.js';

const isManifest = (name: string): boolean => name.includes('/manifest/');

interface Planted {
  readonly bug: string;
  readonly plan: Partial<Plan>;
  readonly hunt?: Hunt;
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
    hunt: { from: 1002 },
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
    hunt: { from: 1021 },
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
    hunt: { from: 1005 },
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
    hunt: { from: 1003 },
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
    hunt: { from: 1003 },
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
  {
    bug: 'a machine that is to be encrypted is written in the clear',
    plan: { atRest: true },
    spy: () => {
      vi.spyOn(MachineCipher.prototype, 'sealer').mockReturnValue(null);
    },
  },
  {
    bug: 'digests of plain hashes are shown to whoever reads the store',
    plan: { atRest: true },
    spy: () => {
      vi.spyOn(MachineCipher.prototype, 'hideDigest').mockImplementation((_disk, digest) => digest);
    },
  },
  {
    bug: 'a source that is to encrypt hashes its blocks without its key',
    plan: { machines: [{ ...busy, encrypts: true }] },
    spy: () => {
      vi.spyOn(MachineCipher.prototype, 'hasherFor').mockReturnValue(plainHasher);
      vi.spyOn(MachineCipher.prototype, 'hasherOf').mockReturnValue(plainHasher);
    },
  },
];

afterEach(() => {
  vi.restoreAllMocks();
});

it.each(PLANTED)('is caught: $bug', async ({ plan, bugs = {}, spy, hunt }) => {
  spy?.();
  expect(await violationsWith(plan, bugs, hunt)).not.toEqual([]);
});
