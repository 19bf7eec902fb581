/**
 * Promise: the first copy of mixed data is at least 1.5 times as fast as `dd | lz4 -1 | nc → nc > file`, for no more CPU.
 *
 * Ours is the whole way: O_DIRECT reads, hashes, compression, TLS, verification and durable layers at the receiver, the catch-up cycle and its
 * commit. Clock: from the session's welcome to the commit of point 1; CPU of both daemons: from before `protect` to the commit.
 * Peers end with what they wrote on disk as well (fsync). Runs take turns; medians.
 */
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { GIB, type Bench, type BenchContext } from './bench.js';
import { figureOf, median } from './figures.js';
import { Lab, mixedImage, System, freePort } from './lab.js';
import { measure, sh, type Cost, type PeerScript } from './shell.js';

export const firstCopy: Bench = {
  name: 'first-copy',
  promise: 'first copy ≥ 1.5 × the shell pipe, at ≤ 1.0 × its CPU',
  run,
};

/** All peers, given a device, a file with the same bytes, an empty folder and a free port. */
export const peers = (device: string, image: string, out: string, port: number): Record<string, PeerScript> => ({
  pipe: {
    setup: `nc.openbsd -l 127.0.0.1 ${port} > ${out}/disk.lz4 & server=$!; sleep 0.3`,
    timed: `dd if=${device} bs=1M status=none | lz4 -1 -c | nc.openbsd -N 127.0.0.1 ${port}; wait $server; sync ${out}/disk.lz4`,
  },
  nbdcopy: {
    setup: `truncate -s $(blockdev --getsize64 ${device}) ${out}/disk; nbdkit -f -i 127.0.0.1 -p ${port} file ${out}/disk & server=$!; sleep 0.3`,
    timed: `nbdcopy --flush ${device} nbd://127.0.0.1:${port}`,
    teardown: 'kill $server',
  },
  rsync: {
    setup: `printf 'use chroot = no\\nuid = 0\\ngid = 0\\n[out]\\npath = ${out}\\nread only = no\\n' > ${out}/.conf
rsync --daemon --no-detach --address=127.0.0.1 --port=${port} --config=${out}/.conf & server=$!; sleep 0.3`,
    timed: `rsync --inplace ${image} rsync://127.0.0.1:${port}/out/disk; sync ${out}/disk`,
    teardown: 'kill $server',
  },
  borg: {
    setup: `export BORG_BASE_DIR=${out}/base BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes; [ -d ${out}/repo ] || borg init -e none ${out}/repo`,
    timed: `borg create --compression lz4 --read-special ${out}/repo::$EPOCHREALTIME ${device}`,
  },
  restic: {
    setup: `export RESTIC_PASSWORD=bench RESTIC_CACHE_DIR=${out}/cache; [ -d ${out}/repo ] || restic init -q -r ${out}/repo`,
    timed: `dd if=${device} bs=1M status=none | restic backup -q -r ${out}/repo --stdin --stdin-filename disk`,
  },
});

/** Caches of the device are dropped and what others left to write is written, so that nobody pays for the one before. */
export const settle = (device: string): void => void sh(`sync; blockdev --flushbufs ${device}`);

export async function ours(lab: Lab, name: string, device: string): Promise<Cost & { system: System }> {
  const system = await System.start(lab, name);
  settle(device);
  const cpuBefore = system.cpuSeconds();
  await system.protect(device);
  const committed = await system.firstPoint();
  const cpuSeconds = system.cpuSeconds() - cpuBefore;
  const connected = await system.agent.line('connected to the receiver');
  return { seconds: (Date.parse(committed.time) - Date.parse(connected.time)) / 1000, cpuSeconds, system };
}

async function run(context: BenchContext): Promise<void> {
  for (const [where, dir] of [
    ['disk', context.diskDir],
    ['ram', context.ramDir],
  ] as const) {
    if (existsSync(dir)) await at(context, where, dir);
  }
}

async function at(context: BenchContext, where: string, dir: string): Promise<void> {
  const lab = new Lab(dir);
  try {
    const image = await mixedImage(lab, 'disk.img', context.sizeBytes);
    const device = lab.loop(image);
    const costs = new Map<string, Cost[]>();
    const add = (name: string, cost: Cost): void => {
      costs.set(name, [...(costs.get(name) ?? []), cost]);
      context.say(`${where} ${name}: ${cost.seconds.toFixed(2)} s, ${cost.cpuSeconds.toFixed(2)} CPU s`);
    };
    for (let round = 0; round < context.runs; round++) {
      const { system, ...cost } = await ours(lab, `first${round}`, device);
      await system.stop();
      rmSync(lab.path(`first${round}`), { recursive: true, force: true });
      add('afterimage', cost);
      for (const name of Object.keys(peers('', '', '', 0))) {
        // The heavy ones once or twice: they are for orientation.
        if (round > 1 && (name === 'restic' || name === 'borg')) continue;
        const out = lab.path('peer');
        mkdirSync(out);
        settle(device);
        const script = peers(device, image, out, await freePort())[name];
        if (script !== undefined) add(name, await measure(script));
        rmSync(out, { recursive: true, force: true });
      }
    }
    report(context, where, costs);
  } finally {
    await lab.close();
  }
}

function report(context: BenchContext, where: string, costs: ReadonlyMap<string, readonly Cost[]>): void {
  const speeds = (name: string): number[] => (costs.get(name) ?? []).map((c) => context.sizeBytes / 1e6 / c.seconds);
  const cpus = (name: string): number[] => (costs.get(name) ?? []).map((c) => c.cpuSeconds / (context.sizeBytes / GIB));
  const pipe = { speed: median(speeds('pipe')), cpu: median(cpus('pipe')) };
  for (const name of costs.keys()) {
    const isOurs = name === 'afterimage';
    context.report(
      figureOf(`first-copy ${where} ${name}: speed`, 'MB/s', speeds(name), {
        ...(isOurs
          ? {
              peer: { name: 'pipe', value: pipe.speed },
              goal: '≥ 1.5 × pipe',
              met: median(speeds(name)) >= 1.5 * pipe.speed,
            }
          : {}),
      }),
    );
    context.report(
      figureOf(`first-copy ${where} ${name}: CPU of both sides`, 's/GiB', cpus(name), {
        ...(isOurs
          ? { peer: { name: 'pipe', value: pipe.cpu }, goal: '≤ 1.0 × pipe', met: median(cpus(name)) <= pipe.cpu }
          : {}),
      }),
    );
  }
}
