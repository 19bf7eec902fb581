/**
 * A finished store with two machines, small enough to break each of its objects in each way: one with history pages, merged deltas, bases of several
 * ages; one made by real sessions, with the records that enrolment and failover leave behind.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { systemClock } from '../../shared/clock.js';
import { asMachineId, type DiskId, type MachineId } from '../../shared/units.js';
import { writeAnswer, writeChallenge } from '../../receiver/catalog/challenge.js';
import { withFinding, withState, type Finding } from '../../receiver/catalog/damage.js';
import { updateDamage } from '../../receiver/catalog/damage-io.js';
import { saveGroup } from '../../receiver/catalog/groups.js';
import { addHold, removeHold, type HoldDeps } from '../../receiver/catalog/holds.js';
import { boundaryName, identityName, pinName, revokedName } from '../../receiver/catalog/names.js';
import { PIN_VERSION } from '../../receiver/catalog/pins.js';
import { DEFAULT_POLICY } from '../../receiver/catalog/policy.js';
import { savePolicy } from '../../receiver/catalog/policy-io.js';
import { initialRecovery } from '../../receiver/catalog/recovery.js';
import { saveLaunchSettings, writeRecovery } from '../../receiver/catalog/recovery-io.js';
import { writeCheck, writeJob } from '../../receiver/catalog/recovery-records.js';
import { sealJson } from '../../receiver/catalog/sealed-json.js';
import { MachineKeys } from '../../receiver/keys/machine-keys.js';
import { ensureFormat } from '../../receiver/store/format.js';
import { scrubPass, type PassOptions, type PassResult } from '../../receiver/upkeep/scrub-pass.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { Chain, type Change, type Model } from '../helpers/layers.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { randomOf } from '../helpers/random.js';
import {
  blockBytes,
  DISK,
  helloOf,
  HELLO_DISK,
  IDENTITY,
  MACHINE,
  SERIES,
  TestAgent,
} from '../session/ingest-fixture.js';

/** Kinds of objects that have second copies and change seldom; `disks`: lists of layers among what a disk has. */
export const KINDS_WITH_COPIES = [
  'answer',
  'challenge',
  'checks',
  'damage',
  'disks',
  'format',
  'groups',
  'history',
  'holds',
  'identity',
  'jobs',
  'keys',
  'launch',
  'policy',
  'recovery',
  'revoked',
];

export interface FinishedMachine {
  readonly machine: MachineId;
  readonly disk: DiskId;
  /** What each listed point holds. */
  readonly models: Map<number, Model>;
}

export interface FinishedStore {
  readonly store: MemoryStore;
  readonly machines: readonly FinishedMachine[];
}

const OLD = asMachineId('22222222-2222-4333-8444-555555555555');

export async function finishedStore(): Promise<FinishedStore> {
  const store = new MemoryStore();
  await ensureFormat(store, true);
  const machines = [await keptForYears(store), await freshOne(store)];
  // The witness: what is whole now.
  for (const { machine } of machines) {
    const result = await scrub(store, machine);
    if (result.findings.length > 0) throw new Error(`a fresh store is damaged: ${result.findings[0]?.what ?? ''}`);
  }
  return { store, machines };
}

/** Fast and from the start, as `afterimage scrub --now`. */
export const scrub = (
  store: ObjectStore,
  machine: MachineId,
  options: PassOptions = { fromStart: true },
): Promise<PassResult> => {
  const deps = { store, clock: systemClock, pace: async () => undefined, signal: new AbortController().signal };
  return scrubPass(deps, machine, options);
};

async function keptForYears(store: ObjectStore): Promise<FinishedMachine> {
  const chain = new Chain(store, { sizeBytes: 130 * 1024 * 1024, blockBytes: 4096, machine: OLD, name: 'old1' });
  const { blocksPerSegment } = chain.geometry;
  const write = (tag: string, ...firsts: number[]): Change[] =>
    firsts.map((first) => ({ first, blocks: [0, 1, 2].map((i) => chain.block(first + i, tag, i !== 1)) }));
  chain.apply(write('first copy', 0, 10, blocksPerSegment, 2 * blocksPerSegment));
  for (const segment of [0, 1, 2]) await chain.base(segment, 0);
  const changes: readonly (readonly Change[])[] = [
    write('one', 0, 40),
    [...write('two', 1, blocksPerSegment + 7), { first: 10, zeroCount: 2 }],
    write('three', 300, 41),
    write('four', 300, 2 * blocksPerSegment + 1),
    [...write('five', 42), { first: 500, zeroCount: 9_000 }],
    write('six', 10, 600),
    write('seven', 11, blocksPerSegment),
  ];
  for (const [i, change] of changes.entries()) {
    const number = i + 1;
    chain.apply(change);
    // Points 3 and 4 were thinned out: one merged delta reaches to 5.
    if (number === 5) await chain.delta(3, 5, changes.slice(2, 5).flat());
    else if (number !== 3 && number !== 4) await chain.delta(number, number, change);
    if (number !== 3 && number !== 4) chain.point(number);
    if (number === 5) await chain.base(0, 5);
  }
  await chain.publish(5, 2);
  const { machine, disk, models } = chain;
  await store.createIfAbsent(identityName(machine, 1), sealJson({ ...IDENTITY, machine, name: 'old1' }));
  return { machine, disk, models };
}

async function freshOne(store: ObjectStore): Promise<FinishedMachine> {
  const random = randomOf(7);
  const models = new Map<number, Model>();
  const agent = new TestAgent(store);
  await agent.hello();
  const keep = (point: number): number => {
    models.set(point, new Map(agent.model));
    return point;
  };
  keep(await agent.firstCopy(new Map([0, 1, 5, 20_000, 33_000].map((n) => [n, blockBytes(random)]))));
  for (const blocks of [
    [1, 2, 3],
    [2, 700],
    [20_000, 20_001],
  ]) {
    agent.begin();
    agent.data(new Map(blocks.map((n) => [n, n === 3 ? null : blockBytes(random)])));
    keep(await agent.commit());
  }
  await agent.end();
  // A second session, with a comparison that was staged and became part of a point.
  const again = new TestAgent(store, agent.model);
  const known = {
    ...HELLO_DISK,
    committedPoint: 4,
    committedSeries: SERIES,
    changedBlocks: 1,
    hashStore: 'valid',
  } as const;
  await again.hello(helloOf([known]));
  again.data(new Map([[16_500, blockBytes(random)]]), 'sweep-delta', 1);
  again.endSegment(1, 'sweep-delta');
  again.begin();
  again.data(new Map([[8, blockBytes(random)]]));
  keep(await again.commit());
  await again.end();
  await records(store);
  return { machine: MACHINE, disk: DISK, models };
}

/** Of both machines, so that each has one to be swapped with. */
async function others(store: ObjectStore, deps: HoldDeps): Promise<void> {
  for (const machine of [OLD, MACHINE]) {
    const keys = new MachineKeys({ store, clock: systemClock, randomBytes, provider: null, atRest: false, files: [] });
    const agent = { hashCheck: randomBytes(8).toString('hex'), dataKeys: [7] };
    await keys.beginWriting(machine, agent);
    await keys.beginWriting(machine, null);
    await savePolicy(deps, machine, DEFAULT_POLICY);
    await savePolicy(deps, machine, { ...DEFAULT_POLICY, intervalMs: 30_000 });
    await addHold(deps, machine, { name: 'LEGAL-1', point: 1, note: '' });
    await removeHold(deps, machine, 'LEGAL-1');
    const pin = {
      version: PIN_VERSION,
      id: randomUUID(),
      sequence: 1,
      point: 1,
      manifest: 1,
      holder: 'a reader',
      writtenAtMs: 1,
      ttlMs: 1,
      expiresAtMs: 2,
    };
    await store.createIfAbsent(pinName(machine, pin.id, 1), sealJson(pin));
    // Something that was bad once, and is gone.
    const once: Finding = {
      kind: 'record',
      object: 'once',
      code: 'test',
      what: 'it was bad',
      disk: null,
      layer: null,
      extents: null,
      points: [],
    };
    for (const state of ['found', 'gone'] as const)
      await updateDamage(deps, machine, (items, nowMs) =>
        withState(withFinding(items, once, nowMs), once, { state, reason: '' }, nowMs),
      );
    for (let i = 0; i < 2; i++) {
      const [from, to] = [randomUUID(), randomUUID()];
      const number = await writeChallenge(store, machine, { from, to, writtenAtMs: 1 });
      await writeAnswer(store, machine, number, { from: to, name: 'dr2', writtenAtMs: 2 });
    }
  }
  for (const machine of [OLD, MACHINE])
    await store.createIfAbsent(
      boundaryName(machine, 0),
      sealJson({ version: 1, number: 0, machine, epoch: 1, writtenAtMs: 1 }),
    );
}

async function records(store: ObjectStore): Promise<void> {
  for (const name of ['shop', 'bank'])
    await saveGroup(
      { store, clock: systemClock, randomId: randomUUID },
      { name, members: [randomUUID(), randomUUID()].map(asMachineId), consistency: 'filesystem', schedule: null },
    );
  const deps = { store, clock: systemClock, randomId: randomUUID };
  for (const number of [1, 2]) {
    await store.createIfAbsent(identityName(MACHINE, number), sealJson({ ...IDENTITY, number, machine: MACHINE }));
  }
  await store.createIfAbsent(revokedName(MACHINE, 1), sealJson({ version: 1, number: 1, revokedAtMs: 1 }));
  await saveLaunchSettings(deps, MACHINE, { cpus: 2 });
  await saveLaunchSettings(deps, MACHINE, { cpus: 4 });
  const first = await writeRecovery(deps, null, initialRecovery(MACHINE, 1));
  await writeRecovery(deps, first, { ...initialRecovery(MACHINE, 1), stateReason: 'second step' });
  const job = {
    id: randomUUID(),
    operation: 'test-failover',
    state: 'Succeeded',
    receiver: randomUUID(),
    startedAtMs: 5,
    endedAtMs: 6,
    request: {},
    data: {},
    tasks: [],
    error: null,
  } as const;
  await writeJob(store, MACHINE, { ...job, tasks: [] });
  await writeJob(store, MACHINE, { ...job, id: randomUUID(), startedAtMs: 7, tasks: [] });
  const result = { type: 'serial', passed: true, detail: '', tookMs: 1, atMs: 1 };
  await others(store, deps);
  const check = { point: 1, instance: randomUUID(), kind: 'test', receiverName: 'r', result, rtoMs: 5 } as const;
  await writeCheck(store, MACHINE, check);
}
