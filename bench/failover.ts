/**
 * Promise: a failed over machine is up about as fast as if its disk lay here as a file, whatever the size of the disk. From the start of the command
 * `afterimage failover NAME` to the first line of the guest's userspace: at most 1.15 × what QEMU needs with the same arguments from a local raw file,
 * plus 1 s. Both from cold files: nothing of store or image in memory.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { stringify } from 'yaml';
import type { Job } from '../receiver/catalog/recovery.js';
import { guestFiles } from '../receiver/failover/compute/qemu-arguments.js';
import { guestPids } from '../test/drill/drill.js';
import { guestImage, guestUnavailable, plainKernel } from '../test/guest/image.js';
import { GIB, MIB, type Bench, type BenchContext } from './bench.js';
import { figureOf, median } from './figures.js';
import { storeImage } from './guest-store.js';
import { Daemon, freePort, Lab, programPath } from './lab.js';
import { sh } from './shell.js';

const NAME = 'guest';
const SIZES = [
  ['1 GiB', GIB],
  ['1 TiB', 1024 * GIB],
] as const;
const RATIO = 1.15;
const REST_MS = 1000;
const LINE = 'USERSPACE';
const LIMIT_MS = 120_000;
const POLL_MS = 2;

export const failover: Bench = {
  name: 'failover',
  promise: `from the command to the guest's userspace ≤ ${RATIO} × booting from a local file, + ${REST_MS / 1000} s`,
  run,
};

/** What launch.json of an instance says, as far as it matters here. */
interface Launch {
  readonly program: string;
  readonly arguments: readonly string[];
}

interface Sample {
  /** From the command to the line, and of that: until QEMU was started. */
  readonly totalMs: number;
  readonly untilQemuMs: number;
  readonly job: Job;
  readonly beforeJobMs: number;
  readonly launch: Launch;
}

async function run(context: BenchContext): Promise<void> {
  const missing = guestUnavailable();
  if (missing !== null) throw new Error(missing);
  for (const [title, sizeBytes] of SIZES) {
    const lab = new Lab(context.diskDir);
    // A QEMU that is left behind holds files of the lab.
    lab.defer(() => guestPids(lab.dir).forEach((pid) => process.kill(pid, 'SIGKILL')));
    try {
      await measureSize(context, lab, title, sizeBytes);
    } finally {
      await lab.close();
    }
  }
}

async function measureSize(context: BenchContext, lab: Lab, title: string, sizeBytes: number): Promise<void> {
  const image = lab.path('pristine.img');
  await guestImage({ kind: 'plain', path: image, sizeBytes });
  const dataBytes = await storeImage(lab.path('pristine'), NAME, image, sizeBytes);
  context.say(`${title}: ${(dataBytes / MIB).toFixed(0)} MiB of data`);
  const [samples, peers]: [Sample[], number[]] = [[], []];
  for (let round = 0; round < context.runs; round++) {
    const sample = await failOver(lab);
    const peerMs = await bootFile(lab, image, sample.launch);
    samples.push(sample);
    peers.push(peerMs);
    const { totalMs, untilQemuMs } = sample;
    context.say(
      `${title}: ${totalMs.toFixed(0)} ms, of these ${untilQemuMs.toFixed(0)} until QEMU was started; from the file ${peerMs.toFixed(0)} ms`,
    );
  }
  report(context, title, samples, peers);
}

// -------------------------------------------------------------------- ours

/** A fresh receiver over a fresh copy of the store; nothing of it remains. */
async function failOver(lab: Lab): Promise<Sample> {
  const dir = lab.path('site');
  mkdirSync(dir);
  sh(`cp -a ${lab.path('pristine')} ${dir}/store`);
  forget(`${dir}/store`);
  const config = join(dir, 'receiver.yaml');
  const settings = { store: `file:${dir}/store`, stateDir: `${dir}/state`, controlSocket: `${dir}/control.sock` };
  const listen = { host: '127.0.0.1', port: await freePort() };
  const failover = { folder: join(dir, 'v') };
  writeFileSync(config, stringify({ ...settings, listen, status: { port: await freePort() }, failover }));
  writeFileSync(
    join(dir, 'launch.yaml'),
    stringify({ provider: 'qemu', diskBus: 'nvme', cpus: 1, memoryBytes: 256 * MIB, kernel: plainKernel('nvme') }),
  );
  const [node = '', cli = ''] = programPath('receiver/cli/main.js').split(' ');
  sh(`${node} ${cli} --config ${config} launch-settings ${NAME} --set ${dir}/launch.yaml 2>/dev/null`);
  const receiver = new Daemon('receiver/main.js', ['--config', config, 'run']);
  try {
    await receiver.line('receiver is ready', 30_000);
    const startMs = Date.now();
    const command = spawn(node, [cli, '--config', config, 'failover', NAME, '--yes', '--json'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const answer = textOf(command);
    const lineMs = await lineAt(() => serialOf(join(dir, 'v')));
    const job = JSON.parse(await answer) as Job;
    if (job.state !== 'Succeeded') throw new Error(JSON.stringify(job));
    const folder = join(serialOf(join(dir, 'v')) ?? '', '..');
    const { startedAtMs } = JSON.parse(readFileSync(join(folder, 'supervisor.json'), 'utf8')) as {
      startedAtMs: number;
    };
    const launch = JSON.parse(readFileSync(join(folder, 'launch.json'), 'utf8')) as Launch;
    return {
      totalMs: lineMs - startMs,
      untilQemuMs: startedAtMs - startMs,
      beforeJobMs: job.startedAtMs - startMs,
      job,
      launch: { ...launch, arguments: launch.arguments.map((text) => text.replaceAll(folder, lab.path('peer'))) },
    };
  } finally {
    await receiver.stop();
    await endGuests(dir);
    rmSync(dir, { recursive: true, force: true });
  }
}

/** The serial console of the only copy; null before there is one. */
function serialOf(folder: string): string | null {
  const [instance] = existsSync(folder) ? readdirSync(folder) : [];
  return instance === undefined ? null : guestFiles(join(folder, instance, 'guest')).serial;
}

async function textOf(child: ChildProcess): Promise<string> {
  let text = '';
  child.stdout?.on('data', (part: Buffer) => (text += part.toString('utf8')));
  await once(child, 'close');
  return text;
}

async function endGuests(folder: string): Promise<void> {
  for (const pid of guestPids(folder)) process.kill(pid, 'SIGKILL');
  while (guestPids(folder).length > 0) await sleep(POLL_MS);
}

// -------------------------------------------------------------------- the peer

/** QEMU as the failover has started it, but for the disk: a raw file on this host. */
async function bootFile(lab: Lab, image: string, launch: Launch): Promise<number> {
  const dir = lab.path('peer');
  mkdirSync(dir);
  const copy = join(dir, 'disk.img');
  sh(`cp --sparse=always ${image} ${copy}`);
  forget(copy);
  const disk = { driver: 'raw', 'node-name': 'disk0', discard: 'unmap', 'detect-zeroes': 'unmap' };
  const blockdev = JSON.stringify({ ...disk, file: { driver: 'file', filename: copy } });
  const args = launch.arguments.map((text, i) => (launch.arguments[i - 1] === '-blockdev' ? blockdev : text));
  const startMs = Date.now();
  // A session of its own, as the failover gives it: the kernel shares the processors out by sessions.
  const qemu = spawn(launch.program, args, { stdio: ['ignore', 'ignore', 'inherit'], detached: true });
  try {
    return (await lineAt(() => guestFiles(dir).serial)) - startMs;
  } finally {
    const ended = once(qemu, 'exit');
    qemu.kill('SIGKILL');
    await ended;
    rmSync(dir, { recursive: true, force: true });
  }
}

// -------------------------------------------------------------------- both

/** Wall time at which the line stands in the file. */
async function lineAt(pathOf: () => string | null): Promise<number> {
  const endMs = Date.now() + LIMIT_MS;
  let path: string | null = null;
  while (Date.now() < endMs) {
    path ??= pathOf();
    if (path !== null && existsSync(path) && readFileSync(path, 'latin1').includes(LINE)) return Date.now();
    await sleep(POLL_MS);
  }
  throw new Error(`no ${LINE} on the serial console within ${LIMIT_MS} ms`);
}

/** Drops data of a file, or of all files of a folder, from memory. */
const forget = (path: string): string =>
  sh(`sync; find ${path} -type f -exec dd of={} oflag=nocache conv=notrunc,fdatasync count=0 status=none ';'`);

function report(context: BenchContext, title: string, samples: readonly Sample[], peers: readonly number[]): void {
  const seconds = (values: readonly number[]): number[] => values.map((ms) => ms / 1000);
  const total = samples.map((s) => s.totalMs);
  const goalMs = RATIO * median(peers) + REST_MS;
  context.report(
    figureOf(`failover: ${title}, from the command to userspace`, 's', seconds(total), {
      peer: { name: 'local file', value: median(peers) / 1000 },
      goal: `≤ ${RATIO} × local file + ${REST_MS / 1000} s = ${(goalMs / 1000).toFixed(2)} s`,
      met: median(total) <= goalMs,
    }),
  );
  const explain = (what: string, values: readonly number[]): void =>
    context.report(figureOf(`failover: ${title}, ${what}`, 's', seconds(values)));
  explain(
    'command until its job begins',
    samples.map((s) => s.beforeJobMs),
  );
  for (const [i, task] of (samples[0]?.job.tasks ?? []).entries()) {
    const times = samples.map(({ job: { tasks } }) => (tasks[i]?.endedAtMs ?? 0) - (tasks[i]?.startedAtMs ?? 0));
    if (task.state === 'Succeeded') explain(`task ${task.name}`, times);
  }
  explain(
    'command until QEMU is started',
    samples.map((s) => s.untilQemuMs),
  );
  explain(
    'QEMU until userspace',
    samples.map((s) => s.totalMs - s.untilQemuMs),
  );
}
