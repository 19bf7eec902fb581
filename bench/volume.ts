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

interface Pattern {
  readonly name: string;
  readonly args: string;
  readonly unit: 'IOPS' | 'MB/s';
  /** Each from a cold start. */
  readonly cold: readonly { readonly what: string; readonly amount: string }[];
  readonly warm: string;
}

/**
 * 4 KiB at random on all of the disk, no block twice, or all of it from the beginning. How much is read cold decides: what is fetched is a chunk of 64 blocks,
 * proven and kept, so the first reads pay for those that follow, and nobody gets anything back from a few. Warm ones take a fifth of a second where
 * 20,000 do cold, which would measure how a client and a server start: they go on for longer.
 */
const SEQUENTIAL: Pattern = {
  name: 'sequential',
  args: '--rw=read --bs=256k --iodepth=4',
  unit: 'MB/s',
  cold: [{ what: 'once through', amount: '' }],
  warm: '--loops=4',
};
const PATTERNS: readonly Pattern[] = [
  {
    name: 'random 4 KiB',
    args: '--rw=randread --bs=4k --iodepth=16 --randseed=7',
    unit: 'IOPS',
    cold: [
      { what: 'the first 20,000', amount: '--number_ios=20000' },
      { what: '200,000', amount: '--number_ios=200000' },
      { what: 'every block once', amount: '' },
    ],
    warm: '--number_ios=200000',
  },
  SEQUENTIAL,
];
const SIDES = ['afterimage', 'nbdkit'] as const;
type Side = (typeof SIDES)[number];
const START_TIMEOUT_MS = 30_000;

export const volume: Bench = {
  name: 'volume',
  promise: 'a point is read as a disk about as fast as its image would be',
  run,
};

/** By side. */
type Samples = Record<Side, number[]>;

interface PatternSamples {
  /** As in the pattern. */
  readonly cold: readonly Samples[];
  readonly warm: Samples;
  readonly rssMiB: Samples;
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
    for (const pattern of PATTERNS) {
      const none = (): Samples => ({ afterimage: [], nbdkit: [] });
      const samples: PatternSamples = { cold: pattern.cold.map(none), warm: none(), rssMiB: none() };
      for (let round = 0; round < context.runs; round++) {
        for (const side of SIDES) {
          const cool = (): string => forget(side === 'nbdkit' ? image : system.storeUrl.slice('file:'.length));
          await sample({ lab, side, command: servers[side], cool, sizeBytes: context.sizeBytes }, pattern, samples);
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

interface Ground {
  readonly lab: Lab;
  readonly side: Side;
  readonly command: (socket: string, state: string) => string;
  /** Forgets what memory holds of the data. */
  readonly cool: () => void;
  readonly sizeBytes: number;
}

/** One round of a side. */
async function sample(ground: Ground, pattern: Pattern, samples: PatternSamples): Promise<void> {
  const { side, sizeBytes } = ground;
  for (const [i, { amount }] of pattern.cold.entries()) {
    ground.cool();
    await served(ground, async (socket, server) => {
      samples.cold[i]?.[side].push(await read(socket, pattern, amount, sizeBytes));
      if (i < pattern.cold.length - 1) return;
      // All of it is there: what chance has left out, and what is kept only when it is read again.
      for (let n = 0; n < 2; n++) await read(socket, SEQUENTIAL, '', sizeBytes);
      samples.warm[side].push(await read(socket, pattern, pattern.warm, sizeBytes));
      samples.rssMiB[side].push(residentMiB(server));
    });
  }
}

/** A server with nothing local, while `use` runs. */
async function served(
  { lab, command }: Ground,
  use: (socket: string, server: ChildProcess) => Promise<void>,
): Promise<void> {
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
    await use(socket, server);
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

async function read(socket: string, { args, unit }: Pattern, amount: string, sizeBytes: number): Promise<number> {
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

function report(context: BenchContext, { name, unit, cold }: Pattern, samples: PatternSamples): void {
  const size = `${(context.sizeBytes / GIB).toFixed(1)} GiB`;
  const say = (title: string, figureUnit: string, { afterimage, nbdkit }: Samples): void => {
    const peer = median(nbdkit);
    context.say(`${title}: ${(median(afterimage) / peer).toFixed(2)} × nbdkit`);
    context.report(figureOf(title, figureUnit, afterimage, { peer: { name: 'nbdkit', value: peer } }));
  };
  for (const [i, { what }] of cold.entries()) say(`volume: ${name}, cold, ${what}`, unit, samples.cold[i] as Samples);
  say(`volume: ${name}, warm`, unit, samples.warm);
  say(`volume: server's memory after ${name} of ${size}`, 'MiB', samples.rssMiB);
}
