/**
 * `npm run quickstart`: Afterimage at work on one machine, from nothing to a restored and compared disk. Every part is real; the programs are
 * started as a user would start them. Options: --once (end after the comparison), --disk DEV … (protect these instead of a disk of its own).
 */
import { existsSync, rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SingleBar, Presets } from 'cli-progress';
import { Command } from 'commander';
import { riskText } from '../../agent/status-view.js';
import type { AgentSnapshot } from '../../agent/status.js';
import { messageOf } from '../../shared/errors.js';
import { formatBytes, formatDuration } from '../../shared/units.js';
import { makeImageDisk, makeLoopDisk, type DemoDisk } from './demo-disk.js';
import { Programs } from './programs.js';

const WATCH_SECONDS = 15;
const say = (text: string): void => void process.stdout.write(`${text}\n`);
const indent = (text: string): string => text.replace(/^/gm, '  ');
const step = (text: string): void => say(`\n\x1b[1m▸ ${text}\x1b[0m`);

interface Options {
  readonly once?: boolean;
  readonly disk?: string[];
}

const program = new Command('quickstart')
  .option('--once', 'end after the comparison (exit code 0)')
  .option('--disk <device...>', 'protect these devices instead of a disk of its own; nothing is written to them')
  .parse();
const options = program.opts<Options>();
const isRoot = process.getuid?.() === 0;
const stop = new AbortController();
for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stop.abort());

const folder = await mkdtemp(join(tmpdir(), 'afterimage-quickstart-'));
const programs = new Programs(folder);
const made: { disk: DemoDisk | null } = { disk: null };
try {
  await main();
} catch (error) {
  say(`\nquickstart failed: ${messageOf(error)}`);
  say(`Logs and configuration are kept in ${folder}`);
  process.exitCode = 1;
} finally {
  await programs.stop();
  await made.disk?.remove().catch((error: unknown) => say(`clean-up: ${messageOf(error)}`));
  if (existsSync(programs.pinDir)) rmSync(programs.pinDir, { recursive: true, force: true });
  if (process.exitCode === undefined) await rm(folder, { recursive: true, force: true });
}

async function main(): Promise<void> {
  step('A receiver starts: it makes its own CA and an object store in a folder');
  await programs.configure('5s');
  await programs.startReceiver();
  say(`  store ${programs.store}`);

  const devices = await chooseDevices();
  step('An agent enrols with a one-time token and protects the disk');
  await programs.agent('enroll', await programs.token(), '--name', 'quickstart');
  say(indent(await programs.agent('protect', ...devices)));
  made.disk?.startLoad();
  await programs.startAgent();

  step('First copy');
  await watchFirstCopy();
  step(
    `Recovery points every 5 seconds${made.disk === null ? '' : ', under write load, without a pause of the writer'}`,
  );
  await watchPoints();

  step('A recovery point is restored to another disk');
  await restoreAndCompare(devices);
  if (options.once === true || stop.signal.aborted) return;
  await keepRunning(devices);
}

async function chooseDevices(): Promise<string[]> {
  if (options.disk !== undefined) {
    say(`  protecting ${options.disk.join(', ')}; nothing is written to them`);
    return options.disk;
  }
  if (isRoot) {
    made.disk = await makeLoopDisk(folder);
  } else {
    made.disk = await makeImageDisk(folder);
    step('Not root: an image file and the `scan` tracker');
    say(
      '  What that costs: without change tracking in the kernel the whole image is read for each point, and a point is made only when',
    );
    say('  nothing wrote to it meanwhile. As root, changes are tracked and points are made under full write load.');
  }
  step(`The disk: ${made.disk.description}`);
  return [made.disk.path];
}

async function watchFirstCopy(): Promise<void> {
  const bar = new SingleBar(
    {
      format: '  {bar} {percentage} % | {done} of {size} | {rate}/s | {left} left',
      hideCursor: true,
      noTTYOutput: true,
      notTTYSchedule: 2000,
    },
    Presets.shades_classic,
  );
  let isStarted = false;
  let sizeBytes: number;
  for (;;) {
    stop.signal.throwIfAborted();
    const s = await programs.status();
    sizeBytes = s.disks.reduce((sum, d) => sum + d.sizeBytes, 0);
    if (s.lastPoint !== null) break;
    const doneBytes = s.disks.reduce(
      (sum, d) => sum + (d.progress?.processedBytes ?? (d.state === 'Protected' ? d.sizeBytes : 0)),
      0,
    );
    const rate = s.disks.reduce((sum, d) => sum + (d.progress?.bytesPerSecond ?? 0), 0);
    const left = rate > 0 ? formatDuration(((sizeBytes - doneBytes) / rate) * 1000) : 'unknown';
    const payload = { done: formatBytes(doneBytes), size: formatBytes(sizeBytes), rate: formatBytes(rate), left };
    if (isStarted) bar.update(doneBytes, payload);
    else if (sizeBytes > 0) {
      bar.start(sizeBytes, doneBytes, payload);
      isStarted = true;
    }
    await sleep(200);
  }
  const size = formatBytes(sizeBytes);
  const done = { done: size, size, rate: '0 B', left: '0.0 s' };
  if (isStarted) bar.update(sizeBytes, done);
  else bar.start(sizeBytes, sizeBytes, done);
  bar.stop();
  const s = await programs.status();
  say(`  sent ${formatBytes(s.disks.reduce((sum, d) => sum + d.counters.sentBytes, 0))}; the machine is ${s.state}`);
}

async function watchPoints(): Promise<void> {
  let lastNumber = 0;
  const untilMs = performance.now() + WATCH_SECONDS * 1000;
  while (performance.now() < untilMs && !stop.signal.aborted) {
    const s = await programs.status();
    if (s.lastPoint !== null && s.lastPoint.number !== lastNumber) {
      if (process.stdout.isTTY) process.stdout.write('\r\x1b[2K');
      lastNumber = s.lastPoint.number;
      say(
        `  point ${lastNumber}: ${s.lastPoint.consistency}-consistent, ${formatBytes(s.lastPoint.changedBytes)} changed, cut in ${s.lastPoint.passes} passes`,
      );
    }
    showRisk(s);
    await sleep(500);
  }
  if (process.stdout.isTTY) process.stdout.write('\r\x1b[2K');
}

function showRisk(s: AgentSnapshot): void {
  const risk = s.disks.map((d) => riskText(d)).join(' | ');
  const written = made.disk === null ? '' : `, written so far ${formatBytes(made.disk.writtenBytes)}`;
  if (process.stdout.isTTY) process.stdout.write(`\r\x1b[2K  data at risk now: ${risk}${written}`);
  else say(`  data at risk now: ${risk}${written}`);
}

async function restoreAndCompare(devices: readonly string[]): Promise<void> {
  await made.disk?.stopLoad();
  const { point } = JSON.parse(await syncNow()) as { point: number };
  say(
    made.disk === null
      ? `  point ${point} is made`
      : `  the writer has stopped; point ${point} holds what it wrote last`,
  );
  if (made.disk !== null) {
    await restore(point, ['--to', made.disk.restoreTarget, ...made.disk.restoreArguments]);
    const { files, bytes } = await made.disk.compare();
    say(`  compared with the source: ${files} ${files === 1 ? 'file' : 'files'}, ${formatBytes(bytes)}, all the same`);
    return;
  }
  for (const [i] of devices.entries()) {
    const disk = (await programs.status()).disks[i];
    if (disk === undefined) continue;
    await restore(point, ['--disk', disk.id, '--to', join(folder, `restored-${i}.img`), '--sparse']);
  }
}

/** Progress and result are the program's own; it ends with an error unless the digest of what it wrote is the point's. */
async function restore(point: number, args: readonly string[]): Promise<void> {
  await programs.show('restore', 'quickstart', '--point', String(point), ...args);
  say('  its digest is that of the point');
}

/** The image of the unprivileged demo may have been written a moment ago: then it is not still yet. */
async function syncNow(): Promise<string> {
  for (let i = 0; ; i++) {
    try {
      return await programs.agent('sync-now', '--json');
    } catch (error) {
      if (i === 5) throw error;
      await sleep(1000);
    }
  }
}

async function keepRunning(devices: readonly string[]): Promise<void> {
  made.disk?.startLoad();
  const cli = 'node dist/receiver/cli/main.js';
  step(`Still replicating ${devices.join(', ')}. Look further, in another terminal:`);
  say(`  node dist/agent/main.js --config ${programs.agentConfig} status --watch`);
  say(`  ${cli} --store ${programs.store} points quickstart`);
  say(`  ${cli} --store ${programs.store} verify quickstart --all`);
  say(`  ${cli} --store ${programs.store} restore quickstart --point latest --to /tmp/restored.img --sparse`);
  say(`  curl ${programs.agentStatusUrl}/metrics          (logs: ${folder}/agent.log, receiver.log)`);
  say('Ctrl-C ends it and removes everything that it made.');
  await new Promise<void>((resolve) => stop.signal.addEventListener('abort', () => resolve(), { once: true }));
}
