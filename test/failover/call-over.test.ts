/** The agent is called over from another receiver: it comes, it doesn't, or nobody waits for it any more. */
import { randomUUID } from 'node:crypto';
import { beforeEach, describe, expect, it } from 'vitest';
import { OwnedMachine } from '../../receiver/catalog/owned-machine.js';
import type { ManifestOwner } from '../../receiver/catalog/manifest.js';
import { callOver } from '../../receiver/failover/operations/call-over.js';
import { restoreHome } from '../../receiver/failover/operations/home-sync.js';
import { HomeFollowers } from '../../receiver/failover/follow.js';
import type { TaskContext } from '../../receiver/failover/task.js';
import { CALL_OVER_MS } from '../../shared/limits-fleet.js';
import { silentLogger } from '../../shared/log.js';
import { MACHINE, plainClock, World } from './fakes.js';

type Parts = ConstructorParameters<typeof HomeFollowers>[0];

const there: ManifestOwner = { receiver: randomUUID(), name: 'dr1', address: 'dr1.example.com:7443' };

interface Scene {
  readonly others?: readonly ManifestOwner[];
  /** The agent comes after so many looks at it. */
  readonly comesAfter?: number;
  readonly signal?: AbortSignal;
}

async function call({ others = [there], comesAfter = Infinity, signal = new AbortController().signal }: Scene) {
  const world = new World();
  await world.begin();
  const deps = { store: world.store, clock: plainClock, randomId: randomUUID, owner: there };
  await OwnedMachine.takeOver(deps, MACHINE, (previous) => {
    if (previous === null) throw new Error('no manifest');
    return Promise.resolve(previous);
  });
  let [nowMs, looks] = [0, 0];
  const calls: string[] = [];
  const fleet = {
    others,
    call: () => {
      calls.push('call');
      return () => calls.push('release');
    },
  };
  const clock = { ...plainClock, monotonicMs: () => nowMs, sleep: async (ms: number) => void (nowMs += ms) };
  const home = { stateOf: () => (looks++ >= comesAfter ? ('replicating' as const) : null) };
  const parts = { store: world.store, clock, home, fleet };
  const context = { machine: MACHINE, signal, parts, progress: () => undefined } as unknown as TaskContext;
  const said = await callOver(context).catch((error: unknown) => error as Error & { code: string; hint: string });
  return { said, calls, waitedMs: nowMs };
}

describe('home that is to be restored', () => {
  const [calls, release] = [[] as string[], () => calls.push('release')];
  const fleet = { others: [there], call: () => (calls.push('call'), release) };
  beforeEach(() => void (calls.length = 0));

  it('is called over for as long as a job restores it', async () => {
    const restore = () => {
      expect(calls).toEqual(['call']);
      return Promise.reject(new Error('gone'));
    };
    const { signal } = new AbortController();
    const context = { machine: MACHINE, signal, parts: { home: { restore }, fleet } } as unknown as TaskContext;
    await expect(restoreHome(context, 3, true)).rejects.toThrow('gone');
    expect(calls).toEqual(['call', 'release']);
  });

  it('is called over while it follows and is not here', async () => {
    const states = ['replicating', null, 'restoring', 'restoring', null] as const;
    let look = 0;
    let done: () => void = () => undefined;
    const seen = new Promise<void>((resolve) => (done = resolve));
    const sleep = (): Promise<void> => (++look < states.length ? Promise.resolve() : new Promise(() => done()));
    const home = { stateOf: () => states[look], restore: () => Promise.resolve() };
    const clock = { ...plainClock, sleep };
    const followers = new HomeFollowers({ home, clock, fleet, log: silentLogger() } as unknown as Parts);
    followers.start(MACHINE, () => undefined);
    await seen;
    expect(calls).toEqual(['call', 'release', 'call']);
  });
});

describe('an agent that is at another receiver', () => {
  it('is called over, and the call ends when it has come', async () => {
    const { said, calls } = await call({ comesAfter: 5 });
    expect(said).toBe('its agent was called over from receiver dr1');
    expect(calls).toEqual(['call', 'release']);
  });

  it('does not come in time: refused with where to go, and nobody calls for it any more', async () => {
    const { said, calls, waitedMs } = await call({});
    expect(said).toMatchObject({ code: 'home-elsewhere', kind: 'refused' });
    expect(said).toMatchObject({ hint: expect.stringContaining('dr1 (dr1.example.com:7443)') as string });
    expect(calls).toEqual(['call', 'release']);
    expect(waitedMs).toBeGreaterThanOrEqual(CALL_OVER_MS);
  });

  it('is not waited for when the operator cancels', async () => {
    const { said, calls, waitedMs } = await call({ signal: AbortSignal.abort() });
    expect(said).toMatchObject({ kind: 'cancelled' });
    expect(calls).toEqual(['call', 'release']);
    expect(waitedMs).toBe(0);
  });

  it('is called by nobody when it is here, or where nobody is known to have it', async () => {
    expect(await call({ comesAfter: 0 })).toMatchObject({ said: '', calls: [] });
    expect(await call({ others: [] })).toMatchObject({ said: '', calls: [] });
    expect(await call({ others: [{ ...there, receiver: randomUUID() }] })).toMatchObject({ said: '', calls: [] });
  });
});
