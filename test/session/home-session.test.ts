/**
 * What failover believes of an agent at home: a report that isn't the goal's is none, and no word of the agent makes the receiver ask for ever.
 */
import { getEventListeners } from 'node:events';
import { setTimeout } from 'node:timers/promises';
import { beforeEach, describe, expect, it } from 'vitest';
import { SessionHomeAgents } from '../../receiver/session/home-agents.js';
import { HomeSession } from '../../receiver/session/home-session.js';
import type { RestoreSession } from '../../receiver/session/restore-session.js';
import { systemClock } from '../../shared/clock.js';
import { asDiskId, asMachineId } from '../../shared/units.js';
import type { ReceiverMessage, Restored, RestoreGoal } from '../../shared/wire/messages.js';

const MACHINE = asMachineId('11111111-1111-4111-8111-111111111111');
const [ONE, TWO] = [asDiskId('disk-1'), asDiskId('disk-2')];
const goalDisk = (disk: typeof ONE, digest: string) => ({ disk, sizeBytes: 4096, blockBytes: 4096, digest });
const DISKS = [goalDisk(ONE, 'a'.repeat(16)), goalDisk(TWO, 'b'.repeat(16))];

const reached = (goal: number, change: Partial<Restored> = {}): Restored => ({
  type: 'restored',
  goal,
  point: 7,
  disks: DISKS.map(({ disk, digest }) => ({ disk, digest, series: null, reason: '', readBytes: 0, writtenBytes: 0 })),
  ...change,
});

let told: ReceiverMessage[];
let home: HomeSession;
let agents: SessionHomeAgents;
/** What the agent does with a goal. */
let onGoal: (goal: RestoreGoal) => void;

beforeEach(() => {
  told = [];
  home = new HomeSession(
    systemClock,
    (message) => {
      told.push(message);
      if (message.type === 'restore-goal') onGoal(message);
      return Promise.resolve();
    },
    () => Promise.resolve(),
    () => undefined,
  );
  const restoring: Pick<RestoreSession, 'setGoal' | 'counters'> = {
    counters: { dataBytes: 0, sentBytes: 0, blocks: 0 },
    setGoal: (goal, point, final) => Promise.resolve({ type: 'restore-goal', goal, point, final, disks: DISKS }),
  };
  home.opened(restoring as RestoreSession);
  agents = new SessionHomeAgents(() => ({ home, done: Promise.resolve() }));
});

const restore = () =>
  agents.restore(MACHINE, { point: 7, final: true }, { signal: AbortSignal.timeout(2_000), onStep: () => undefined });

describe('a restore that an agent reports', () => {
  it('counts when it names the point, all disks and their digests', async () => {
    onGoal = ({ goal }) => home.heard(reached(goal));
    expect(await restore()).toMatchObject({ point: 7 });
  });

  const [first, second] = reached(0).disks as [Restored['disks'][number], Restored['disks'][number]];
  it.each([
    ['another point', { point: 6 }, /point 6/],
    ['a disk is missing', { disks: [first] }, /nothing of disk disk-2/],
    ['another digest', { disks: [first, { ...second, digest: 'c'.repeat(16) }] }, /digest cccc/],
  ])('does not count: %s', async (_name, change, why) => {
    onGoal = ({ goal }) => home.heard(reached(goal, change));
    await expect(restore()).rejects.toThrow(why);
  });

  it('failed in words that mean something here: not asked again and again', async () => {
    onGoal = ({ goal }) =>
      home.heard({ type: 'restore-failed', goal, code: 'home-absent', reason: 'says the agent', hint: '' });
    await expect(restore()).rejects.toThrow('says the agent');
    expect(told).toHaveLength(1);
  });

  it('can not be answered for an error here: whoever waits learns it', async () => {
    onGoal = () => home.goalFailed(new Error('layer is damaged'));
    await expect(restore()).rejects.toThrow('layer is damaged');
  });
});

describe('an order that is cancelled while it is prepared', () => {
  it('ends with that, and leaves no rejection that nobody heard: the receiver would end by it', async () => {
    const unheard: unknown[] = [];
    const onUnheard = (error: unknown): void => void unheard.push(error);
    process.on('unhandledRejection', onUnheard);
    const cancel = new AbortController();
    const setGoal = async (goal: number): Promise<RestoreGoal> => {
      cancel.abort();
      await setTimeout(20);
      return { type: 'restore-goal', goal, point: 7, final: false, disks: DISKS };
    };
    home.opened({ counters: { dataBytes: 0, sentBytes: 0, blocks: 0 }, setGoal } as unknown as RestoreSession);
    onGoal = () => undefined;
    const call = { signal: cancel.signal, onStep: () => undefined };
    await expect(home.restore({ point: 7, final: false }, call)).rejects.toThrow('the restore was cancelled');
    process.off('unhandledRejection', onUnheard);
    expect(unheard).toEqual([]);
  });

  it('leaves nothing that waits for the signal of who follows, which lives for years', async () => {
    const { signal } = new AbortController();
    onGoal = ({ goal }) => home.heard(reached(goal));
    for (let i = 0; i < 3; i++) await home.restore({ point: 7, final: false }, { signal, onStep: () => undefined });
    expect(getEventListeners(signal, 'abort')).toEqual([]);
  });
});
