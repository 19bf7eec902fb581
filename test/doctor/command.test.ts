/** doctor against a real receiver, kernel and disk; what it finds when one of them is not as it should be. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { Check } from '../../agent/doctor/check.js';
import { receiverFacts } from '../../agent/doctor/collect/receiver.js';
import { requireCredentials } from '../../agent/session/credentials.js';
import { systemClock } from '../../shared/clock.js';
import { MIB } from '../../shared/units.js';
import { canRunLab, Lab } from '../e2e/lab.js';

let lab: Lab | null = null;
afterEach(async () => {
  await lab?.cleanUp();
  lab = null;
});

async function doctor(of: Lab): Promise<{ code: number | null; fine: boolean; checks: Check[] }> {
  const { code, stdout, stderr } = await of.run('agent', 'doctor', '--json');
  expect(stderr).toBe('');
  return { code, ...(JSON.parse(stdout) as { fine: boolean; checks: Check[] }) };
}

const failing = (checks: readonly Check[]): string[] =>
  checks.filter(({ verdict }) => verdict === 'fail').map(({ name }) => name);

test.skipIf(!canRunLab)('a machine that is well, and what can become of it', { timeout: 180_000 }, async () => {
  const world = await Lab.open({ disks: [16 * MIB] });
  lab = world;
  const bare = await doctor(world);
  expect(bare).toMatchObject({ code: 1, fine: false });
  expect(failing(bare.checks)).toEqual(['enrolment', 'disks']);

  await world.setUp();
  const well = await doctor(world);
  expect(failing(well.checks)).toEqual([]);
  expect(well).toMatchObject({ code: 0, fine: true });
  const named = Object.fromEntries(well.checks.map((check) => [check.name, check]));
  expect(named['tracking']).toMatchObject({ verdict: 'ok' });
  expect(named['clock']).toMatchObject({ verdict: 'ok' });
  expect(named['own certificate']).toMatchObject({ verdict: 'ok' });
  expect(named['agent']).toMatchObject({ verdict: 'ok', message: 'connected, Protected' });
  // It asked on a connection of its own: the session stands.
  expect((await world.status()).receiver.connected).toBe(true);

  const credentials = await requireCredentials(join(world.folder, 'agent'));
  const address = `127.0.0.1:${world.port}`;
  const fast = { ...systemClock, nowMs: () => systemClock.nowMs() + 3_600_000 };
  const seen = await receiverFacts(address, true, credentials, fast);
  expect(seen.problem).toBeNull();
  expect(Math.round((seen.clock?.offsetMs ?? 0) / 60_000)).toBe(-60);

  await world.receiver?.stop();
  await world.until('the agent has noticed', (status) => !status.receiver.connected);
  const alone = await doctor(world);
  expect(alone.code).toBe(1);
  expect(failing(alone.checks)).toEqual([`receiver ${address}`, 'agent']);

  // Another receiver at the same address is not the one that was enrolled with.
  rmSync(join(world.folder, 'receiver', 'ca'), { recursive: true });
  await world.startReceiver();
  const other = await doctor(world);
  const message = other.checks.find(({ name }) => name === `receiver ${address}`)?.message;
  expect(message).toMatch(/is not the receiver that this machine was enrolled with/);
});
