/**
 * The unreliable store of the tests does what it says: without faults it is the store under it, with faults each kind shows.
 */
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../shared/clock.js';
import { FaultyStore, type Fault, type FaultRates } from '../helpers/faulty-store.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { storeConformance } from './store.js';

/** `pass` lets the time of what comes late pass. */
const faulty = (
  rates: FaultRates,
): { under: MemoryStore; store: FaultyStore; faults: Fault[]; pass: () => Promise<void> } => {
  const sleepers: (() => void)[] = [];
  const under = new MemoryStore();
  const faults: Fault[] = [];
  const store = new FaultyStore(under, rates, {
    random: () => 0.5,
    clock: { ...systemClock, sleep: () => new Promise((wake) => sleepers.push(wake)) },
    delayMsMax: 1,
    onFault: (fault) => faults.push(fault),
  });
  const pass = (): Promise<void> => {
    for (const wake of sleepers.splice(0)) wake();
    return store.settled();
  };
  return { under, store, faults, pass };
};

storeConformance('faulty without faults', {
  fresh: async () => {
    const { store } = faulty({});
    return { store, reopen: async () => store };
  },
});

describe('faulty store', () => {
  const failed = { code: 'store-unavailable', kind: 'io' };

  it('loses requests', async () => {
    const { under, store, faults } = faulty({ lost: 1 });
    await expect(store.createIfAbsent('a', Buffer.from('x'))).rejects.toMatchObject(failed);
    await store.settled();
    expect(under.objects.size).toBe(0);
    expect(faults).toEqual(['lost']);
  });

  it('loses answers', async () => {
    const { under, store } = faulty({ answerLost: 1 });
    await expect(store.createIfAbsent('a', Buffer.from('x'))).rejects.toMatchObject(failed);
    expect([...under.objects.keys()]).toEqual(['a']);
    await expect(store.get('a', 1)).rejects.toMatchObject(failed);
    await expect(store.deleteMany(['a'])).rejects.toMatchObject(failed);
    expect(under.objects.size).toBe(0);
  });

  it('carries out late what it reported as failed, even when its writer was aborted', async () => {
    const { under, store, pass } = faulty({});
    const writer = await store.openWriter('b');
    await writer.write([Buffer.from('whole')]);
    store.rates = { late: 1 };
    const reused = Buffer.from('first');
    await expect(store.createIfAbsent('a', reused)).rejects.toMatchObject(failed);
    reused.write('other');
    await expect(writer.finish()).rejects.toMatchObject(failed);
    await writer.abort();
    expect(under.objects.size).toBe(0);
    await pass();
    expect(Object.fromEntries([...under.objects].map(([k, v]) => [k, v.toString()]))).toEqual({
      a: 'first',
      b: 'whole',
    });
  });

  it('repeats what it has done', async () => {
    const { under, store, pass } = faulty({ repeated: 1 });
    under.objects.set('a', Buffer.from('x'));
    await store.deleteMany(['a']);
    under.objects.set('a', Buffer.from('again'));
    await pass();
    expect(under.objects.size).toBe(0);
  });

  it('fails in the middle of a listing, and heals', async () => {
    const { under, store } = faulty({});
    for (const name of ['a', 'b']) under.objects.set(name, Buffer.from('x'));
    const seen: string[] = [];
    const list = async (): Promise<void> => {
      for await (const { name } of store.list('')) {
        seen.push(name);
        store.rates = { lost: 1 };
      }
    };
    await expect(list()).rejects.toMatchObject(failed);
    expect(seen).toEqual(['a']);
    store.rates = {};
    expect(await store.get('a', 1)).not.toBeNull();
  });
});
