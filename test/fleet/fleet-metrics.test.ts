/** What /metrics says of the fleet. */
import { Registry } from 'prom-client';
import { expect, it } from 'vitest';
import { fleetMetrics } from '../../receiver/fleet-metrics.js';
import type { FleetFigures } from '../../receiver/fleet/fleet-status.js';

const PREFIX = 'afterimage_receiver_fleet_';

it('says who lives, what is owned, what moved and when it looked; before the first look that is 0', async () => {
  const registry = new Registry();
  let figures: FleetFigures = {
    ...{ owned: 7, toMove: 2, lookedAtMs: null, hasProblem: false },
    receivers: { live: 2, unknown: 0, gone: 1 },
    counters: { redirects: 3, takeovers: 4, calledAway: 1 },
  };
  fleetMetrics(registry, () => figures);
  const lines = async (): Promise<string[]> =>
    (await registry.metrics()).split('\n').filter((l) => l.startsWith(PREFIX));
  expect((await lines()).filter((line) => line.includes('last_look'))).toEqual([
    `${PREFIX}last_look_timestamp_seconds 0`,
  ]);
  figures = { ...figures, lookedAtMs: 1_700_000_000_000, hasProblem: true };
  const said = await lines();
  // Asked twice: counters don't add up what they were told before.
  for (const line of [
    'machines_owned 7',
    'machines_to_move 2',
    'last_look_timestamp_seconds 1700000000',
    'problem 1',
    'redirects_total 3',
    'takeovers_total 4',
    'called_away_total 1',
    'receivers{liveness="live"} 2',
    'receivers{liveness="unknown"} 0',
    'receivers{liveness="gone"} 1',
  ])
    expect(said).toContain(`${PREFIX}${line}`);
});
