/**
 * `npm test`: the compiler, the linter and all test files in batches. A batch is a folder, or a file that takes long by itself. Two lanes at a time, since most
 * tests wait for timers, syncs and other processes for a part of their time; what they leave of two processors goes to a third lane of lower priority, for patient
 * tests. What is built and what is linted need nothing of each other: they run side by side, and the tests when the build is done. When it fails, they aren't begun.
 * Each batch is a process of its own, its output is shown when it ends, that of one that failed once more at the end, where it is looked for.
 * Arguments are parts of file names to run; the linter runs only without. Exit code 1 when anything failed; the closing lines say which batches took longest,
 * and how many tests passed, failed and were skipped. Is run from its source: what is built is one of the batches.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { addCounts, NO_TESTS, type TestCounts } from './test-counts.js';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const LANES = Number(process.env['AFTERIMAGE_TEST_LANES'] ?? 2);
/** The longest first, so that none of them is left over at the end. Files are batches of their own; what isn't named is a batch by folder. */
const LONGEST = [
  'e2e/kill.test.ts',
  'quiesce',
  'fleet',
  'failover',
  'e2e/encryption.test.ts',
  'drill/drill.test.ts',
  'groups/failures.test.ts',
  'groups/group-points.test.ts',
  'volume',
  'e2e/faults.test.ts',
  'groups',
  'e2e',
  'restore',
  'e2e/no-lost-write.test.ts',
  'restore/final-cut.test.ts',
  'e2e/order.test.ts',
  'conformance',
  'receiver',
  'sim',
  'upkeep',
];
/** With limits that hold on a host seven times as busy, where all of them were seen to pass with a third of a processor: the third lane's. */
const PATIENT = [
  'guest-life/life.test.ts',
  'load',
  'profile',
  'e2e/come-and-go.test.ts',
  'groups/fleet.test.ts',
  'drill/kills.test.ts',
];
/** The other lanes go first, yet can't keep it from going on: nearly half of a processor is its in any case. */
const PATIENT_NICENESS = 2;

interface Batch {
  readonly name: string;
  readonly program: string;
  readonly args: readonly string[];
  readonly isTests: boolean;
}

const BUILD: Batch = { name: 'build', program: 'npm', args: ['run', '--silent', 'build'], isTests: false };
const LINT: Batch = { name: 'lint', program: 'npm', args: ['run', '--silent', 'lint'], isTests: false };

function testFiles(filters: readonly string[]): string[] {
  const folder = join(ROOT, 'test');
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.ts'))
    .map((file) => relative(ROOT, join(folder, file)))
    .filter((file) => filters.length === 0 || filters.some((part) => file.includes(part)))
    .sort();
}

/**
 * The files of a batch share what they import, as to import it anew for each took a sixth of the processors' time: what one leaves behind, the next one finds.
 * Not where one puts something else in the place of a module: the others would get that, or the one the module.
 */
const shares = (files: readonly string[]): boolean =>
  !files.some((file) => readFileSync(join(ROOT, file), 'utf8').includes('vi.mock('));

const testBatch = (name: string, files: readonly string[]): Batch => ({
  name,
  program: process.execPath,
  args: [
    join(ROOT, 'node_modules/vitest/vitest.mjs'),
    'run',
    `--isolate=${shares(files) ? 'false' : 'true'}`,
    ...files,
  ],
  isTests: true,
});

/** `LONGEST` first, in its order, then `PATIENT` in its own. */
function batchesOf(files: readonly string[]): Batch[] {
  const isAlone = (file: string): boolean => [...LONGEST, ...PATIENT].some((name) => file === `test/${name}`);
  const parts = new Map<string, string[]>();
  for (const file of files) {
    const name = isAlone(file) ? file : dirname(file);
    parts.set(name, [...(parts.get(name) ?? []), file]);
  }
  const rank = (name: string): number =>
    [...LONGEST, ...PATIENT].map((one) => `test/${one}`).indexOf(name) + 1 || Infinity;
  return [...parts]
    .sort(([a], [b]) => (rank(a) < rank(b) ? -1 : rank(a) > rank(b) ? 1 : 0))
    .map(([name, own]) => testBatch(name, own));
}

const niced = (batch: Batch, niceness: number): Batch =>
  niceness === 0 ? batch : { ...batch, program: 'nice', args: ['-n', String(niceness), batch.program, ...batch.args] };

const running = new Set<ChildProcess>();
/** A signal came: nothing more is begun. */
let isStopped = false;

interface Ended {
  readonly code: number;
  readonly tookS: number;
  readonly output: Buffer;
}

/** As a shell says of a program that was interrupted. */
const EXIT_STOPPED = 130;
/** So many of the longest batches are named at the end: what to shorten first. */
const LONGEST_NAMED = 12;

/** Runs a batch to its end; its output is printed in one piece. */
function run({ name, program, args }: Batch, countsFile: string): Promise<Ended> {
  const startedMs = performance.now();
  return new Promise((resolve, reject) => {
    const env = { ...process.env, AFTERIMAGE_TEST_BUILT: '1', AFTERIMAGE_TEST_COUNTS: countsFile };
    const child = spawn(program, args, { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'] });
    running.add(child);
    const output: Buffer[] = [];
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (part: Buffer) => output.push(part));
    child.once('error', reject);
    child.once('close', (code, signal) => {
      running.delete(child);
      const tookS = Math.round((performance.now() - startedMs) / 1000);
      const end = signal === null ? `exit code ${String(code)}` : `ended by ${signal}`;
      const shown = Buffer.concat([Buffer.from(`\n──── ${name}: ${end}, ${tookS} s\n`), ...output]);
      process.stdout.write(shown);
      resolve({ code: code ?? 1, tookS, output: shown });
    });
  });
}

function readCounts(file: string, { isTests }: Batch, exitCode: number): TestCounts {
  if (existsSync(file)) return JSON.parse(readFileSync(file, 'utf8')) as TestCounts;
  // One that couldn't even begin has no test that could fail.
  return isTests && exitCode !== 0 ? { ...NO_TESTS, failed: 1 } : NO_TESTS;
}

async function main(filters: readonly string[]): Promise<number> {
  const files = testFiles(filters);
  if (files.length === 0) {
    process.stderr.write(`no test file has ${filters.join(' or ')} in its name\n`);
    return 2;
  }
  const missing = [...LONGEST, ...PATIENT].filter((name) => !existsSync(join(ROOT, 'test', name)));
  if (missing.length > 0) throw new Error(`there is no ${missing.join(', ')} in test/ any more: change lanes.ts`);
  const isPatient = ({ name }: Batch): boolean => PATIENT.some((one) => name === `test/${one}`);
  const batches = batchesOf(files);
  const patient = batches.filter(isPatient);
  const others = batches.filter((batch) => !isPatient(batch));
  const folder = mkdtempSync(join(tmpdir(), 'afterimage-test-counts-'));
  const failed: { name: string; output: Buffer }[] = [];
  const times: { name: string; tookS: number }[] = [];
  let counts = NO_TESTS;
  /** Whether it went well. */
  const work = async (batch: Batch): Promise<boolean> => {
    const file = join(folder, `${batch.name.replaceAll('/', '-')}.json`);
    const { code, tookS, output } = await run(batch, file);
    times.push({ name: batch.name, tookS });
    counts = addCounts(counts, readCounts(file, batch, code));
    if (code !== 0) failed.push({ name: batch.name, output });
    return code === 0;
  };
  /** The queues one after the other, until there is nothing more in any. */
  const lane = async (queues: readonly Batch[][], niceness = 0): Promise<void> => {
    for (const queue of queues)
      for (let batch = queue.shift(); batch !== undefined && !isStopped; batch = queue.shift())
        await work(niced(batch, niceness));
  };
  try {
    const build = work(BUILD);
    const lint = filters.length === 0 ? work(LINT) : build;
    if (await build) {
      const lanes = Array.from({ length: LANES }, async (_, i) => {
        if (i === LANES - 1) await lint;
        await lane([others, patient]);
      });
      if (LANES > 1) lanes.push(lane([patient], PATIENT_NICENESS));
      await Promise.all(lanes);
    }
    await lint;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  for (const { output } of failed) process.stdout.write(output);
  const longest = times.sort((a, b) => b.tookS - a.tookS).slice(0, LONGEST_NAMED);
  process.stdout.write(`\nlongest: ${longest.map(({ name, tookS }) => `${name} ${tookS} s`).join(', ')}\n`);
  if (failed.length > 0) process.stdout.write(`\nfailed: ${failed.map(({ name }) => name).join(', ')}\n`);
  process.stdout.write(`\n${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped\n`);
  if (isStopped) return EXIT_STOPPED;
  return failed.length > 0 ? 1 : 0;
}

for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    isStopped = true;
    for (const child of running) child.kill(signal);
  });

process.exitCode = await main(process.argv.slice(2));
