/**
 * `npm run bench [-- NAME …] [--json]`: measures what the design promises, each against peers in the same run. Needs root.
 *
 * --json one JSON line per figure on stdout · --runs how often · --size bytes of the data set (2g) · --disk, --ram folders to work in
 */
import { tmpdir } from 'node:os';
import { Command, InvalidArgumentError, Option } from 'commander';
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

interface Options {
  readonly json: boolean;
  readonly runs: number;
  readonly size: number;
  readonly disk: string;
  readonly ram: string;
}

function sizeOf(text: string): number {
  const found = /^([1-9]\d*)([mg])$/i.exec(text);
  if (found === null) throw new InvalidArgumentError('Give it as 512m or 2g.');
  return Number(found[1]) * (found[2]?.toLowerCase() === 'g' ? GIB : MIB);
}

function countOf(text: string): number {
  if (/^[1-9]\d{0,2}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('Give a number from 1 to 999.');
}

/** Exits with 0 after the help, with 2 for what can't be understood. */
function parse(): { readonly names: readonly string[]; readonly options: Options } {
  const program = new Command('npm run bench --')
    .description('measures what Afterimage promises, against peers in the same run; as root')
    .argument('[name...]', `of: ${BENCHES.map((b) => b.name).join(', ')}; all unless given`)
    .option('--json', 'a JSON line per figure', false)
    .option('--runs <n>', 'how often each side is measured', countOf, 5)
    .addOption(new Option('--size <bytes>', 'of the data set').argParser(sizeOf).default(2 * GIB, '2g'))
    .option('--disk <folder>', 'to work in, on a real disk', tmpdir())
    .option('--ram <folder>', 'to work in, in memory', '/dev/shm')
    .addHelpText('after', `\n${BENCHES.map((b) => `  ${b.name.padEnd(16)} ${b.promise}`).join('\n')}\n`)
    .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2))
    .parse();
  const unknown = program.args.filter((name) => !BENCHES.some((b) => b.name === name));
  if (unknown.length > 0) program.error(`error: no bench is called ${unknown.join(', ')}`);
  return { names: program.args, options: program.opts<Options>() };
}

const { names, options } = parse();
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
  if (names.length > 0 && !names.includes(bench.name)) continue;
  process.stderr.write(`\n${bench.name}: ${bench.promise}\n`);
  await bench.run({
    diskDir: options.disk,
    ramDir: options.ram,
    sizeBytes: options.size,
    runs: options.runs,
    say: (text) => void process.stderr.write(`  ${text}\n`),
    report: (figure) => {
      figures.push(figure);
      if (options.json) process.stdout.write(`${JSON.stringify(figure)}\n`);
    },
  });
}
if (!options.json) process.stdout.write(`\n${table(figures)}\n`);
