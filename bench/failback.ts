/**
 * Promise: only the difference goes home. After 1 % of the blocks of a disk changed in the recovery site, failback moves at most 1.1 × the changed
 * bytes as the layers hold them (compressed in chunks). The provider is `none`: nothing but the bench writes to the copy, over NBD.
 */
import { closeSync, mkdirSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MachineReader } from '../receiver/catalog/reader.js';
import { listMachines } from '../receiver/catalog/machines.js';
import type { Job } from '../receiver/catalog/recovery.js';
import type { RecoveryView } from '../receiver/failover/operations.js';
import { openStore } from '../receiver/store/open.js';
import { Lab as Site, MACHINE_NAME } from '../test/e2e/lab.js';
import { runToEnd } from '../test/e2e/program.js';
import { MIB, type Bench, type BenchContext } from './bench.js';
import { change } from './change.js';
import { figureOf, median } from './figures.js';
import { Lab, mixedImage } from './lab.js';
import { sh } from './shell.js';

const SIZE_BYTES = 256 * MIB;
const CHANGED = 0.01;
const RATIO = 1.1;
const LIMIT_MS = 60_000;

export const failback: Bench = {
  name: 'failback',
  promise: `after ${CHANGED * 100} % changed in the recovery site, failback moves ≤ ${RATIO} × the changed bytes, compressed`,
  run,
};

interface Sample {
  readonly compressedBytes: number;
  readonly dataBytes: number;
  readonly allBytes: number;
  readonly switchMs: number;
  readonly job: Job;
}

async function run(context: BenchContext): Promise<void> {
  const lab = new Lab(context.ramDir);
  const site = await Site.open({
    disks: [SIZE_BYTES],
    interval: '1s',
    agent: { failover: { preShutdown: ['/bin/true'], timeout: '10s' } },
    receiver: (folder) => ({
      controlSocket: join(folder, 'r.sock'),
      failover: { folder: join(folder, 'v'), interval: '1s', provider: 'none' },
    }),
  });
  lab.defer(() => site.cleanUp());
  try {
    const image = await mixedImage(lab, 'disk.img', SIZE_BYTES);
    sh(`dd if=${image} of=${site.disks[0]?.device ?? ''} bs=1M conv=notrunc,fsync status=none`);
    await site.setUp();
    const samples: Sample[] = [];
    for (let round = 1; round <= context.runs; round++) {
      const sample = await thereAndBack(site, lab, image, round);
      samples.push(sample);
      const { dataBytes, allBytes, compressedBytes } = sample;
      context.say(
        `${compressedBytes} bytes changed (compressed); moved: ${dataBytes} of data, ${allBytes} in all; ${sample.switchMs} ms from the power button to home's right`,
      );
    }
    report(context, samples);
  } finally {
    await lab.close();
  }
}

async function operate(site: Site, ...args: string[]): Promise<Job> {
  const [operation = '', ...options] = args;
  const config = ['--config', site.configs.receiver];
  const { code, stdout, stderr } = await runToEnd('cli', [...config, operation, MACHINE_NAME, ...options, '--json']);
  if (code !== 0) throw new Error(`${args.join(' ')}: ${stderr}${stdout}`);
  return JSON.parse(stdout) as Job;
}

async function view(site: Site): Promise<RecoveryView> {
  const { stdout } = await runToEnd('cli', ['--config', site.configs.receiver, 'status', MACHINE_NAME, '--json']);
  return JSON.parse(stdout) as RecoveryView;
}

async function thereAndBack(site: Site, lab: Lab, source: string, round: number): Promise<Sample> {
  await operate(site, 'failover', '--planned', '--commit', '--yes');
  const before = (await view(site)).lastPoint;
  const uri = (await view(site)).instances[0]?.disks[0]?.uri ?? '';
  await writeChanges(uri, lab, source, round);
  // Points of the running copy, until one has all of it: what failback has left to cut is nothing then.
  const end = Date.now() + LIMIT_MS;
  for (;;) {
    const copy = (await view(site)).instances[0];
    if (copy?.disks[0]?.changedBytes === 0 && copy.dataAtRisk?.bytes === 0 && (copy.lastPoint ?? 0) > before) break;
    if (Date.now() > end) throw new Error(`no point: ${JSON.stringify(copy)}`);
    await sleep(100);
  }
  const job = await operate(site, 'failback', '--yes', '--force');
  const after = recordedNumber(job, 'lastPoint');
  const compressedBytes = await layerBytes(site, before, after);
  await site.untilProtected();
  await site.restore(after);
  const wrong = site.differences(0);
  if (wrong.length > 0) throw new Error(`home differs from point ${after} in ${wrong.length} blocks`);
  return {
    compressedBytes,
    dataBytes: recordedNumber(job, 'movedDataBytes'),
    allBytes: recordedNumber(job, 'movedBytes'),
    switchMs: recordedNumber(job, 'downtimeMs'),
    job,
  };
}

function recordedNumber({ data }: Job, key: string): number {
  const value = data[key];
  if (typeof value === 'number') return value;
  throw new Error(`the job has no ${key}: ${JSON.stringify(data)}`);
}

/** The same kind of change as in `cycle`: made in a copy of what the disk holds, then written block run by block run over NBD. */
async function writeChanges(uri: string, lab: Lab, source: string, round: number): Promise<void> {
  const changed = lab.path('changed.img');
  sh(`cp --sparse=always ${source} ${changed}`);
  change(source, {
    device: changed,
    withinBytes: SIZE_BYTES * 0.8,
    bytes: SIZE_BYTES * CHANGED,
    seed: round * 7919,
  });
  const part = lab.path('part');
  mkdirSync(part);
  const commands: string[] = [];
  for (const [first, bytes] of differences(source, changed)) {
    writeFileSync(join(part, String(first)), bytes);
    commands.push(`write -q -s ${join(part, String(first))} ${first} ${bytes.length}`);
  }
  writeFileSync(lab.path('commands'), [...commands, 'flush', ''].join('\n'));
  sh(`qemu-io -f raw '${uri}' < ${lab.path('commands')} > ${lab.path('qemu-io.log')}`);
  for (const path of [part, changed]) rmSync(path, { recursive: true });
}

const BLOCK_BYTES = 4096;

/** Runs of blocks in which two files differ. */
function differences(one: string, other: string): [number, Buffer][] {
  const fds = [openSync(one, 'r'), openSync(other, 'r')] as const;
  const [a, b] = [Buffer.alloc(MIB), Buffer.alloc(MIB)];
  const found: [number, Buffer][] = [];
  for (let at = 0; at < SIZE_BYTES; at += MIB) {
    readSync(fds[0], a, 0, MIB, at);
    readSync(fds[1], b, 0, MIB, at);
    for (let i = 0; i < MIB; i += BLOCK_BYTES) {
      const block = b.subarray(i, i + BLOCK_BYTES);
      if (block.equals(a.subarray(i, i + BLOCK_BYTES))) continue;
      const last = found.at(-1);
      if (last !== undefined && last[0] + last[1].length === at + i) last[1] = Buffer.concat([last[1], block]);
      else found.push([at + i, Buffer.from(block)]);
    }
  }
  fds.forEach((fd) => closeSync(fd));
  return found;
}

/** Bytes of the delta layers from one point to another. */
async function layerBytes(site: Site, from: number, to: number): Promise<number> {
  const store = await openStore(site.storeUrl);
  try {
    const [machine] = await listMachines(store);
    if (machine === undefined) throw new Error('no machine');
    const reader = await MachineReader.open(store, machine.id);
    let bytes = 0;
    for (const { id } of reader.manifest.disks) {
      const { deltas } = await reader.layersFor(id, to);
      for (const layer of deltas) if (layer.firstPoint > from) bytes += layer.sizeBytes;
    }
    return bytes;
  } finally {
    await store.close();
  }
}

function report(context: BenchContext, samples: readonly Sample[]): void {
  const ratios = samples.map((s) => s.dataBytes / s.compressedBytes);
  context.report(
    figureOf('failback: data moved / changed layers', '×', ratios, {
      peer: { name: 'bytes of the layers', value: median(samples.map((s) => s.compressedBytes)) },
      goal: `≤ ${RATIO} × changed, compressed`,
      met: median(ratios) <= RATIO,
    }),
  );
  const explain = (what: string, unit: string, values: readonly number[]): void =>
    context.report(figureOf(`failback: ${what}`, unit, values));
  explain(
    'all bytes moved (hashes, headers) / changed layers',
    '×',
    samples.map((s) => s.allBytes / s.compressedBytes),
  );
  explain(
    'from the power button to home’s right',
    's',
    samples.map((s) => s.switchMs / 1000),
  );
  for (const [i, task] of (samples[0]?.job.tasks ?? []).entries()) {
    const times = samples.map(({ job: { tasks } }) => (tasks[i]?.endedAtMs ?? 0) - (tasks[i]?.startedAtMs ?? 0));
    if (task.state === 'Succeeded')
      explain(
        `task ${task.name}`,
        's',
        times.map((ms) => ms / 1000),
      );
  }
}
