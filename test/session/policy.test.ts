/** How often points are made: the receiver tells what its policy says, the agent goes by it, and by its own configuration where it says nothing. */
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { agentConfigSchema } from '../../agent/config.js';
import { Sysfs } from '../../agent/disks/sysfs.js';
import { readDiskState } from '../../agent/disks/watch.js';
import { Replication, type ReplicationDeps } from '../../agent/replication.js';
import { SessionEnded, type Order, type ReceiverSession } from '../../agent/session/session.js';
import { DEFAULT_POLICY, type MachinePolicy } from '../../receiver/catalog/policy.js';
import { Policies, savePolicy } from '../../receiver/catalog/policy-io.js';
import { policyName } from '../../receiver/catalog/names.js';
import { POLICY_RECHECK_MS } from '../../shared/limits-retention.js';
import { silentLogger } from '../../shared/log.js';
import type { ReceiverMessage, Welcome } from '../../shared/wire/messages.js';
import { ManualClock } from '../helpers/manual-clock.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { MACHINE, TestAgent } from './ingest-fixture.js';

const every = (seconds: number | null): MachinePolicy => ({
  ...DEFAULT_POLICY,
  intervalMs: seconds === null ? null : seconds * 1000,
});

describe('the receiver', () => {
  interface Ground {
    readonly store: MemoryStore;
    readonly clock: ManualClock;
    readonly agent: TestAgent;
    /** Before the first point. */
    readonly told: ReceiverMessage | null;
    readonly set: (policy: MachinePolicy) => Promise<unknown>;
    readonly commit: () => Promise<unknown>;
  }

  async function ground(first: MachinePolicy | null): Promise<Ground> {
    const store = new MemoryStore();
    const clock = new ManualClock();
    const set = (policy: MachinePolicy): Promise<unknown> => savePolicy({ store, clock }, MACHINE, policy);
    if (first !== null) await set(first);
    const policies = new Policies(store, clock, DEFAULT_POLICY);
    const agent = new TestAgent(store, new Map(), clock, { policies });
    await agent.hello();
    const told = first === null ? null : await agent.transport.next('policy');
    await agent.firstCopy(new Map());
    const commit = async (): Promise<unknown> => {
      await clock.pass(POLICY_RECHECK_MS);
      agent.begin();
      return agent.commit();
    };
    return { store, clock, agent, told, set, commit };
  }

  test('tells after welcome, and again after a point when it changed', async () => {
    const { agent, told, set, commit } = await ground(every(30));
    expect(told).toMatchObject({ intervalMs: 30_000, applicationIntervalMs: null });
    await commit();
    await set(every(60));
    await commit();
    expect(await agent.transport.next('policy')).toMatchObject({ intervalMs: 60_000 });
    await set(every(null));
    await commit();
    expect(await agent.transport.next('policy')).toMatchObject({ intervalMs: null });
    await agent.end();
  });

  test('tells nothing where nothing is set', async () => {
    const { agent, commit } = await ground(null);
    await commit();
    await agent.end();
    expect(agent.transport.said.filter((m) => m.type === 'policy')).toEqual([]);
  });

  test('a policy that can not be read leaves the agent its pace and the session its life', async () => {
    const { store, agent, commit } = await ground(every(30));
    store.objects.set(policyName(MACHINE, 2), Buffer.from('{}'));
    expect(await commit()).toBe(2);
    expect(await commit()).toBe(3);
    await agent.end();
    expect(agent.transport.said.filter((m) => m.type === 'policy')).toEqual([]);
  });
});

test('the agent waits as long as it was told between points, at once, and goes back to its configuration', async () => {
  const clock = new ManualClock();
  const waits: number[] = [];
  const sleep = (ms: number, signal?: AbortSignal): Promise<void> => {
    // The report for people is regular and of no interest here.
    if (ms !== 1000) waits.push(ms);
    return clock.sleep(ms, signal);
  };
  let tell: (order: Order) => void = () => undefined;
  let end: (ended: SessionEnded) => void = () => undefined;
  const session = {
    onOrder: (handler: (order: Order) => void) => void (tell = handler),
    ended: new Promise<SessionEnded>((resolve) => (end = resolve)),
    progress: () => Promise.resolve(),
  } as unknown as ReceiverSession;
  const source = { kind: 'file', path: fileURLToPath(import.meta.url), inode: '' } as const;
  const state = {
    id: 'd',
    isReady: true,
    inPoints: true,
    need: null,
    state: 'Protected',
    lastPoint: 1,
    trackable: null,
  };
  const disk = { ...state, store: { sweep: null, failure: null }, resend: { isEmpty: true }, device: 'd' };
  const deps = {
    config: agentConfigSchema.parse({ interval: '7s' }),
    clock: { nowMs: clock.nowMs, monotonicMs: clock.monotonicMs, sleep },
    log: silentLogger(),
    tracker: null,
    status: { snapshot: () => ({ disks: [] }) },
    disks: [
      {
        disk,
        inspected: { state: readDiskState(new Sysfs('/nonexistent'), source) },
        still: { isUnchanged: () => Promise.resolve(true) },
      },
    ],
    absent: [],
    sysfs: new Sysfs('/nonexistent'),
    finalCut: { isStopped: false },
    applicationPoints: { waitMs: () => Infinity, policy: () => undefined },
  } as unknown as ReplicationDeps;
  const stop = new AbortController();
  const running = new Replication(deps, session, stop.signal).run({ disks: [] } as unknown as Welcome, () => undefined);
  await clock.pass(15_000);
  expect(waits).toEqual([7_000, 7_000, 7_000]);
  tell({ type: 'policy', intervalMs: 2_000, applicationIntervalMs: null });
  await clock.pass(5_000);
  // Told amid a wait: what is left of it is no more than the new distance.
  expect(waits.slice(3)).toEqual([2_000, 2_000, 2_000]);
  tell({ type: 'policy', intervalMs: null, applicationIntervalMs: null });
  await clock.pass(10_000);
  expect(waits.at(-1)).toBe(7_000);
  stop.abort();
  end(new SessionEnded('over', null));
  await running.catch(() => undefined);
});
