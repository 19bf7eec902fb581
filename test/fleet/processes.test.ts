/**
 * Receivers as processes that come, go, die and sleep, under agents that never stop committing. What was acknowledged is in the store, in one chain of
 * one writer at a time, and nothing is compared because of a move.
 */
import { readFileSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { loadHead } from '../../receiver/catalog/reader.js';
import { canRunLab } from '../e2e/lab.js';
import { FleetLab, idOf, until } from './fleet-lab.js';
import type { SyntheticAgent } from './synthetic-agent.js';

let lab: FleetLab | null = null;
afterEach(async () => {
  await lab?.cleanUp();
  lab = null;
});

/** Suspended by a signal. */
const isStopped = (pid: number): boolean => / T /.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) !== null;

/** The promises to one agent, held against the store. */
async function expectKept(agent: SyntheticAgent): Promise<void> {
  if (lab === null) throw new Error('no lab');
  const points = await lab.points(agent.machine);
  // No number twice, none left out.
  expect(points.map((p) => p.number)).toEqual(points.map((_, i) => i + 1));
  const cycles = new Map(points.map((p) => [p.number, p.cycle]));
  for (const { point, cycle } of agent.acknowledged) expect(cycles.get(point)).toBe(cycle);
  // At most one commit was in doubt at each end of a session.
  expect(points.length - agent.acknowledged.length).toBeLessThanOrEqual(agent.ends.length + 1);
  // One first copy, and no comparison after a move.
  const [first, ...later] = agent.verdicts;
  expect(first?.verdict).toBe('full');
  expect(later.filter(({ verdict }) => verdict !== 'delta')).toEqual([]);
}

describe.skipIf(!canRunLab)('receivers on one store', () => {
  it('share the machines, and lose nothing when they join, leave, die, and are all lost', async () => {
    const at = new FleetLab();
    lab = at;
    const a = await at.receiver('a');
    await a.start();
    for (let i = 0; i < 8; i++) await at.agent(a);
    await at.untilSettled([a]);
    const [b, c] = [await at.receiver('b'), await at.receiver('c')];
    // One joins: it gets its share, whose agents are told where to go, and the others never leave.
    await b.start();
    await at.untilSettled([a, b]);
    for (const agent of at.agents) {
      expect(agent.verdicts.map(({ address }) => address)).toEqual(
        at.wanted(agent.machine, [a, b]) === a ? [a.address] : [a.address, b.address],
      );
    }
    await c.start();
    await at.untilSettled([a, b, c]);
    const seen = await at.cli('receivers', '--json');
    const { receivers, moves } = JSON.parse(seen.stdout) as {
      receivers: { id: string; state: string; machines: string[] }[];
      moves: unknown[];
    };
    expect(receivers.map(({ id, state }) => [id, state])).toEqual(['a', 'b', 'c'].map((x) => [idOf(x), 'live']));
    expect(receivers.reduce((sum, { machines }) => sum + machines.length, 0)).toBe(at.agents.length);
    expect(moves).toEqual([]);
    const status = JSON.stringify((await a.status()).fleet);
    expect(status).toContain(`"id":"${b.id}","name":"b"`);
    // One dies: its agents know of others, and don't wait for anybody to notice. The others' stay.
    const atB = at.agents.filter((agent) => agent.at === b.address);
    const others = at.agents
      .filter((agent) => !atB.includes(agent))
      .map((agent) => [agent, agent.ends.length] as const);
    await b.daemon?.kill();
    await at.untilSettled([a, c]);
    for (const [agent, ends] of others) expect(agent.ends.length).toBe(ends);
    // One leaves in good order.
    await c.daemon?.stop();
    await at.untilSettled([a]);
    // All are lost: a new one, with the CA and the store, at an address that agents know.
    await a.daemon?.kill();
    const d = await at.receiver('d', { port: Number(b.address.split(':')[1]) });
    await d.start();
    await at.untilSettled([d]);
    await at.stopAgents();
    for (const agent of at.agents) await expectKept(agent);
  }, 120_000);

  it('give one that was killed its share back within a minute of its return', { timeout: 180_000 }, async () => {
    const at = new FleetLab();
    lab = at;
    const [a, b] = [await at.receiver('a'), await at.receiver('b')];
    await a.start();
    await b.start();
    for (let i = 0; i < 6; i++) await at.agent(a);
    await at.untilSettled([a, b]);
    const ofB = at.agents.filter((agent) => agent.at === b.address);
    expect(ofB.length).toBeGreaterThan(0);
    await b.daemon?.kill();
    await at.untilSettled([a]);
    await b.start();
    const startMs = performance.now();
    await at.untilSettled([a, b]);
    expect(performance.now() - startMs).toBeLessThan(60_000);
    await at.stopAgents();
    for (const agent of at.agents) await expectKept(agent);
    // There and back, once.
    for (const agent of ofB)
      expect(agent.verdicts.map(({ address }) => address).slice(-3)).toEqual([b.address, a.address, b.address]);
  });

  it('fence one that was suspended in the middle of a commit, and give its machine back when it lives', async () => {
    const at = new FleetLab();
    lab = at;
    const b = await at.receiver('b');
    await b.start();
    const credentials = await at.enrol(b, 'm0');
    // The one that will sleep must be the one that is wanted.
    const letter =
      Array.from('acdef0123456789').find((x) => at.wantedId(credentials.machine, [idOf(x), b.id]) === idOf(x)) ?? '';
    const a = await at.receiver(letter);
    await a.start({ AFTERIMAGE_FAILPOINT: 'receiver.commit.layers-durable:12:stop' });
    const agent = at.run(credentials, 'm0');
    const ofA = (): number => agent.acknowledged.filter(({ address }) => address === a.address).length;
    await until('it has 11 points', () => ofA() === 11);
    await until('it sleeps', () => isStopped(a.daemon?.pid ?? 0));
    const store = await at.store();
    const before = await loadHead(store, agent.machine);
    expect(before?.owner?.receiver).toBe(a.id);
    agent.drop();
    await until('another goes on', () => agent.at === b.address && agent.acknowledged.at(-1)?.address === b.address);
    a.daemon?.signal('SIGCONT');
    await until('the one that slept says so', () => a.log.some((line) => line.includes('"code":"fenced"')));
    await at.untilSettled([a, b]);
    await at.stopAgents();
    await expectKept(agent);
    // What it had written for its commit is there, and in no manifest.
    const epoch = before?.epoch ?? 0;
    const written: string[] = [];
    for await (const { name } of store.list(`machines/${agent.machine}/disks/disk0/delta/`)) {
      if (Number(/-(\d+)-\d+$/.exec(name)?.[1]) === epoch) written.push(name);
    }
    expect(written).toHaveLength(12);
    expect(ofA()).toBeGreaterThan(11);
  }, 120_000);
});
