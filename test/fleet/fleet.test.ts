/**
 * Receivers that see each other through one store, beat by beat: no clock runs but the one that a test moves.
 */
import { randomUUID } from 'node:crypto';
import { describe, expect, it, vi } from 'vitest';
import { Fleet } from '../../receiver/fleet/fleet.js';
import { receiverNumbers } from '../../receiver/fleet/record.js';
import { Registrar } from '../../receiver/fleet/registrar.js';
import type { Clock } from '../../shared/clock.js';
import { RECEIVER_MISSES_MAX, RECEIVER_RECORDS_TIDIED } from '../../shared/limits-fleet.js';
import { silentLogger } from '../../shared/log.js';
import { asMachineId } from '../../shared/units.js';
import { LockingStore } from '../helpers/locking-store.js';
import { MemoryStore } from '../helpers/memory-store.js';

const HEARTBEAT_MS = 1000;
const idOf = (letter: string): string => `${letter.repeat(8)}-0000-4000-8000-000000000000`;
const A = idOf('a');
const B = idOf('b');

class Hands implements Clock {
  monotonic = 0;
  wall = 1_700_000_000_000;
  nowMs = (): number => this.wall;
  monotonicMs = (): number => this.monotonic;
  sleep = (): Promise<void> => Promise.reject(new Error('nobody sleeps here'));
}

let instances = 0;
function receiver(store: MemoryStore, id: string, clock = new Hands()): { fleet: Fleet; clock: Hands } {
  const randomId = (): string => `00000000-0000-4000-8000-${String(++instances).padStart(12, '0')}`;
  const load = (): { machines: number; bytesPerSecond: number } => ({ machines: 3, bytesPerSecond: 0 });
  const letter = id.slice(0, 1);
  const fleet = new Fleet(
    { store, clock, randomId, log: silentLogger(), load },
    { id, name: letter, addresses: [`${letter}:1`], program: 'test', weight: 1, heartbeatMs: HEARTBEAT_MS },
  );
  return { fleet, clock };
}

async function beats(count: number, ...those: { fleet: Fleet; clock: Hands }[]): Promise<void> {
  for (let i = 0; i < count; i++) {
    for (const { fleet, clock } of those) {
      clock.monotonic += HEARTBEAT_MS;
      await fleet.beat();
    }
  }
}

const seen = ({ fleet }: { fleet: Fleet }, id: string): string | undefined =>
  fleet.view.members.find((member) => member.id === id)?.liveness;

describe('receivers on one store', () => {
  it('see each other live when they have moved, not before', async () => {
    const store = new MemoryStore();
    const [a, b] = [receiver(store, A), receiver(store, B)];
    await beats(1, a, b);
    expect(seen(b, A)).toBe('unknown');
    await beats(2, a, b);
    expect(seen(b, A)).toBe('live');
    expect(seen(a, B)).toBe('live');
    expect(a.fleet.known.map(({ id }) => id)).toEqual([A, B]);
  });

  it('take one for gone after it was silent for some looks, whatever the wall clocks say', async () => {
    const store = new MemoryStore();
    const [a, b] = [receiver(store, A), receiver(store, B)];
    b.clock.wall -= 3_600_000;
    await beats(2, b, a);
    a.clock.wall += 86_400_000;
    await beats(RECEIVER_MISSES_MAX - 1, a);
    expect(seen(a, B)).toBe('live');
    await beats(1, a);
    expect(seen(a, B)).toBe('gone');
    await beats(1, b, a);
    expect(seen(a, B)).toBe('live');
  });

  it('take nobody for gone because they slept themselves', async () => {
    const store = new MemoryStore();
    const [a, b] = [receiver(store, A), receiver(store, B)];
    await beats(2, b, a);
    a.clock.monotonic += 86_400_000;
    expect(seen(a, B)).toBe('live');
    await beats(1, b, a);
    expect(seen(a, B)).toBe('live');
  });

  it('take one for gone at once that says so, and live again when it is back', async () => {
    const store = new MemoryStore();
    const [a, b] = [receiver(store, A), receiver(store, B)];
    await beats(2, a, b);
    await b.fleet.leave();
    await beats(1, a);
    expect(seen(a, B)).toBe('gone');
    expect(a.fleet.known.map(({ id }) => id)).toEqual([A]);
    const again = receiver(store, B);
    await beats(1, again, a);
    expect(seen(a, B)).toBe('live');
  });

  it('never take a receiver of the past, which nobody saw moving, for one that lives', async () => {
    const store = new MemoryStore();
    const old = receiver(store, A);
    await beats(5, old);
    const b = receiver(store, B);
    await beats(1, b);
    expect(seen(b, A)).toBe('unknown');
    expect(b.fleet.view.isSettled).toBe(false);
    await beats(RECEIVER_MISSES_MAX, b);
    expect(seen(b, A)).toBe('gone');
    expect(b.fleet.view.isSettled).toBe(true);
  });

  it('count on over restarts, and remove what they do not need', async () => {
    const store = new MemoryStore();
    await beats(5, receiver(store, A));
    expect(await receiverNumbers(store, A)).toEqual([4, 5]);
    await beats(2, receiver(store, A));
    expect(await receiverNumbers(store, A)).toEqual([6, 7]);
  });

  it('ask a store that locks what they wrote once for each sign of life, and remove it when the lock ends', async () => {
    const clock = new Hands();
    const store = new LockingStore(clock, 60_000);
    const log = silentLogger();
    const warn = vi.spyOn(log, 'warn');
    const self = { id: A, name: 'a', addresses: ['a:1'], program: 'test', weight: 1, heartbeatMs: HEARTBEAT_MS };
    const registrar = new Registrar({ store, clock, randomId: randomUUID, log }, self);
    for (let i = 0; i < 200; i++) {
      await registrar.beat('serving', { machines: 0, bytesPerSecond: 0 });
      clock.wall += HEARTBEAT_MS;
    }
    // A minute of them, and what a beat or two look at.
    expect(store.objects.size).toBeLessThan(60 + RECEIVER_RECORDS_TIDIED + 5);
    const refused = store.asked.filter(({ lockedUntilMs }) => lockedUntilMs !== null).map(({ name }) => name);
    expect(refused.length).toBeGreaterThan(50);
    expect(new Set(refused).size).toBe(refused.length);
    expect(warn).not.toHaveBeenCalled();
  });

  it('look at few names of each other, however many a store keeps locked', async () => {
    const clock = new Hands();
    const store = new LockingStore(clock, 1e12);
    const [a, b] = [receiver(store, A, clock), receiver(store, B, clock)];
    await beats(200, a, b);
    expect(store.objects.size).toBe(400);
    let names = 0;
    const real = store.list.bind(store);
    store.list = async function* (prefix, options) {
      for await (const object of real(prefix, options)) {
        names++;
        yield object;
      }
    };
    await beats(1, a, b);
    expect(names).toBeLessThan(20);
    expect([seen(a, B), seen(b, A)]).toEqual(['live', 'live']);
    await beats(RECEIVER_MISSES_MAX + 1, a);
    expect(seen(a, B)).toBe('gone');
  });

  it('notice another process with their own id', async () => {
    const store = new MemoryStore();
    const [one, two] = [receiver(store, A), receiver(store, A)];
    await beats(2, one, two);
    expect(one.fleet.isDoubled || two.fleet.isDoubled).toBe(true);
    await beats(2, one);
    expect(one.fleet.problem).toBe('');
  });

  it('know their own beat again whose answer was lost', async () => {
    const store = new MemoryStore();
    const a = receiver(store, A);
    await beats(1, a);
    const real = store.createIfAbsent.bind(store);
    store.createIfAbsent = async (name, bytes) => {
      await real(name, bytes);
      store.createIfAbsent = real;
      throw new Error('no answer');
    };
    await beats(1, a);
    expect(a.fleet.problem).toMatch(/no answer/);
    await beats(1, a);
    expect(a.fleet.problem).toBe('');
    expect(a.fleet.isDoubled).toBe(false);
    expect(await receiverNumbers(store, A)).toEqual([1, 2]);
  });

  it('go on without one whose record can not be read, and without a store for a while', async () => {
    const store = new MemoryStore();
    const [a, b] = [receiver(store, A), receiver(store, B)];
    await beats(2, b, a);
    store.objects.set(`receivers/${idOf('c')}/000000000001`, Buffer.from('rubbish'));
    store.objects.set('receivers/README', Buffer.from('not ours'));
    await beats(1, b, a);
    expect(seen(a, B)).toBe('live');
    const real = store.list.bind(store);
    store.list = () => {
      throw new Error('the store is away');
    };
    await beats(10, a);
    expect(a.fleet.problem).toMatch(/away/);
    store.list = real;
    // It could not look: nobody was silent.
    expect(seen(a, B)).toBe('live');
  });

  it('call for machines as long as they live and want them', async () => {
    const store = new MemoryStore();
    const [a, b] = [receiver(store, A), receiver(store, B)];
    const machine = asMachineId('11111111-0000-4000-8000-000000000001');
    const [one, two] = [b.fleet.call(machine), b.fleet.call(machine)];
    await beats(1, b, a);
    // Not seen to move yet: it may be a call of the past.
    expect([...a.fleet.callers]).toEqual([]);
    await beats(1, b, a);
    expect([...a.fleet.callers]).toEqual([[machine, B]]);
    one();
    one();
    await beats(1, b, a);
    expect([...a.fleet.callers]).toEqual([[machine, B]]);
    await beats(RECEIVER_MISSES_MAX, a);
    expect([...a.fleet.callers]).toEqual([]);
    await beats(1, b, a);
    expect([...a.fleet.callers]).toEqual([[machine, B]]);
    two();
    await beats(1, b, a);
    expect([...a.fleet.callers]).toEqual([]);
    // Nothing of it in a record that calls for nobody: older programs read it.
    const newest = [...store.objects.keys()].filter((name) => name.includes(B)).at(-1) ?? '';
    expect(store.objects.get(newest)?.toString()).not.toContain('calls');
  });

  it('tell agents when somebody comes or goes, and only then', async () => {
    const store = new MemoryStore();
    const [a, b] = [receiver(store, A), receiver(store, B)];
    let told = 0;
    a.fleet.onChange(() => told++);
    await beats(3, a);
    const alone = told;
    await beats(3, b, a);
    expect(told).toBe(alone + 1);
    await b.fleet.leave();
    await beats(2, a);
    expect(told).toBe(alone + 2);
  });
});
