/** A member's agent over one session: what is asked of whom, and which points become points of the group. */
import { randomUUID } from 'node:crypto';
import { beforeEach, describe, expect, it } from 'vitest';
import { MachineReader } from '../../receiver/catalog/reader.js';
import type { RecoveryPoint } from '../../receiver/catalog/manifest.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { systemClock } from '../../shared/clock.js';
import { asMachineId } from '../../shared/units.js';
import type { GroupRecord } from '../../shared/wire/group-record.js';
import { ABILITIES } from '../../shared/wire/messages.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { blockBytes, helloOf, MACHINE, TestAgent, withHook } from '../session/ingest-fixture.js';

const RECORD: GroupRecord = {
  ...{ point: randomUUID(), group: randomUUID(), name: 'shop', members: [MACHINE, asMachineId(randomUUID())] },
  ...{ cutFromMs: 10, cutToMs: 12, skewMs: 2, frozenMs: 9 },
};
const ORDER = { name: 'shop', consistency: 'application', label: null } as const;

let store: MemoryStore;
let heard: string[];
beforeEach(() => {
  store = new MemoryStore();
  heard = [];
});
const hearer = {
  reached: (step: string): unknown => heard.push(step),
  failed: (reason: string): unknown => heard.push(`failed: ${reason}`),
  gone: (): unknown => heard.push('gone'),
  committed: (point: number): unknown => heard.push(`point ${point}`),
};

const connected = async (
  abilities: readonly string[] | null = ABILITIES,
  on: ObjectStore = store,
): Promise<TestAgent> => {
  const agent = new TestAgent(on);
  await agent.hello(helloOf(undefined, abilities === null ? {} : { abilities: [...abilities] }));
  await agent.firstCopy(new Map([[3, blockBytes(Math.random)]]));
  return agent;
};

const newest = async (): Promise<RecoveryPoint | undefined> =>
  (await MachineReader.open(store, MACHINE)).manifest.tail.points.at(-1);

describe('the agent of a member', () => {
  it.each([
    ['of today', ABILITIES, null],
    ['of tomorrow', [...ABILITIES, 'what nobody knows yet'], null],
    ['that knows other things', ['what nobody knows yet'], 'its agent (test) is too old for groups: upgrade it'],
    ['that is old', null, 'its agent (test) is too old for groups: upgrade it'],
  ])('%s', async (_, abilities, whyNot) => {
    const agent = await connected(abilities);
    expect(agent.session.group.whyNot).toBe(whyNot);
    await agent.end();
    expect(agent.session.group.whyNot).toBe('it is not connected');
  });

  it('commits its point with the record that it was given, whatever it echoes', async () => {
    const agent = await connected();
    const { group } = agent.session;
    group.begin(ORDER, hearer);
    const { request } = await agent.transport.next('group-point');
    for (const step of ['gathered', 'prepared', 'frozen', 'cut'] as const)
      agent.say({ type: 'group-reached', request, step });
    group.thaw(RECORD);
    expect(await agent.transport.next('group-thaw')).toMatchObject({ request, record: RECORD });
    // Until it has committed, nothing more is asked of it.
    expect(group.whyNot).toBe('its last point of a group is not committed yet');
    agent.begin();
    const point = await agent.commit({ consistency: 'application', group: { ...RECORD, skewMs: 0 } });
    expect((await newest())?.group).toEqual(RECORD);
    expect(heard).toEqual(['gathered', 'prepared', 'frozen', 'cut', `point ${point}`]);
    expect(group.whyNot).toBe(null);
    await agent.end();
  });

  it.each([
    ['was never asked for', async () => undefined],
    [
      'was given up',
      async ({ session }: TestAgent) => {
        session.group.begin(ORDER, hearer);
        session.group.abort('db is late');
      },
    ],
    ['has not been cut by all', async ({ session }: TestAgent) => session.group.begin(ORDER, hearer)],
    [
      'is another',
      async ({ session }: TestAgent) => {
        session.group.begin(ORDER, hearer);
        session.group.thaw({ ...RECORD, point: randomUUID() });
      },
    ],
  ])('can not commit for a group point that %s', async (_, before) => {
    const agent = await connected();
    await before(agent);
    agent.begin();
    agent.say(agent.commitMessage({ group: RECORD }));
    await agent.done;
    expect(agent.transport.end).toMatchObject({ code: 4400 });
    expect(await newest()).toMatchObject({ number: 1 });
  });

  it('that commits a point of its own meanwhile has not committed that of the group', async () => {
    const agent = await connected();
    agent.session.group.begin(ORDER, hearer);
    agent.session.group.thaw(RECORD);
    agent.begin();
    await agent.commit();
    expect((await newest())?.group).toBeUndefined();
    expect(heard).toEqual([]);
    await agent.end();
    expect(heard).toEqual(['gone']);
  });

  it('is heard at once, though what it sent before is not stored yet', async () => {
    let letGo = (): void => undefined;
    const stalled = new Promise<void>((resolve) => (letGo = resolve));
    let isStalling = false;
    const agent = await connected(
      ABILITIES,
      withHook(store, 'openWriter', async () => {
        if (isStalling) await stalled;
      }),
    );
    isStalling = true;
    agent.session.group.begin(ORDER, hearer);
    const { request } = await agent.transport.next('group-point');
    agent.begin();
    agent.data(new Map([[4, blockBytes(Math.random)]]));
    agent.say({ type: 'group-reached', request, step: 'frozen' });
    await systemClock.sleep(20);
    expect(heard).toEqual(['frozen']);
    letGo();
    agent.say({ type: 'group-failed', request, reason: 'deadline: not done within 2000 ms' });
    // Of another order, or one that is over.
    agent.say({ type: 'group-reached', request, step: 'cut' });
    agent.say({ type: 'group-reached', request: 99, step: 'cut' });
    await agent.commit();
    expect(heard).toEqual(['frozen', 'failed: deadline: not done within 2000 ms']);
    await agent.end();
  });
});
