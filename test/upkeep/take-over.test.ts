/**
 * A machine that nobody writes is taken over for its upkeep: what its agent had staged is recorded and outlives the epoch and garbage collection. It is left
 * alone while a copy of it runs or is made, when it is another receiver's, and when somebody takes it in between.
 */
import { randomUUID } from 'node:crypto';
import { beforeEach, describe, expect, it } from 'vitest';
import type { ManifestOwner } from '../../receiver/catalog/manifest.js';
import { OwnedMachine } from '../../receiver/catalog/owned-machine.js';
import { OwnedMachines } from '../../receiver/catalog/owned-machines.js';
import { readLayerList } from '../../receiver/catalog/manifest-io.js';
import { layerName } from '../../receiver/catalog/names.js';
import { loadHead } from '../../receiver/catalog/reader.js';
import { initialRecovery, type Instance, type Job } from '../../receiver/catalog/recovery.js';
import { writeRecovery } from '../../receiver/catalog/recovery-io.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { UpkeepService } from '../../receiver/upkeep/service.js';
import { silentLogger } from '../../shared/log.js';
import { MemoryStore, storeThrough } from '../helpers/memory-store.js';
import { randomOf } from '../helpers/random.js';
import {
  blockBytes,
  DISK,
  HELLO_DISK,
  helloOf,
  MACHINE,
  SERIES,
  soundPoints,
  TestAgent,
} from '../session/ingest-fixture.js';
import { TestClock } from './world.js';

const ME = randomUUID();
const OTHER = randomUUID();
const DELAY_MS = 60_000;
const random = randomOf(8);
const some = (...numbers: number[]): Map<number, Buffer> => new Map(numbers.map((n) => [n, blockBytes(random)]));
const ownerOf = (receiver: string): ManifestOwner => ({ receiver, name: 'dr', address: 'dr:1' });

let store: MemoryStore;
let clock: TestClock;
beforeEach(() => {
  store = new MemoryStore();
  clock = new TestClock();
});

/** Upkeep of this receiver, which looks after all machines but those that another had last. */
function serviceOn(through: ObjectStore = store): { service: UpkeepService; machines: OwnedMachines } {
  const machines = new OwnedMachines();
  const service = new UpkeepService(
    {
      ...{ store: through, clock, randomId: randomUUID, log: silentLogger(), machines, owner: ownerOf(ME) },
      isOurs: async (machine) => (await loadHead(store, machine))?.owner?.receiver !== OTHER,
      policyOf: () => Promise.resolve({ tiers: [{ everyMs: 0, upToMs: 600_000 }], applicationTiers: [] }),
    },
    { intervalMs: 1, bytesPerSecond: 1e9, deletionDelayMs: DELAY_MS },
  );
  return { service, machines };
}

const agentOf = (model?: Map<number, Buffer>): TestAgent => new TestAgent(store, model, clock);

async function staged(agent: TestAgent, segment: number, blocks: Map<number, Buffer>, base: boolean): Promise<void> {
  agent.data(blocks, base ? 'sweep-base' : 'sweep-delta', segment);
  agent.endSegment(segment, base ? 'sweep-base' : 'sweep-delta');
  while ((await agent.transport.next('ack')).stagedSequence < agent.sequence);
}

/** A machine with a point, whose agent is gone. */
async function withPoint(): Promise<TestAgent> {
  const agent = agentOf();
  await agent.hello();
  await agent.firstCopy(some(0, 1));
  await agent.end();
  return agent;
}

const SEGMENT_BLOCKS = 16_384;
const sweep = { kind: 'comparison', nextSegment: 2, stagedLayers: 2 } as const;
const compareAt = (committedPoint: number): ReturnType<typeof helloOf> =>
  helloOf([{ ...HELLO_DISK, committedPoint, committedSeries: SERIES, changedBlocks: 1, sweep }]);

const NOT_OURS = { code: 'machine-not-ours', kind: 'refused' };

it.each(['a comparison', 'a first copy'])(
  '%s that was cut short goes on after a takeover and garbage collection, from what was staged',
  async (what) => {
    const isFirst = what === 'a first copy';
    const before = isFirst ? null : await withPoint();
    const hello = (stagedLayers: number): ReturnType<typeof helloOf> =>
      isFirst
        ? helloOf([{ ...HELLO_DISK, sweep: { kind: 'first-copy', nextSegment: stagedLayers, stagedLayers } }])
        : compareAt(1);
    const agent = agentOf(before?.model);
    await agent.hello(isFirst ? helloOf() : helloOf([{ ...compareAt(1).disks[0], sweep: null } as never]));
    await staged(agent, 0, some(2, 3), isFirst);
    await staged(agent, 1, some(SEGMENT_BLOCKS, SEGMENT_BLOCKS + 5), isFirst);
    await agent.end();
    const epoch = (await loadHead(store, MACHINE))?.epoch ?? 0;

    const { service } = serviceOn();
    // Twice, with time between: what is not recorded would be found unneeded, and deleted.
    for (let i = 0; i < 3; i++) {
      const results = await service.runNow(MACHINE);
      expect(results.flatMap(({ problem }) => problem ?? [])).toEqual([]);
      clock.ms += 2 * DELAY_MS;
    }
    const head = await loadHead(store, MACHINE);
    expect(head).toMatchObject({ epoch: epoch + 1, owner: { receiver: ME } });
    const list = head?.disks[0]?.staged ?? null;
    const layers = list === null ? [] : await readLayerList(store, list);
    expect(layers.map(({ segment, epoch: of }) => [segment, of])).toEqual([
      [0, epoch],
      [1, epoch],
    ]);
    for (const layer of layers) expect(store.objects.has(layerName(MACHINE, DISK, layer))).toBe(true);

    const back = agentOf(agent.model);
    const { disks } = await back.hello(hello(2));
    expect(disks).toMatchObject([{ stagedLayers: 2 }]);
    back.endSegment(2, isFirst ? 'sweep-base' : 'sweep-delta');
    back.begin();
    await back.commit();
    await back.end();
    // Each adds up to the digest of all that the agent has sent.
    expect(await soundPoints(store)).toEqual(isFirst ? [1] : [1, 2]);
  },
);

describe('a staged layer is damaged', () => {
  /** Three segments of a comparison are staged; the agent knows of so many. Damages one, and the takeover goes on. */
  async function takenOver(
    damaged: number,
    damage: (bytes: Buffer) => Buffer,
  ): Promise<{ model: TestAgent['model']; names: string[] }> {
    const before = await withPoint();
    const agent = agentOf(before.model);
    await agent.hello(helloOf([{ ...compareAt(1).disks[0], sweep: null } as never]));
    for (let segment = 0; segment < 3; segment++)
      await staged(agent, segment, some(segment * SEGMENT_BLOCKS + 2, segment * SEGMENT_BLOCKS + 3), false);
    await agent.end();
    const epoch = (await loadHead(store, MACHINE))?.epoch ?? 0;
    const isOfEpoch = (name: string): boolean => Number(/\/delta\/.*-(\d+)-\d+$/.exec(name)?.[1]) === epoch;
    const names = [...store.objects.keys()].filter(isOfEpoch);
    expect(names).toHaveLength(3);
    const name = names[damaged] ?? '';
    store.objects.set(name, damage(Buffer.from(store.objects.get(name) ?? Buffer.alloc(0))));
    const { service } = serviceOn();
    for (let i = 0; i < 3; i++) {
      const results = await service.runNow(MACHINE);
      expect(results.flatMap(({ problem }) => problem ?? [])).toEqual([]);
      clock.ms += 2 * DELAY_MS;
    }
    expect(service.status[0]?.setAside).toMatchObject({ count: 1, last: [{ object: name }] });
    expect(service.status[0]?.setAside.last[0]?.why).toContain(name);
    // Nobody needs it, nor what came after it.
    expect(names.map((n) => store.objects.has(n))).toEqual([0, 1, 2].map((n) => n < damaged));
    return { model: agent.model, names };
  }

  const flipped = (at: (length: number) => number) => (bytes: Buffer) => {
    const i = at(bytes.length);
    bytes.writeUInt8(bytes.readUInt8(i) ^ 0xff, i);
    return bytes;
  };

  it.each([
    ['its head', 1, flipped(() => 0)],
    ['its end', 1, flipped((length) => length - 1)],
    ['it is cut short', 0, (bytes: Buffer) => bytes.subarray(0, 10)],
    ['it is empty', 2, () => Buffer.alloc(0)],
  ] as const)('%s: upkeep goes on, and so does the agent', async (_what, damaged, damage) => {
    const { model } = await takenOver(damaged, damage);
    const list = (await loadHead(store, MACHINE))?.disks[0]?.staged ?? null;
    const layers = list === null ? [] : await readLayerList(store, list);
    expect(layers.map(({ segment }) => segment)).toEqual([0, 1, 2].slice(0, damaged));
    // The agent knows of all three: it is told that they are not there, and begins again.
    const back = agentOf(model);
    const { disks } = await back.hello(
      helloOf([{ ...compareAt(1).disks[0], sweep: { kind: 'comparison', nextSegment: 3, stagedLayers: 3 } } as never]),
    );
    expect(disks).toMatchObject([{ verdict: 'compare', stagedLayers: 0 }]);
    await back.end();
    expect(await soundPoints(store)).toEqual([1]);
  });

  it('an agent that knows only of those before it goes on from them', async () => {
    const { model } = await takenOver(
      2,
      flipped(() => 0),
    );
    const { disks } = await agentOf(model).hello(compareAt(1));
    expect(disks).toMatchObject([{ stagedLayers: 2 }]);
  });

  it('an agent that knows of fewer is never given a later one in the place of the damaged', async () => {
    const { model } = await takenOver(
      0,
      flipped(() => 0),
    );
    const { disks } = await agentOf(model).hello(compareAt(1));
    expect(disks).toMatchObject([{ stagedLayers: 0 }]);
  });
});

describe('is refused, and nothing is changed', () => {
  const unchanged = async (work: () => Promise<unknown>): Promise<void> => {
    const names = [...store.objects.keys()];
    await work();
    expect([...store.objects.keys()]).toEqual(names);
  };
  const instance: Instance = {
    ...{ id: randomUUID(), kind: 'failover', receiver: ME, receiverName: 'dr', provider: 'none', point: 1 },
    ...{ generation: 1, createdAtMs: 1, settings: {}, disks: [], bootCheck: null, rtoMs: null },
  };
  const job: Job = {
    ...{ id: randomUUID(), operation: 'failover', state: 'InProgress', receiver: ME, startedAtMs: 1, endedAtMs: null },
    ...{ request: {}, data: {}, tasks: [], error: null },
  };
  const deps = () => ({ store, clock, randomId: randomUUID });

  it.each([
    { what: 'a copy of it runs', recovery: { failover: instance } },
    { what: 'a copy of it is being made', recovery: { job } },
  ])('while $what', async ({ recovery }) => {
    await withPoint();
    await writeRecovery(deps(), null, { ...initialRecovery(MACHINE, 1), ...recovery });
    const { service } = serviceOn();
    await unchanged(async () => {
      await expect(service.runNow(MACHINE)).rejects.toMatchObject(NOT_OURS);
      expect(await service.ownerOf(MACHINE)).toBeNull();
    });
  });

  it('when it is another receiver’s', async () => {
    await withPoint();
    await OwnedMachine.takeOver({ ...deps(), owner: ownerOf(OTHER) }, MACHINE, async (previous) => {
      if (previous === null) throw new Error('nothing there');
      return previous;
    });
    const { service } = serviceOn();
    await unchanged(async () => {
      await expect(service.runNow(MACHINE)).rejects.toMatchObject(NOT_OURS);
      expect(await service.ownerOf(MACHINE)).toBeNull();
    });
  });

  it('when there is nothing of it', async () => {
    const { service } = serviceOn();
    await unchanged(async () => {
      await expect(service.runNow(MACHINE)).rejects.toMatchObject({ code: 'machine-empty', kind: 'not-found' });
      expect(await service.ownerOf(MACHINE)).toBeNull();
    });
  });
});

describe('somebody is faster', () => {
  /** Runs once, right before the manifest of upkeep's takeover is created: after it has looked at everything. */
  const meanwhile = (work: () => Promise<unknown>): ObjectStore => {
    let isDone = false;
    return storeThrough(store, async (what, go) => {
      if (!isDone && what.startsWith('create ') && what.includes('/manifest/')) {
        isDone = true;
        await work();
      }
      return go();
    });
  };

  it('another receiver: it keeps the machine, and its commits go on', async () => {
    await withPoint();
    let theirs: OwnedMachine | null = null;
    const { service, machines } = serviceOn(
      meanwhile(async () => {
        const deps = { store, clock, randomId: randomUUID, owner: ownerOf(OTHER) };
        theirs = await OwnedMachine.takeOver(deps, MACHINE, async (previous) => {
          if (previous === null) throw new Error('nothing there');
          return previous;
        });
      }),
    );
    await expect(service.runNow(MACHINE)).rejects.toMatchObject(NOT_OURS);
    expect(machines.get(MACHINE)).toBeNull();
    const owned = theirs as OwnedMachine | null;
    await owned?.commit((current) => current);
    expect(await loadHead(store, MACHINE)).toMatchObject({ epoch: 2, owner: { receiver: OTHER } });
  });

  it('the machine’s own agent, at this receiver: its session stays the owner', async () => {
    const agent = await withPoint();
    let back: TestAgent | null = null;
    const { service, machines } = serviceOn(
      meanwhile(async () => {
        back = new TestAgent(store, agent.model, clock, { machines });
        await back.hello(compareAt(1));
      }),
    );
    await expect(service.runNow(MACHINE)).rejects.toMatchObject(NOT_OURS);
    const session = back as TestAgent | null;
    session?.begin();
    expect(await session?.commit()).toBe(2);
    // Now it is known who has it: upkeep goes through the session's.
    const epoch = machines.get(MACHINE)?.epoch;
    await service.runNow(MACHINE);
    expect((await loadHead(store, MACHINE))?.epoch).toBe(epoch);
    await session?.end();
  });

  it('a failover: its copy is not cut off', async () => {
    await withPoint();
    const { service } = serviceOn(
      meanwhile(async () => {
        const deps = { store, clock, randomId: randomUUID, owner: ownerOf(ME) };
        const job: Job = {
          ...{ id: randomUUID(), operation: 'failover', state: 'InProgress', receiver: ME, startedAtMs: 1 },
          ...{ endedAtMs: null, request: {}, data: {}, tasks: [], error: null },
        };
        await writeRecovery(deps, null, { ...initialRecovery(MACHINE, 1), job });
        await OwnedMachine.takeOver(deps, MACHINE, async (previous) => {
          if (previous === null) throw new Error('nothing there');
          return previous;
        });
      }),
    );
    await expect(service.runNow(MACHINE)).rejects.toMatchObject(NOT_OURS);
    expect((await loadHead(store, MACHINE))?.epoch).toBe(2);
  });
});
