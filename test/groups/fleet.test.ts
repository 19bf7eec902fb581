/**
 * A group in a fleet of receivers: its members' agents come to one receiver, and a point is asked for there or refused with the place where they are.
 */
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { groupNamed, groupsOf } from '../../receiver/catalog/groups.js';
import { FleetLab, until, type LabReceiver } from '../fleet/fleet-lab.js';

const LIMIT_MS = 240_000;

describe('a group of machines of several receivers', () => {
  let lab: FleetLab | null = null;
  afterEach(async () => {
    await lab?.cleanUp();
    lab = null;
  }, 60_000);

  it(
    'comes to one receiver when it is made, and goes apart when it is removed',
    async () => {
      const site = (lab = new FleetLab());
      const [a, b] = [await site.receiver('a'), await site.receiver('b')];
      await a.start();
      await b.start();
      // Two that belong to different receivers, and one that is in no group.
      const agents = [await site.agent(a), await site.agent(a)];
      for (let i = 0; i < 20 && new Set(agents.map((one) => site.wanted(one.machine, [a, b]))).size < 2; i++)
        agents.push(await site.agent(a));
      await site.untilSettled([a, b]);
      const [first] = agents;
      const other = agents.find((one) => one.at !== first?.at);
      if (first === undefined || other === undefined) throw new Error('all belong to one receiver');
      const members = [first.machine, other.machine];
      expect((await site.cli('group', 'set', 'shop', '--members', members.join(','))).code).toBe(0);

      const { id } = groupNamed(await groupsOf(await site.store()), 'shop');
      const home = site.wantedId(id as never, [a.id, b.id]) === a.id ? a : b;
      const away = home === a ? b : a;
      await until('both are at one receiver', () => [first, other].every(({ at }) => at === home.address));
      const moves = await site.cli('receivers', '--json');
      expect(
        (JSON.parse(moves.stdout) as { moves: { machine: string }[] }).moves.filter((m) =>
          members.includes(m.machine as never),
        ),
      ).toEqual([]);

      const ask = async (of: LabReceiver): Promise<string> => {
        const socket = join(site.folder, of.letter, 'control.sock');
        const { code, stderr } = await site.cli('group', 'point', 'shop', '--socket', socket);
        expect(code).toBe(1);
        return stderr;
      };
      expect(await ask(away)).toContain(
        `its agent is not connected here; receiver ${home.letter} had it last: give the command there`,
      );
      // These agents are made up, and say nothing of groups.
      expect(await ask(home)).toMatch(/no point of group shop: .*is too old for groups: upgrade it/);

      expect((await site.cli('group', 'remove', 'shop')).code).toBe(0);
      await site.untilSettled([a, b]);
    },
    LIMIT_MS,
  );
});
