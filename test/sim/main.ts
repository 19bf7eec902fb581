/**
 * `npm run sim -- --seconds N [--seed S] [--verbose]`: runs worlds until the time is over, one after the other, and prints for each failure the seed
 * and the line that reproduces it. Exit code 1 when one failed, 2 for bad input.
 */
import { Command, InvalidArgumentError } from 'commander';
import { runCommandLine } from '../../shared/cli.js';
import { runWorld, type WorldResult } from './world.js';

const number = (text: string): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) throw new InvalidArgumentError('expected a whole number');
  return value;
};

interface Options {
  readonly seconds: number;
  readonly seed?: number;
  readonly count?: number;
  readonly verbose: boolean;
  readonly seen: boolean;
}

const SHOWN_MAX = 20;

function told(result: WorldResult, wallMs: number): string {
  const faults = [...result.faults].map(([fault, count]) => `${fault} ${count}`).join(', ');
  return [
    `seed ${result.seed}: ${result.violations.length === 0 ? 'ok' : 'FAILED'}`,
    `${(result.virtualMs / 1000).toFixed(0)} virtual s in ${wallMs.toFixed(0)} ms`,
    `${result.events} events, ${result.writes} writes, ${result.points} points, ${result.requests} requests, ${result.objects} objects, ${result.readings} readings, ${result.holds} holds, ${result.encrypted} encrypted, ${result.rot.rotted} rotted, ${result.rot.mended} mended, ${result.rot.lost} lost`,
    ...(result.receivers === 0
      ? []
      : [
          `${result.receivers} receivers share, spread in ${result.spreadMs === null ? '-' : (result.spreadMs / 1000).toFixed(0)} s`,
        ]),
    `${result.lateDeletions} late deletions, ${result.changesOfHands} changes of hands, ${result.plannedFailovers} planned, ${result.homecomings} homecomings, ${result.tests} tests`,
    `healed in ${result.healedMs === null ? '-' : (result.healedMs / 1000).toFixed(0)} s`,
    `faults: ${faults === '' ? 'none' : faults}`,
    result.traceHash.slice(0, 12),
  ].join('; ');
}

async function runOne(seed: number, { verbose, seen }: Options): Promise<boolean> {
  const startMs = performance.now();
  const result = await runWorld({ seed, ...(verbose ? { onLine: (line: string) => console.log(line) } : {}) });
  console.log(told(result, performance.now() - startMs));
  if (seen) for (const what of [...result.seen].sort()) console.log(`  seen: ${what}`);
  if (result.violations.length === 0) return true;
  for (const violation of result.violations.slice(0, SHOWN_MAX)) console.log(`  ${violation}`);
  console.log(`  reproduce: npm run sim -- --seed ${seed} --count 1 --verbose`);
  return false;
}

async function main(options: Options): Promise<void> {
  const { seconds, seed, count = Infinity } = options;
  const endMs = performance.now() + seconds * 1000;
  const first = seed ?? Math.floor(Math.random() * 2 ** 31);
  let failed = 0;
  let run = 0;
  for (; run < count && performance.now() < endMs; run++) if (!(await runOne(first + run, options))) failed++;
  console.log(`${run} worlds from seed ${first}, ${failed} failed`);
  process.exitCode = failed === 0 ? 0 : 1;
}

const program = new Command('sim')
  .description('Looks for failures in simulated worlds.')
  .option('--seconds <n>', 'how long to look', number, 60)
  .option('--seed <s>', 'first seed; by default any', number)
  .option('--count <n>', 'worlds at most', number)
  .option('--verbose', 'print every event and log line', false)
  .option('--seen', 'what each world came through, by its logs', false)
  .action(main);

await runCommandLine(program, process.argv.slice(2));
