/**
 * Failover, test failover and failback of a real guest. The guest's own logs say what was lost.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { Recovery } from '../../receiver/catalog/recovery.js';
import { canRunLab, MACHINE_NAME, sleep } from '../e2e/lab.js';
import { guestUnavailable, readWriterLog } from '../guest/guest.js';
import { Drill, guestPids } from './drill.js';

const missing = guestUnavailable();
if (missing !== null) console.warn(`drills are skipped: ${missing}`);
const canRun = canRunLab && missing === null;
const LIMIT_MS = 240_000;
/** There and back; the long run is `AFTERIMAGE_DRILL_ROUNDS=20 npx vitest run test/drill`. */
const ROUNDS = Number(process.env['AFTERIMAGE_DRILL_ROUNDS'] ?? 2);

let drill: Drill | null = null;
afterEach(async () => {
  await drill?.cleanUp();
  drill = null;
}, 60_000);

const stateOf = async (of: Drill): Promise<Recovery> => {
  const { recovery } = await of.view();
  if (recovery === null) throw new Error('nothing was ever done with the machine');
  return recovery;
};

/** Both logs of a running guest: nothing damaged, nothing twice; returns acknowledged lines that are missing. */
async function missingLines(of: Drill, port: number, upTo = Infinity): Promise<readonly number[]> {
  // The client goes on meanwhile: what it gets acknowledged after the log was read can't be in it.
  const last = Math.min(upTo, of.client.acknowledged.at(-1) ?? 0);
  readWriterLog(await of.fetchFrom(port, '/writer.log'));
  return of.client.check(await of.fetchFrom(port, '/data.log'), last).missing;
}

/** The home disk, byte for byte, is what a point of the chain restores to. */
async function expectHomeIs(of: Drill, point: number): Promise<void> {
  await of.lab.restore(point);
  expect(of.lab.differences(0)).toEqual([]);
}

describe.skipIf(!canRun)('a real machine', () => {
  it(
    'burns, runs elsewhere, and comes home',
    async () => {
      drill = await Drill.open();
      const { client, lab } = drill;
      await drill.bootHome();
      await client.more(20);
      await sleep(1500);
      await drill.burnHome();
      const job = await drill.operate('failover', '--yes');
      expect(job.state).toBe('Succeeded');
      const copy = (await stateOf(drill)).failover;
      expect(copy?.bootCheck?.passed).toBe(true);
      const began = (await lab.points()).find((p) => p.number === copy?.point);
      // Everything that was acknowledged before the point's cut is there; what came later may be, too.
      expect(await missingLines(drill, drill.recoveryPort, client.lastBefore(began?.cutAtMs ?? 0))).toEqual([]);
      expect(client.lastBefore(began?.cutAtMs ?? 0)).toBeGreaterThan(0);
      const lost = await missingLines(drill, drill.recoveryPort);
      client.port = drill.recoveryPort;
      await client.more(10);

      // The receiver dies; the guest waits for its disks and goes on.
      await lab.receiver?.kill();
      await lab.startReceiver();
      await client.more(10);
      const before = (await lab.points())[0]?.number ?? 0;
      await drill.untilPoint((p) => p > before);

      // The source comes back from the dead: it is refused, says so, and goes on asking.
      await lab.startAgent();
      await lab.until('failed over', (s) => /failed over/.test(JSON.stringify(s)));
      expect((await lab.verifyAll()).every((p) => p.restorable)).toBe(true);

      await drill.operate('commit');
      client.port = null;
      const home = await drill.operate('failback');
      expect(home.state).toBe('Succeeded');
      await lab.untilProtected();
      const final = (await lab.points())[0]?.number ?? 0;
      await expectHomeIs(drill, final);
      await drill.bootHome();
      expect(await missingLines(drill, drill.homePort)).toEqual(lost);
      await client.more(5);
      expect(guestPids(lab.folder).filter((pid) => pid !== drill?.home?.pid)).toEqual([]);
    },
    LIMIT_MS,
  );

  it(
    `loses nothing in ${ROUNDS} planned rounds there and back`,
    async () => {
      drill = await Drill.open();
      const { client, lab } = drill;
      await drill.bootHome();
      for (let round = 1; round <= ROUNDS; round++) {
        await client.more(10);
        const there = await drill.operate('failover', '--planned', '--commit', '--yes');
        expect(there.state, `round ${round}`).toBe('Succeeded');
        client.port = drill.recoveryPort;
        await client.more(10);
        expect(await missingLines(drill, drill.recoveryPort), `round ${round}, there`).toEqual([]);
        client.port = null;
        const back = await drill.operate('failback');
        expect(back.state, `round ${round}`).toBe('Succeeded');
        // What the agent's hook had shut down, its counterpart starts again.
        await client.more(5, LIMIT_MS);
        await lab.untilProtected();
        expect(await missingLines(drill, drill.homePort), `round ${round}, back`).toEqual([]);
        if (round % 5 === 1) expect((await lab.verifyAll()).every((p) => p.restorable)).toBe(true);
      }
      expect(drill.hooks.calls).toEqual(Array.from({ length: ROUNDS }, () => ['stop', 'resume']).flat());
    },
    LIMIT_MS * Math.max(1, ROUNDS / 2),
  );

  it(
    'is tested beside production, and nothing of it remains',
    async () => {
      drill = await Drill.open();
      const { client, lab } = drill;
      await drill.bootHome();
      await client.more(10);
      await lab.syncNow();
      const job = await drill.operate('test-failover');
      expect(job.state).toBe('Succeeded');
      // Both answer; what the test writes is its own.
      await drill.fetchFrom(drill.testPort, '/cgi-bin/append?999999');
      await client.more(10);
      expect(await drill.fetchFrom(drill.homePort, '/data.log')).not.toContain('999999');
      const open = await stateOf(drill);
      expect(open.testFailover.state).toBe('TestFailoverCompleted');
      expect(open.state).toBe('Protected');
      const cleaned = await drill.operate('cleanup', '--notes', 'went well');
      expect(cleaned.state).toBe('Succeeded');
      expect((await stateOf(drill)).testFailover).toEqual({ state: 'None', instance: null });
      await expect(drill.fetchFrom(drill.testPort, '/')).rejects.toThrow();
      expect(guestPids(lab.folder).filter((pid) => pid !== drill?.home?.pid)).toEqual([]);
      expect(readdirSync(join(lab.folder, 'v'))).toEqual([]);
      expect((await lab.points()).every((p) => p.generation === 1)).toBe(true);
      expect((await lab.verifyAll()).every((p) => p.restorable)).toBe(true);
      expect(await missingLines(drill, drill.homePort)).toEqual([]);
      await drill.powerDownHome();
      await lab.syncNow();
      await expectHomeIs(drill, (await lab.points())[0]?.number ?? 0);
    },
    LIMIT_MS,
  );

  it(
    'goes back to an older point before the commit, and is called off',
    async () => {
      drill = await Drill.open();
      const { client, lab } = drill;
      await drill.bootHome();
      await client.more(5);
      const older = (await lab.syncNow()).point;
      const olderHas = client.acknowledged.at(-1) ?? 0;
      await client.more(10);
      await lab.syncNow();
      await drill.burnHome();
      await drill.operate('failover', '--yes');
      await drill.operate('change-point', '--point', String(older), '--yes');
      const log = await drill.fetchFrom(drill.recoveryPort, '/data.log');
      const numbers = log.trim().split('\n').map(Number);
      // A line or two may have landed between the last acknowledgement and the cut.
      expect(Math.max(...numbers)).toBeGreaterThanOrEqual(olderHas);
      expect(Math.max(...numbers)).toBeLessThan(client.acknowledged.at(-1) ?? 0);
      client.port = drill.recoveryPort;
      await client.more(5);
      client.port = null;
      await drill.operate('cancel', '--yes');
      expect((await stateOf(drill)).state).toBe('Protected');
      expect((await stateOf(drill)).activeLocation).toBe('Primary');
      await lab.startAgent();
      await lab.untilProtected();
      await lab.syncNow();
      // Home never saw any of it, and the newest point is home's again.
      await expectHomeIs(drill, (await lab.points())[0]?.number ?? 0);
      expect((await lab.verifyAll()).every((p) => p.restorable)).toBe(true);
      expect((await lab.status()).machine.name).toBe(MACHINE_NAME);
    },
    LIMIT_MS,
  );
});
