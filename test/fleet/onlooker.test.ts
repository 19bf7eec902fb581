/** What the store alone tells of the receivers. */
import { describe, expect, it } from 'vitest';
import { lookAtFleet } from '../../receiver/fleet/onlooker.js';
import { createReceiverRecord, type ReceiverRecord } from '../../receiver/fleet/record.js';
import { wantedOwner } from '../../receiver/fleet/wanted.js';
import { OwnedMachine } from '../../receiver/catalog/owned-machine.js';
import { systemClock } from '../../shared/clock.js';
import { asMachineId } from '../../shared/units.js';
import { MemoryStore } from '../helpers/memory-store.js';

const NOW_MS = 1_700_000_000_000;
const A = 'aaaaaaaa-0000-4000-8000-000000000000';
const B = 'bbbbbbbb-0000-4000-8000-000000000000';
const C = 'cccccccc-0000-4000-8000-000000000000';
const recordOf = (
  id: string,
  agoMs: number,
  state: ReceiverRecord['state'] = 'serving',
): Omit<ReceiverRecord, 'version'> => ({
  ...{ id, number: 7, instance: id, name: id.slice(0, 1), addresses: ['h:1'], program: 'test', state },
  ...{
    startedAtMs: 1,
    writtenAtMs: NOW_MS - agoMs,
    heartbeatMs: 1000,
    weight: 1,
    load: { machines: 0, bytesPerSecond: 0 },
    calls: [],
  },
});
const machineOf = (receiver: string): ReturnType<typeof asMachineId> => {
  for (let i = 0; ; i++) {
    const id = asMachineId(`11111111-0000-4000-8000-${String(i).padStart(12, '0')}`);
    if (
      wantedOwner(
        id,
        [A, B].map((r) => ({ id: r, weight: 1 })),
      ) === receiver
    )
      return id;
  }
};

async function own(store: MemoryStore, receiver: string, machine: ReturnType<typeof asMachineId>): Promise<void> {
  let ids = 0;
  const owner = { receiver, name: receiver.slice(0, 1), address: 'h:1' };
  const deps = { store, clock: systemClock, randomId: () => `w${ids++}`, owner };
  const owned = await OwnedMachine.takeOver(deps, machine, () =>
    Promise.resolve({
      ...{ generation: 1, machine: { id: machine, name: `of-${receiver.slice(0, 1)}`, description: null } },
      ...{ lastPoint: 0, disks: [], pages: [], tail: { points: [], deltas: [] } },
    }),
  );
  // It stands in every manifest of the epoch.
  await owned.commit((current) => current);
  expect(owned.manifest.owner).toEqual(owner);
}

describe('a look at the fleet', () => {
  it('tells who lives, who has what, and what is to move, with reasons', async () => {
    const store = new MemoryStore();
    await createReceiverRecord(store, recordOf(A, 500));
    await createReceiverRecord(store, recordOf(B, 2900));
    await createReceiverRecord(store, recordOf(C, 3100));
    const stays = machineOf(A);
    const moves = machineOf(B);
    await own(store, A, stays);
    await own(store, C, moves);
    const seen = await lookAtFleet(store, NOW_MS);
    expect(seen.receivers.map(({ record, state, owns }) => [record.id, state, owns])).toEqual([
      [A, 'live', ['of-a']],
      [B, 'live', []],
      [C, 'gone', ['of-c']],
    ]);
    expect(seen.moves).toMatchObject([{ machine: moves, from: 'c', to: 'b' }]);
    expect(seen.moves[0]?.reason).toMatch(/c is gone; its share of 2 receivers/);
    expect(seen.problems).toEqual([]);
  });

  it('knows one that left from one that is gone, and goes on past what it can not read', async () => {
    const store = new MemoryStore();
    await createReceiverRecord(store, recordOf(A, 999_999, 'leaving'));
    store.objects.set(`receivers/${B}/000000000001`, Buffer.from('rubbish'));
    const seen = await lookAtFleet(store, NOW_MS);
    expect(seen.receivers.map(({ state }) => state)).toEqual(['left']);
    expect(seen.problems.join()).toContain(B);
  });
});
