/**
 * A recovery point served as a disk, against nbdkit serving the same disk as a plain file; fio's NBD client for both. Cold: nothing of the data in
 * memory, nothing local; every read of ours is a read of the store, decompressed and proven. Warm: all of it was read twice before.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { GIB, type Bench, type BenchContext } from './bench.js';
import { figureOf, median } from './figures.js';
import { Lab, mixedImage, programPath, System } from './lab.js';
import { sh, shAsync, sleep } from './shell.js';

/**
 * Reads of a pattern: 4 KiB at random on all of the disk, or all of it from the beginning. Warm ones go on for longer: what is read cold takes a fifth of a
 * second then, and that would measure how a client and a server start.
 */
const PATTERNS = {
  'random 4 KiB': {
    args: '--rw=randread --bs=4k --iodepth=16 --randseed=7',
    cold: '--number_ios=20000',
    warm: '--number_ios=200000',
    unit: 'IOPS',
  },
  sequential: { args: '--rw=read --bs=256k --iodepth=4', cold: '', warm: '--loops=4', unit: 'MB/s' },
} as const;
type Pattern = keyof typeof PATTERNS;
const SIDES = ['afterimage', 'nbdkit'] as const;
type Side = (typeof SIDES)[number];
const START_TIMEOUT_MS = 30_000;

export const volume: Bench = {
  name: 'volume',
  promise: 'a point is read as a disk about as fast as its image would be',
  run,
};

interface Sample {
  readonly cold: number;
  readonly warm: number;
  readonly rssMiB: number;
}

async function run(context: BenchContext): Promise<void> {
  const lab = new Lab(context.diskDir);
  try {
    const image = await mixedImage(lab, 'disk.img', context.sizeBytes);
    const system = await System.start(lab, 'volume');
    await system.protect(lab.loop(image));
    await system.firstPoint();
    await system.stop();
    const servers: Record<Side, (socket: string, state: string) => string> = {
      afterimage: (socket, state) =>
        `${programPath('receiver/cli/main.js')} --store ${system.storeUrl} serve ${system.name} --point latest --json --listen unix:${socket} --state ${state} --cache-bytes ${2 * context.sizeBytes}`,
      nbdkit: (socket) => `nbdkit --foreground --readonly --unix ${socket} file ${image}`,
    };
    for (const pattern of Object.keys(PATTERNS) as Pattern[]) {
      const samples: Record<Side, Sample[]> = { afterimage: [], nbdkit: [] };
      for (let round = 0; round < context.runs; round++) {
        for (const side of SIDES) {
          forget(side === 'nbdkit' ? image : system.storeUrl.slice('file:'.length));
          samples[side].push(await sample(lab, servers[side], pattern, context.sizeBytes));
        }
      }
      report(context, pattern, samples);
    }
  } finally {
    await lab.close();
  }
}

/** Drops a file's, or a folder's files', data from memory. */
const forget = (path: string): string =>
  sh(`sync; find ${path} -type f -exec dd of={} oflag=nocache conv=notrunc,fdatasync count=0 status=none ';'`);

async function sample(
  lab: Lab,
  command: (socket: string, state: string) => string,
  pattern: Pattern,
  sizeBytes: number,
): Promise<Sample> {
  const state = lab.path('state');
  const socket = lab.path('nbd.sock');
  mkdirSync(state, { mode: 0o700 });
  const [program = '', ...args] = command(socket, state).split(' ');
  const server = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  try {
    for (let waitedMs = 0; !existsSync(socket); waitedMs += 20) {
      if (server.exitCode !== null || waitedMs > START_TIMEOUT_MS) throw new Error(`${program} does not serve`);
      await sleep(20);
    }
    const cold = await read(socket, pattern, 'cold', sizeBytes);
    // All of it is there: what chance has left out, and what is kept only when it is read again.
    for (let i = 0; i < 2; i++) await read(socket, 'sequential', 'cold', sizeBytes);
    const warm = await read(socket, pattern, 'warm', sizeBytes);
    return { cold, warm, rssMiB: residentMiB(server) };
  } finally {
    const ended = new Promise((resolve) => server.once('exit', resolve));
    server.kill('SIGTERM');
    if (server.exitCode === null) await ended;
    rmSync(state, { recursive: true, force: true });
    rmSync(socket, { force: true });
  }
}

interface FioResult {
  readonly jobs: readonly [{ readonly read: { readonly iops: number; readonly bw_bytes: number } }];
}

async function read(socket: string, pattern: Pattern, cache: 'cold' | 'warm', sizeBytes: number): Promise<number> {
  const { args, unit, [cache]: amount } = PATTERNS[pattern];
  const text = await shAsync(
    `fio --name=read --ioengine=nbd --uri='nbd+unix:///?socket=${socket}' --size=${sizeBytes} ${args} ${amount} --output-format=json`,
  );
  const [job] = (JSON.parse(text.slice(text.indexOf('{'))) as FioResult).jobs;
  return unit === 'IOPS' ? job.read.iops : job.read.bw_bytes / 1e6;
}

function residentMiB(server: ChildProcess): number {
  const found = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${String(server.pid)}/status`, 'utf8'));
  return Number(found?.[1]) / 1024;
}

function report(context: BenchContext, pattern: Pattern, samples: Record<Side, Sample[]>): void {
  const { unit } = PATTERNS[pattern];
  const of = (side: Side, what: keyof Sample): number[] => samples[side].map((s) => s[what]);
  const size = `${(context.sizeBytes / GIB).toFixed(1)} GiB`;
  for (const [what, title, figureUnit] of [
    ['cold', `volume: ${pattern}, cold`, unit],
    ['warm', `volume: ${pattern}, warm`, unit],
    ['rssMiB', `volume: server's memory after ${pattern} of ${size}`, 'MiB'],
  ] as const) {
    const peer = median(of('nbdkit', what));
    context.say(`${title}: ${(median(of('afterimage', what)) / peer).toFixed(2)} × nbdkit`);
    context.report(figureOf(title, figureUnit, of('afterimage', what), { peer: { name: 'nbdkit', value: peer } }));
  }
}
