/**
 * `npm run bench [-- NAME …] [--json]`: measures what the design promises, each against peers in the same run. Needs root.
 *
 * --json one JSON line per figure on stdout · --runs how often · --size bytes of the data set (2g) · --disk, --ram folders to work in
 */
import { tmpdir } from 'node:os';
import { parseArgs } from 'node:util';
import { GIB, MIB, type Bench } from './bench.js';
import { table, type Figure } from './figures.js';
import { cut } from './cut.js';
import { cycle } from './cycle.js';
import { cycleSize } from './cycle-size.js';
import { failback } from './failback.js';
import { failover } from './failover.js';
import { firstCopy } from './first-copy.js';
import { fleet } from './fleet.js';
import { longRun } from './long-run.js';
import { materialise } from './materialise.js';
import { memory } from './memory.js';
import { plannedFailover } from './planned-failover.js';
import { restore } from './restore.js';
import { Lab } from './lab.js';
import { Fio, installPeers } from './shell.js';
import { trackerCost } from './tracker.js';
import { volume } from './volume.js';

const BENCHES: readonly Bench[] = [
  firstCopy,
  cycle,
  cycleSize,
  trackerCost,
  cut,
  restore,
  materialise,
  volume,
  memory,
  failover,
  failback,
  plannedFailover,
  longRun,
  fleet,
];

function bytesOf(text: string): number {
  const found = /^(\d+)([mg])$/i.exec(text);
  if (found === null) throw new Error(`--size ${text}: give it as 512m or 2g`);
  return Number(found[1]) * (found[2]?.toLowerCase() === 'g' ? GIB : MIB);
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'boolean', default: false },
    runs: { type: 'string', default: '5' },
    size: { type: 'string', default: '2g' },
    disk: { type: 'string', default: tmpdir() },
    ram: { type: 'string', default: '/dev/shm' },
  },
});

const unknown = positionals.filter((name) => !BENCHES.some((b) => b.name === name));
if (unknown.length > 0) {
  process.stderr.write(`unknown: ${unknown.join(', ')}\nThere are:\n`);
  for (const b of BENCHES) process.stderr.write(`  ${b.name.padEnd(12)} ${b.promise}\n`);
  process.exit(2);
}
installPeers();
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => void cleanUp().then(() => process.exit(130)));

/** Nothing of a bench that was interrupted may go on, or stay mounted. */
async function cleanUp(): Promise<void> {
  for (const fio of Fio.running) await fio.stop();
  for (const lab of Lab.open) await lab.close();
}

const figures: Figure[] = [];
for (const bench of BENCHES) {
  if (positionals.length > 0 && !positionals.includes(bench.name)) continue;
  process.stderr.write(`\n${bench.name}: ${bench.promise}\n`);
  await bench.run({
    diskDir: values.disk,
    ramDir: values.ram,
    sizeBytes: bytesOf(values.size),
    runs: Number(values.runs),
    say: (text) => void process.stderr.write(`  ${text}\n`),
    report: (figure) => {
      figures.push(figure);
      if (values.json) process.stdout.write(`${JSON.stringify(figure)}\n`);
    },
  });
}
if (!values.json) process.stdout.write(`\n${table(figures)}\n`);
