/**
 * Bugs planted in what goes there and home again: planned failover, test failover, reprotect and failback, the restore of home's disks, what a source is
 * told, whether who has a copy is asked. As in planted.test.ts each must be caught.
 */
import { afterEach, expect, it, vi } from 'vitest';
import { AgentStatus } from '../../agent/status.js';
import { LocalHashes } from '../../agent/restore/local-hashes.js';
import { AfterimageError } from '../../shared/errors.js';
import { Copy } from '../../receiver/failover/copy.js';
import { steadyFleet, steadyPlan, violationsWith, type Hunt } from './bug.js';
import type { MachineShape } from './machine.js';
import { SMALL, type FleetPlan, type Plan } from './plan.js';
import { SimTarget } from './restore-target.js';

/** Of so many blocks that a sample finds few of them. */
const WIDE: MachineShape = { ...SMALL, disks: [{ sizeBytes: 3 * 1024 * 1024, blockBytes: 4096 }] };

const FLEET: FleetPlan = { ...steadyFleet('switchover'), machines: [] };
const PLAN = steadyPlan(5_000);

type Bug =
  | 'says-nothing'
  | 'turned-away-without-a-reason'
  | 'nobody-is-asked'
  | 'raised-after-boot'
  | 'right-before-generation'
  | 'an-older-last-cut';
const planted = vi.hoisted((): { bug: Bug | null; raise: (() => Promise<unknown>) | null } => ({
  bug: null,
  raise: null,
}));

vi.mock('../../receiver/failover/take-generation.js', async (original) => {
  const real = await original<typeof import('../../receiver/failover/take-generation.js')>();
  return {
    takeGeneration: (...args: Parameters<typeof real.takeGeneration>) => {
      const [parts, , , expected, change] = args;
      const isFailback = change !== undefined;
      if (planted.bug === 'right-before-generation' && isFailback) {
        void parts.clock.sleep(1_000).then(() => real.takeGeneration(...args));
        return Promise.resolve(expected + 1);
      }
      if (planted.bug !== 'raised-after-boot' || isFailback) return real.takeGeneration(...args);
      planted.raise = () => real.takeGeneration(...args);
      return Promise.resolve(expected + 1);
    },
  };
});

vi.mock('../../receiver/failover/ownership.js', async (original) => {
  const real = await original<typeof import('../../receiver/failover/ownership.js')>();
  return {
    ...real,
    askOwner: (...args: Parameters<typeof real.askOwner>) =>
      planted.bug === 'nobody-is-asked' ? Promise.resolve(null) : real.askOwner(...args),
  };
});

vi.mock('../../receiver/catalog/recovery-io.js', async (original) => {
  const real = await original<typeof import('../../receiver/catalog/recovery-io.js')>();
  return {
    ...real,
    loadRecovery: async (...args: Parameters<typeof real.loadRecovery>) => {
      const recovery = await real.loadRecovery(...args);
      if (planted.bug !== 'turned-away-without-a-reason' || recovery?.home.mode !== 'refused') return recovery;
      throw new AfterimageError('planted', { code: 'planted', kind: 'io' });
    },
  };
});

vi.mock('../../agent/cut-work.js', async (original) => {
  const real = await original<typeof import('../../agent/cut-work.js')>();
  return {
    ...real,
    cutWork: (...args: Parameters<typeof real.cutWork>) => {
      const work = real.cutWork(...args);
      if (planted.bug !== 'an-older-last-cut') return work;
      const newest = Math.max(...args[0].map(({ disk }) => disk.lastPoint));
      return { ...work, cycle: () => Promise.resolve(newest), written: () => Promise.resolve(null) };
    },
  };
});

interface Planted {
  readonly what: string;
  /** What the world says of it. */
  readonly says: RegExp;
  readonly bug?: Bug;
  readonly plan?: Partial<Plan>;
  readonly fleet?: FleetPlan['faults'];
  readonly hunt?: Hunt;
  readonly spy?: () => void;
}

const PLANTED: readonly Planted[] = [
  {
    what: 'a source that was failed over goes on as if it were protected',
    hunt: { from: 1003 },
    says: /is failed over, and its source does not say so/,
    fleet: new Set(['failover']),
    spy: () => vi.spyOn(AgentStatus.prototype, 'refused').mockReturnValue(),
  },
  {
    what: 'a source that was failed over is turned away without a reason',
    bug: 'turned-away-without-a-reason',
    says: /is failed over, and its source does not say so/,
    fleet: new Set(['failover']),
  },
  {
    what: 'who has the copy of a machine is not asked whether it lives',
    hunt: { from: 1006 },
    bug: 'nobody-is-asked',
    says: /takes the copy of machine\d from a receiver that lives/,
    fleet: new Set(['failover']),
  },
  {
    what: 'a copy boots before its generation is raised',
    bug: 'raised-after-boot',
    says: /runs before its generation/,
    spy: () => {
      const { start, startReplication } = Copy.prototype;
      vi.spyOn(Copy.prototype, 'startReplication').mockImplementation(async function (this: Copy, signal) {
        if (planted.raise === null) await startReplication.call(this, signal);
      });
      vi.spyOn(Copy.prototype, 'start').mockImplementation(async function (this: Copy, context) {
        await start.call(this, context);
        const raise = planted.raise;
        planted.raise = null;
        await raise?.();
      });
    },
  },
  {
    what: 'home is given its right before its generation is raised',
    bug: 'right-before-generation',
    says: /is given generation \d+, and the machine is at/,
  },
  {
    what: 'the last cut of a planned failover is the point before',
    bug: 'an-older-last-cut',
    says: /as planned, and disk\d was written after it/,
  },
  {
    what: 'the last difference of a failback is left out',
    says: /came home with \d+ blocks that are not the copy’s/,
    spy: () => {
      const { pointNow } = Copy.prototype;
      vi.spyOn(Copy.prototype, 'pointNow').mockImplementation(function (this: Copy, reason) {
        const { lastPoint } = this;
        return reason === 'last cut of the failback' && lastPoint !== null
          ? Promise.resolve(lastPoint)
          : pointNow.call(this, reason);
      });
    },
  },
  {
    what: 'a restore at home believes its hash store whatever happened since',
    hunt: { from: 1016 },
    says: /came home with \d+ blocks that are not the copy’s/,
    plan: { machines: [WIDE], faults: new Set(['power-cut']) },
    spy: () => {
      const { begin } = LocalHashes.prototype;
      vi.spyOn(LocalHashes.prototype, 'begin').mockImplementation(async function (this: LocalHashes) {
        const { disk } = this;
        const { series, store } = disk;
        disk.series = store.restore?.series ?? store.committedSeries;
        await begin.call(this, undefined).finally(() => (disk.series = series));
      });
    },
  },
  {
    what: 'a restore at home is done before it is durable',
    says: /came home with blocks that are not durable/,
    spy: () => vi.spyOn(SimTarget.prototype, 'durable').mockResolvedValue(),
  },
  {
    what: 'a test copy writes to the chain',
    says: /adds point \d+ of copy, and its generation \d+ is that of a home/,
    fleet: new Set(['test-failover']),
    spy: () => {
      const { start } = Copy.prototype;
      vi.spyOn(Copy.prototype, 'start').mockImplementation(async function (this: Copy, context) {
        if (this.instance.kind === 'test') await this.startReplication(context.signal);
        await start.call(this, context);
      });
    },
  },
];

afterEach(() => {
  planted.bug = null;
  planted.raise = null;
  vi.restoreAllMocks();
});

it.each(PLANTED)('is caught: $what', async ({ bug, plan, fleet = FLEET.faults, hunt, says, spy }) => {
  planted.bug = bug ?? null;
  spy?.();
  const shared = { ...PLAN, ...plan, fleet: { ...FLEET, faults: fleet } };
  expect((await violationsWith(shared, {}, hunt)).join('\n')).toMatch(says);
});
