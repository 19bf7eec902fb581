/** groups, group set, remove, points and point: on a store alone, and asked of a receiver. Bad input exits with 2 and changes nothing. */
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { beforeEach, describe, expect, test } from 'vitest';
import { startControlServer } from '../../receiver/api/control.js';
import { keepAttempt } from '../../receiver/catalog/group-attempts.js';
import { groupNamed, groupsOf } from '../../receiver/catalog/groups.js';
import { GROUPS_PREFIX } from '../../receiver/catalog/names.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { AfterimageError } from '../../shared/errors.js';
import { silentLogger } from '../../shared/log.js';
import { asMachineId, MIB } from '../../shared/units.js';
import type { GroupRecord } from '../../shared/wire/group-record.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { Chain, MACHINE } from '../helpers/layers.js';
import { FakeService, T0 } from './fake-service.js';
import { runWith, type Ran } from './fixture.js';

removeTempFolders();
let folder: string;
let store: ObjectStore;
let web: Chain;
const OTHER = '99999999-2222-4333-8444-555555555555';

beforeEach(async () => {
  folder = await tempFolder('groups');
  store = await openStore(`file:${folder}/store`, { create: true });
  web = new Chain(store, { sizeBytes: 2 * MIB, blockBytes: 4096 });
  for (let p = 1; p <= 2; p++) web.point(p, { cutAtMs: T0 + p });
  await web.publish();
  // Enrolled, nothing replicated yet.
  await store.createIfAbsent(`machines/${OTHER}/identity/000000000001`, Buffer.from('x'));
});

const run = (...args: string[]): Promise<Ran> => runWith(['--store', `file:${folder}/store`, ...args]);
const written = async (): Promise<number> => {
  let count = 0;
  for await (const _ of store.list(GROUPS_PREFIX)) count++;
  return count;
};

describe('groups in the store', () => {
  test('one is made, shown, changed and removed', async () => {
    expect((await run('groups')).err).toContain('There is no group yet');
    const set = await run('group', 'set', 'shop', '--members', `web1,${OTHER}`, '--every', '1h');
    expect([set.code, set.err]).toEqual([0, expect.stringContaining('points every 1h, application-consistent')]);
    expect(groupNamed(await groupsOf(store), 'shop').members).toEqual([MACHINE, OTHER].sort());
    expect((await run('groups')).out).toMatch(/^shop +\S+ +application +every 1h +-$/m);
    const changed = await run(
      'group',
      'set',
      'shop',
      '--members',
      `web1,${OTHER}`,
      '--cron',
      '15 */4 * * *',
      '--consistency',
      'filesystem',
      '--json',
    );
    expect(JSON.parse(changed.out)).toMatchObject({ group: { consistency: 'filesystem', schedule: { by: 'cron' } } });
    expect((await run('group', 'remove', 'shop')).code).toBe(0);
    expect(await groupsOf(store)).toEqual([]);
  });

  test.each([
    ['a name that is none', ['my shop', '--members', `web1,${OTHER}`], '"my shop" is not a name of a group'],
    ['one member', ['shop', '--members', 'web1'], '--members names 1 machine'],
    ['seventeen members', ['shop', '--members', Array(17).fill('web1').join(',')], '--members names 17 machines'],
    ['an empty member', ['shop', '--members', 'web1,,x'], '"web1,,x" has an empty name'],
    ['a member twice', ['shop', '--members', `web1,${MACHINE}`], '--members names machine web1 twice'],
    ['a machine that is not there', ['shop', '--members', 'web1,nowhere'], 'there is no machine "nowhere"'],
    [
      'a consistency that is none',
      ['shop', '--members', `web1,${OTHER}`, '--consistency', 'strong'],
      '--consistency strong',
    ],
    [
      'crash consistency',
      ['shop', '--members', `web1,${OTHER}`, '--consistency', 'crash'],
      'only while all members are frozen',
    ],
    ['too short a distance', ['shop', '--members', `web1,${OTHER}`, '--every', '10s'], '--every 10s'],
    ['a distance that is none', ['shop', '--members', `web1,${OTHER}`, '--every', 'often'], '--every often'],
    [
      'a cron expression that is none',
      ['shop', '--members', `web1,${OTHER}`, '--cron', '61 * * * *'],
      '--cron "61 * * * *"',
    ],
    ['both', ['shop', '--members', `web1,${OTHER}`, '--cron', '* * * * *', '--every', '1h'], '--every and --cron'],
    ['no members', ['shop'], '--members'],
  ])('%s is bad input: exit code 2, named, nothing written', async (_, args, what) => {
    const { code, err } = await run('group', 'set', ...args);
    expect([code, err]).toEqual([2, expect.stringContaining(what)]);
    expect(await written()).toBe(0);
  });

  test('a machine in another group, and groups that are not there', async () => {
    await run('group', 'set', 'shop', '--members', `web1,${OTHER}`);
    const { code, err } = await run('group', 'set', 'more', '--members', `web1,${OTHER}`);
    expect([code, err]).toEqual([2, expect.stringContaining('is in group shop')]);
    for (const args of [
      ['remove', 'shoes'],
      ['points', 'shoes'],
    ]) {
      const other = await run('group', ...args);
      expect([other.code, other.err]).toEqual([2, expect.stringContaining('there is no group shoes')]);
    }
    expect(await written()).toBe(1);
  });
});

describe('points of a group', () => {
  test('those that all members list; what came to nothing is shown when it is asked for', async () => {
    await run('group', 'set', 'shop', '--members', `web1,${OTHER}`);
    const group = groupNamed(await groupsOf(store), 'shop');
    await keepAttempt(store, {
      ...{ version: 1, point: randomUUID(), group: group.id, name: 'shop', label: 'never', by: 'schedule' },
      ...{ startedAtMs: T0, endedAtMs: T0 + 1, reason: 'db1: hook 20-bad: exit code 7', members: [] },
      ...{ skewMs: null, frozenMs: null, asked: true },
    });
    const none = await run('group', 'points', 'shop');
    expect([none.code, none.out]).toEqual([0, '']);
    expect(none.err).toContain('has no point that all its members have');
    expect(none.err).toContain('1 came to nothing');
    expect((await run('group', 'points', 'shop', '--incomplete')).out).toContain('db1: hook 20-bad: exit code 7');
    expect((await run('groups')).out).toContain('ABSENT: db1: hook 20-bad: exit code 7');
  });

  test('are shown with their skew and the number of each member; one that a member has alone is not', async () => {
    const second = asMachineId('88888888-2222-4333-8444-555555555555');
    const db = new Chain(store, { sizeBytes: 2 * MIB, blockBytes: 4096, machine: second, name: 'db1' });
    db.point(1);
    await db.publish();
    await run('group', 'set', 'shop', '--members', 'web1,db1');
    const { id: group, members } = groupNamed(await groupsOf(store), 'shop');
    const record = (): GroupRecord => ({
      ...{ point: randomUUID(), group, name: 'shop', members },
      ...{ cutFromMs: T0, cutToMs: T0 + 4, skewMs: 4, frozenMs: 70 },
    });
    const [whole, half] = [record(), record()];
    db.point(2, { group: whole, label: 'before' });
    await db.publish();
    web.point(3, { group: half });
    web.point(4, { group: whole, label: 'before' });
    await web.publish();
    const { out, err } = await run('group', 'points', 'shop');
    const numbers = members.map((machine) => (machine === MACHINE ? 'web1:4' : 'db1:2')).join(' ');
    expect(out).toMatch(new RegExp(`^${whole.point} .* 4 ms +70 ms +before +${numbers}$`, 'm'));
    expect(out).not.toContain(half.point);
    expect(err).toContain('1 came to nothing');
    const json = JSON.parse((await run('group', 'points', 'shop', '--incomplete', '--json')).out) as unknown;
    expect(json).toMatchObject({
      points: [
        {
          id: whole.point,
          skewMs: 4,
          members: expect.arrayContaining([
            {
              machine: second,
              name: 'db1',
              number: 2,
              cutAtMs: expect.any(Number) as unknown,
              consistency: expect.any(String) as unknown,
            },
          ]) as unknown,
        },
      ],
      incomplete: [{ id: half.point, reason: 'db1 lists no point of it', members: [{ name: 'web1', number: 3 }] }],
    });
  });
});

describe('a point that is asked for', () => {
  test('is asked of the receiver; what it says is shown, and why there is none', async () => {
    const socketPath = join(folder, 'control.sock');
    const asked: unknown[] = [];
    const server = await startControlServer({
      socketPath,
      service: new FakeService(),
      groups: {
        pointNow: async (name, label) => {
          asked.push([name, label]);
          if (name === 'bad')
            throw new AfterimageError('no point of group bad: db1 is late', {
              code: 'group-point-absent',
              kind: 'refused',
            });
          return {
            ...{ version: 1, point: randomUUID(), group: randomUUID(), name, label, by: 'operator' },
            ...{ startedAtMs: T0, endedAtMs: T0, reason: '', skewMs: 4, frozenMs: 70, asked: true },
            members: [
              { machine: MACHINE, name: 'web1', point: 812 },
              { machine: OTHER, name: 'db1', point: 77 },
            ],
          };
        },
      },
      log: silentLogger(),
    });
    const made = await runWith(['group', 'point', 'shop', '--label', 'x', '--socket', socketPath]);
    expect([made.code, made.out]).toEqual([
      0,
      expect.stringContaining('web1 point 812, db1 point 77. Cut within 4 ms'),
    ]);
    const bad = await runWith(['group', 'point', 'bad', '--socket', socketPath]);
    expect([bad.code, bad.err]).toEqual([1, expect.stringContaining('db1 is late')]);
    const label = await runWith(['group', 'point', 'shop', '--label', 'two\nlines', '--socket', socketPath]);
    expect([label.code, label.err]).toEqual([2, expect.stringContaining('--label')]);
    expect(asked).toEqual([
      ['shop', 'x'],
      ['bad', null],
    ]);
    await server.stop();
  });
});
