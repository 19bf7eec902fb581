/**
 * Promise: memory is bounded, whatever the size of the disk and however long it runs: agent ≤ 150 MiB, receiver ≤ 300 MiB.
 * A sparse disk of 1 TiB (AFTERIMAGE_BENCH_DISK_GIB for another size) through first copy and 1000 cycles of a small change.
 */
import { GIB, type Bench, type BenchContext } from './bench.js';
import { change } from './change.js';
import { figureOf, slope } from './figures.js';
import { Lab, System, type Daemon } from './lab.js';
import { sleep } from './shell.js';

const CYCLES = 1000;
const WARM_UP = 200;
const CHANGE_BYTES = 2 ** 20;
const GOALS = { agent: 150, receiver: 300 } as const;

export const memory: Bench = {
  name: 'memory',
  promise: 'agent ≤ 150 MiB, receiver ≤ 300 MiB, flat over 1000 cycles',
  run,
};

async function run(context: BenchContext): Promise<void> {
  const gib = Number(process.env['AFTERIMAGE_BENCH_DISK_GIB'] ?? 1024);
  const lab = new Lab(context.ramDir);
  try {
    const device = lab.loop(lab.sparse('disk.img', gib * GIB));
    change('/dev/urandom', { device, withinBytes: gib * GIB, bytes: 256 * 2 ** 20, seed: 1, runBlocksMax: 64 });
    const system = await System.start(lab, 'memory');
    const rss = { agent: [] as number[], receiver: [] as number[] };
    const look = (): void => {
      rss.agent.push(system.agent.rssMiB());
      rss.receiver.push(system.receiver.rssMiB());
    };
    const start = performance.now();
    await system.protect(device);
    let copied = false;
    const first = system.firstPoint().then(() => (copied = true));
    while (!copied) {
      await Promise.race([sleep(250), first]);
      look();
    }
    context.say(`first copy of ${gib} GiB: ${((performance.now() - start) / 1000).toFixed(0)} s`);
    context.report(figureOf('memory: first copy of the disk', 's', [(performance.now() - start) / 1000]));
    const afterCopy = rss.agent.length;
    for (let i = 0; i < CYCLES; i++) {
      change('/dev/urandom', { device, withinBytes: gib * GIB, bytes: CHANGE_BYTES, seed: i + 2 });
      await system.syncNow();
      look();
    }
    for (const side of ['agent', 'receiver'] as const) report(context, side, rss[side], afterCopy, system[side]);
  } finally {
    await lab.close();
  }
}

function report(
  context: BenchContext,
  side: 'agent' | 'receiver',
  rss: readonly number[],
  from: number,
  daemon: Daemon,
): void {
  const peak = daemon.peakRssMiB();
  const cycles = rss.slice(from);
  const points = cycles.slice(WARM_UP).map((mib, i) => [i / 1000, mib] as const);
  context.say(
    `${side}: first copy ${Math.max(...rss.slice(0, from)).toFixed(0)} MiB, last ${(rss.at(-1) ?? 0).toFixed(0)} MiB`,
  );
  context.report(
    figureOf(`memory ${side}: highest`, 'MiB', rss, {
      value: peak,
      goal: `≤ ${GOALS[side]}`,
      met: peak <= GOALS[side],
    }),
  );
  const growth = slope(points);
  context.report(
    figureOf(`memory ${side}: growth over 1000 cycles`, 'MiB', cycles.slice(WARM_UP), {
      value: growth,
      goal: '≤ 5',
      met: growth <= 5,
    }),
  );
}
