/**
 * Promise: one receiver process with 100 agents at 1 MB/s each commits on time within 1 GiB of memory; two receivers share them.
 * The agents are made up (test/fleet/synthetic-agent.ts): the real wire protocol, content that doesn't compress, points every 5 s. They run in this process
 * and compete with the receivers for the processors. FLEET_AGENTS, FLEET_SECONDS for other sizes.
 */
import { readFileSync } from 'node:fs';
import { MIB as MIB_BYTES } from '../shared/units.js';
import { FleetLab, until, type LabReceiver } from '../test/fleet/fleet-lab.js';
import { ChunkShelf, type SyntheticAgent } from '../test/fleet/synthetic-agent.js';
import type { Bench, BenchContext } from './bench.js';
import { figureOf, quantile } from './figures.js';
import { sleep } from './shell.js';

const INTERVAL_MS = 5_000;
const BYTES_PER_SECOND = 1e6;
const CHUNK_BLOCKS = 64;
const CHUNK_BYTES = CHUNK_BLOCKS * 4096;
const CHUNKS_PER_POINT = Math.round((BYTES_PER_SECOND * INTERVAL_MS) / 1000 / CHUNK_BYTES);
const MEMORY_MIB_MAX = 1024;
const TICKS_PER_SECOND = 100;

export const fleet: Bench = {
  name: 'fleet',
  promise: 'one receiver with 100 agents at 1 MB/s each: commits on time, memory ≤ 1 GiB; two receivers share them',
  run,
};

async function run(context: BenchContext): Promise<void> {
  const agents = Number(process.env['FLEET_AGENTS'] ?? 100);
  const seconds = Number(process.env['FLEET_SECONDS'] ?? 30);
  const lab = new FleetLab();
  try {
    const shelf = new ChunkShelf(CHUNK_BLOCKS);
    const keys = { fleet: { name: 'bench', heartbeat: '1s', handoversPerMinute: 600 } };
    const a = await lab.receiver('a', { keys });
    await a.start();
    await idle(context, a, seconds / 3);
    for (let i = 0; i < agents; i++) {
      const options = { shelf, chunksPerPoint: CHUNKS_PER_POINT, diskBytes: 2 * CHUNKS_PER_POINT * CHUNK_BYTES };
      lab.run(await lab.enrol(a, `m${i}`), `m${i}`, INTERVAL_MS, { ...options, connectTimeoutMs: 20_000 });
    }
    // First copies are over, and each has found its pace.
    await until('each agent has 3 points', () => lab.agents.every((agent) => agent.acknowledged.length > 2), 180_000);
    await measure(context, 'one receiver', lab.agents, [a], seconds);
    const b = await lab.receiver('b', { keys });
    await b.start();
    await lab.untilSettled([a, b]);
    await measure(context, 'two receivers', lab.agents, [a, b], seconds);
  } finally {
    await lab.cleanUp();
  }
}

async function measure(
  context: BenchContext,
  what: string,
  agents: readonly SyntheticAgent[],
  receivers: readonly LabReceiver[],
  seconds: number,
): Promise<void> {
  const cpuBefore = receivers.map(cpuSeconds);
  const ownBefore = process.cpuUsage();
  const takenBefore = await takenIn(receivers);
  const startMs = performance.now();
  await sleep(seconds * 1000);
  const endMs = performance.now();
  const tookS = (endMs - startMs) / 1000;
  // As the receivers count it: what was sent may still stand in a queue.
  const megabytes = ((await takenIn(receivers)) - takenBefore) / 1e6;
  const own = process.cpuUsage(ownBefore);
  const cpuS = receivers.map((receiver, i) => cpuSeconds(receiver) - (cpuBefore[i] ?? 0));
  // Those that were due in this time, also the last of them: each has until the next is due.
  await sleep(INTERVAL_MS);
  const points = agents
    .flatMap(({ acknowledged }) => acknowledged)
    .filter(({ atMs, lateMs }) => atMs - lateMs >= startMs && atMs - lateMs < endMs);
  const due = Math.floor((agents.length * tookS * 1000) / INTERVAL_MS);
  const lateMs = points.map((point) => point.lateMs);
  const late = lateMs.filter((ms) => ms > INTERVAL_MS).length;
  const generatorS = (own.user + own.system) / 1e6;
  const load = readFileSync('/proc/loadavg', 'utf8').split(' ')[0] ?? '';
  context.say(
    `${what}: ${points.length} points of ${due} due, ${late} late; generator ${generatorS.toFixed(1)} CPU s; load ${load}`,
  );
  const goal = { goal: '≥ 99 % of those due', met: points.length >= 0.99 * due && late === 0 };
  context.report(figureOf(`fleet, ${what}: points on time`, '%', [((points.length - late) / due) * 100], goal));
  context.report(figureOf(`fleet, ${what}: due to acknowledged, p50`, 'ms', [quantile(lateMs, 0.5)]));
  context.report(figureOf(`fleet, ${what}: due to acknowledged, p99`, 'ms', [quantile(lateMs, 0.99)]));
  context.report(figureOf(`fleet, ${what}: taken in`, 'MB/s', [megabytes / tookS]));
  context.report(figureOf(`fleet, ${what}: load generator`, 'CPU s/s', [generatorS / tookS]));
  for (const [i, receiver] of receivers.entries()) {
    const mib = peakMiB(receiver);
    const shared = agents.filter(({ at }) => at === receiver.address).length;
    context.report(figureOf(`fleet, ${what}: agents of receiver ${receiver.letter}`, '', [shared]));
    context.report(figureOf(`fleet, ${what}: receiver ${receiver.letter}`, 'CPU s/s', [(cpuS[i] ?? 0) / tookS]));
    const memory = { goal: `≤ ${MEMORY_MIB_MAX}`, met: mib <= MEMORY_MIB_MAX };
    context.report(figureOf(`fleet, ${what}: memory of receiver ${receiver.letter}, highest`, 'MiB', [mib], memory));
  }
  const cpu = cpuS.reduce((sum, own) => sum + own, 0);
  context.report(figureOf(`fleet, ${what}: receivers' CPU per GB`, 's', [cpu / (megabytes / 1000)]));
}

const takenIn = async (receivers: readonly LabReceiver[]): Promise<number> => {
  const all = await Promise.all(receivers.map((receiver) => receiver.status()));
  return all.flatMap(({ machines }) => machines).reduce((sum, { receivedBytes }) => sum + receivedBytes, 0);
};

/** What a receiver costs that nobody sends anything. */
async function idle(context: BenchContext, receiver: LabReceiver, seconds: number): Promise<void> {
  const before = cpuSeconds(receiver);
  await sleep(seconds * 1000);
  context.report(figureOf('fleet: receiver without agents', 'CPU s/s', [(cpuSeconds(receiver) - before) / seconds]));
}

const statOf = ({ daemon }: LabReceiver, file: string): string =>
  readFileSync(`/proc/${daemon?.pid ?? 0}/${file}`, 'utf8');

function cpuSeconds(receiver: LabReceiver): number {
  const stat = statOf(receiver, 'stat');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

const peakMiB = (receiver: LabReceiver): number =>
  (Number(/VmHWM:\s+(\d+) kB/.exec(statOf(receiver, 'status'))?.[1]) * 1024) / MIB_BYTES;
