/**
 * What goes wrong with a group's point in the whole system: a member that fails, dies or is stopped while all are frozen, a coordinator that dies. The point
 * is absent with the reason, never half, and whatever happens everybody can write again.
 */
import { execFile } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, describe, expect, it } from 'vitest';
import { MIB } from '../../shared/units.js';
import { canRunLab, WHY_NO_LAB, type Lab } from '../e2e/lab.js';
import type { Output } from '../e2e/program.js';
import { GROUP, GroupLab } from './group-lab.js';

const LIMIT_MS = 300_000;
/** The agents' own limit is 10 s; a machine under load gets more. */
const THAW_LIMIT_MS = 45_000;

describe.skipIf(!canRunLab)(`a point of a group that fails (${WHY_NO_LAB})`, () => {
  let lab: GroupLab | null = null;
  afterEach(async () => {
    for (const { agent } of lab?.machines ?? []) agent?.signal('SIGCONT');
    await lab?.cleanUp();
    lab = null;
  }, 60_000);

  const mounts = new Map<Lab, string>();
  const open = async (): Promise<GroupLab> => {
    const opened = (lab = await GroupLab.open(64 * MIB));
    for (const machine of opened.machines) {
      mounts.set(machine, machine.mount(0, 'ext4'));
      hook(machine, '10-app', 'true');
    }
    await opened.setUp();
    await opened.define();
    return opened;
  };
  const hook = (of: Lab, name: string, body: string): void =>
    writeFileSync(join(of.folder, 'hooks', name), `#!/bin/sh\n${body}\n`, { mode: 0o755 });

  /** A write from another process, durable; a frozen filesystem keeps it waiting. */
  const write = (of: Lab): Promise<unknown> =>
    promisify(execFile)('dd', ['if=/dev/zero', `of=${mounts.get(of)}/written`, 'bs=4k', 'count=1', 'conv=fsync'], {
      timeout: THAW_LIMIT_MS,
    });
  const restartAgent = async (of: Lab, failpoint?: string): Promise<void> => {
    if (of.agent?.end === null) await of.agent.stop();
    await of.startAgent(failpoint === undefined ? {} : { AFTERIMAGE_FAILPOINT: failpoint });
    await of.untilProtected();
  };
  const messageOf = ({ stderr }: Output): string =>
    (JSON.parse(stderr) as { error: { message: string } }).error.message;

  it(
    'one member can not be quiesced: absent with its reason, shown everywhere; what members made alone is not of the group',
    async () => {
      const at = await open();
      const { web, db } = at;
      hook(db, '20-bad', '[ "$1" != pre ] || { echo "the server is away"; exit 7; }');
      const output = await at.askPoint('--label', 'never');
      expect(output.code).toBe(1);
      expect(messageOf(output)).toBe(
        `no point of group shop: db: not application-consistent: hook 20-bad: exit code 7`,
      );
      await Promise.all(at.machines.map(write));
      const { points, incomplete } = await at.points();
      expect(points).toEqual([]);
      expect(incomplete).toMatchObject(
        [{ label: 'never', reason: /hook 20-bad/, members: [] }].map((one) => ({
          ...one,
          reason: expect.stringMatching(one.reason) as unknown,
        })),
      );
      expect(await web.command('cli', 'groups')).toMatch(
        /shop +(web,db|db,web) +application +on demand +.*ABSENT: db: not application-consistent/,
      );
      const status = (await (await fetch(`http://127.0.0.1:${web.receiverStatusPort}/status`)).json()) as {
        groups: unknown;
      };
      expect(status.groups).toMatchObject([
        { name: 'shop', made: 0, absent: 1, lastFailure: expect.stringContaining('20-bad') as unknown },
      ]);
      const metrics = await (await fetch(`http://127.0.0.1:${web.receiverStatusPort}/metrics`)).text();
      expect(metrics).toContain('afterimage_receiver_group_failing{group="shop"} 1');

      // Members go on alone: weaker, with the reason, and without the label of what never was.
      await web.until('its own point', async () => (await web.points()).some((point) => point.quiesce !== undefined));
      for (const point of await web.points()) {
        expect(point.group).toBeUndefined();
        expect(point.label).toBeUndefined();
      }

      rmSync(join(db.folder, 'hooks', '20-bad'));
      const made = await at.point('--label', 'mended');
      expect((await at.points()).points).toMatchObject([{ id: made.point, label: 'mended' }]);
      const [newest] = await web.points();
      expect(newest).toMatchObject({
        label: 'mended',
        consistency: 'application',
        group: { point: made.point, name: GROUP },
      });
    },
    LIMIT_MS,
  );

  it(
    'the coordinator is killed while all are frozen, and when all have cut: nobody stays frozen, nothing is half',
    async () => {
      const at = await open();
      const { web } = at;
      for (const failpoint of ['receiver.group.frozen', 'receiver.group.cut', 'receiver.group.thawed']) {
        await web.receiver?.stop();
        await web.startReceiver({ AFTERIMAGE_FAILPOINT: failpoint });
        for (const machine of at.machines) await machine.untilProtected();
        expect((await at.askPoint()).code).not.toBe(0);
        expect((await web.receiver?.ended)?.signal).toBe('SIGKILL');
        await Promise.all(at.machines.map(write));
        expect((await at.points()).points).toEqual([]);
      }
      await web.startReceiver();
      for (const machine of at.machines) await machine.untilProtected();
      const made = await at.point();
      expect((await at.points()).points.map(({ id }) => id)).toEqual([made.point]);
    },
    LIMIT_MS,
  );

  it(
    'a member is killed while frozen, and after the cut: absent with the reason; a point that the other has is its own',
    async () => {
      const at = await open();
      const { web, db } = at;
      for (const [failpoint, reason] of [
        ['agent.group.frozen', 'db was disconnected while machines were being frozen'],
        ['agent.group.cut', 'db was disconnected while all were frozen, before all had cut'],
        ['agent.group.thawed', 'db was disconnected after the cut, before its point was committed'],
      ] as const) {
        await restartAgent(db, failpoint);
        const output = await at.askPoint('--label', failpoint);
        expect(messageOf(output)).toBe(`no point of group shop: ${reason}`);
        expect((await db.agent?.ended)?.signal).toBe('SIGKILL');
        await Promise.all(at.machines.map(write));
      }
      // The web's commit may come a moment after its companion died.
      await web.until('its point alone', async () =>
        (await web.points()).some(({ label }) => label === 'agent.group.thawed'),
      );
      const { points, incomplete } = await at.points();
      expect(points).toEqual([]);
      expect(incomplete.map(({ label, members }) => [label, members.map(({ name }) => name)])).toEqual([
        ['agent.group.thawed', ['web']],
        ['agent.group.cut', []],
        ['agent.group.frozen', []],
      ]);
      expect(incomplete[0]?.reason).toContain('(db lists no point of it)');
      await restartAgent(db);
      const made = await at.point();
      expect((await at.points()).points.map(({ id }) => id)).toEqual([made.point]);
    },
    LIMIT_MS,
  );

  it(
    'a member is stopped while it is frozen: its guard thaws it, the others are let go, the late one commits nothing of the group',
    async () => {
      const at = await open();
      const { db } = at;
      await restartAgent(db, 'agent.group.frozen:1:stop');
      const output = await at.askPoint();
      expect(messageOf(output)).toMatch(/^no point of group shop: (db was not frozen within 12 s|web: .*deadline)/);
      await Promise.all(at.machines.map(write));
      db.agent?.signal('SIGCONT');
      await db.untilProtected();
      await db.until('its own point', async () => (await db.points()).some((point) => point.quiesce !== undefined));
      expect((await at.points()).points).toEqual([]);
      expect((await db.points()).every(({ group }) => group === undefined)).toBe(true);
      const made = await at.point();
      expect((await at.points()).points.map(({ id }) => id)).toEqual([made.point]);
    },
    LIMIT_MS,
  );
});
