/**
 * `npm test`: the linter and all test files in batches, two lanes at a time, since most tests wait for timers, syncs and other processes half of their time. A batch is
 * a folder, or one file of the folders whose files take minutes. Each batch is a process of its own, its output is shown when it ends, that of one that
 * failed once more at the end, where it is looked for.
 * Arguments are parts of file names to run; the linter runs only without. Exit code 1 when anything failed; the closing lines say which batches took longest,
 * and how many tests passed, failed and were skipped. Expects what `npm run build` makes.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { addCounts, NO_TESTS, type TestCounts } from './test-counts.js';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');
const LANES = Number(process.env['AFTERIMAGE_TEST_LANES'] ?? 2);
/** The longest first, so that none of them is left over at the end. */
const LONG_FOLDERS = [
  'guest-life',
  'drill',
  'groups',
  'e2e',
  'quiesce',
  'fleet',
  'failover',
  'reboot',
  'restore',
  'volume',
  'conformance',
  'crypto',
];

interface Batch {
  readonly name: string;
  readonly program: string;
  readonly args: readonly string[];
  readonly isTests: boolean;
}

function testFiles(filters: readonly string[]): string[] {
  const folder = join(ROOT, 'test');
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.ts'))
    .map((file) => relative(ROOT, join(folder, file)))
    .filter((file) => filters.length === 0 || filters.some((part) => file.includes(part)))
    .sort();
}

const testBatch = (name: string, files: readonly string[]): Batch => ({
  name,
  program: process.execPath,
  args: [join(ROOT, 'node_modules/vitest/vitest.mjs'), 'run', ...files],
  isTests: true,
});

function batchesOf(files: readonly string[]): Batch[] {
  const folders = new Map<string, string[]>();
  for (const file of files) folders.set(dirname(file), [...(folders.get(dirname(file)) ?? []), file]);
  const batches: Batch[] = [];
  for (const folder of LONG_FOLDERS)
    for (const file of folders.get(`test/${folder}`) ?? []) batches.push(testBatch(file, [file]));
  for (const [folder, own] of folders)
    if (!LONG_FOLDERS.includes(basename(folder))) batches.push(testBatch(folder, own));
  return batches;
}

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
  const lint: Batch = { name: 'lint', program: 'npm', args: ['run', '--silent', 'lint'], isTests: false };
  const queue = [...(filters.length === 0 ? [lint] : []), ...batchesOf(files)];
  const folder = mkdtempSync(join(tmpdir(), 'afterimage-test-counts-'));
  const failed: { name: string; output: Buffer }[] = [];
  const times: { name: string; tookS: number }[] = [];
  let counts = NO_TESTS;
  const lane = async (): Promise<void> => {
    for (let batch = queue.shift(); batch !== undefined && !isStopped; batch = queue.shift()) {
      const file = join(folder, `${queue.length}.json`);
      const { code, tookS, output } = await run(batch, file);
      times.push({ name: batch.name, tookS });
      counts = addCounts(counts, readCounts(file, batch, code));
      if (code !== 0) failed.push({ name: batch.name, output });
    }
  };
  try {
    await Promise.all(Array.from({ length: LANES }, lane));
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
