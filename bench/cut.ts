/**
 * Promise: crash-consistent points without a pause, also under load. Random 4 KiB writes at several rates onto a mounted ext4, with and
 * without a hot block as a database's log has (one block rewritten and flushed, as fast as it goes). A point every 5 s; data at risk is what
 * the agent says of itself, looked at four times a second. Last, the freeze is forced (hot blocks, a deadline of 100 ms).
 */
import { mkdirSync } from 'node:fs';
import { GIB, type Bench, type BenchContext } from './bench.js';
import { figureOf, quantile } from './figures.js';
import { Lab, System } from './lab.js';
import { Fio, sh, sleep } from './shell.js';

const RATES_MB = [1, 5, 20] as const;
const SECONDS = 20;
const SECONDS_AT_HIGHEST = 60;

export const cut: Bench = { name: 'cut', promise: 'points every 5 s under 20 MB/s, data at risk ≤ 10 s', run };

async function run(context: BenchContext): Promise<void> {
  const lab = new Lab(context.ramDir);
  try {
    const { system, mount } = await mounted(lab, 'cut', {});
    for (const hot of [false, true]) {
      for (const rate of RATES_MB) {
        const seconds = rate === 20 ? SECONDS_AT_HIGHEST : SECONDS;
        const found = await underLoad(system, [random(mount, rate), ...(hot ? [hotBlock(mount)] : [])], seconds);
        report(context, `cut ${rate} MB/s${hot ? ' + hot block' : ''}`, found, rate === 20);
      }
    }
    await system.stop();
    await forcedFreeze(context, lab);
  } finally {
    await lab.close();
  }
}

async function mounted(
  lab: Lab,
  name: string,
  options: { agent?: string },
): Promise<{ system: System; mount: string }> {
  const device = lab.loop(lab.sparse(`${name}.img`, 2 * GIB));
  const mount = lab.path(`${name}.mnt`);
  mkdirSync(mount);
  sh(`mkfs.ext4 -q -F ${device} && mount ${device} ${mount}`);
  lab.defer(() => void sh(`umount ${mount}`));
  const system = await System.start(lab, name, { interval: '5s', ...options });
  await system.protect(device);
  await system.firstPoint();
  return { system, mount };
}

/** Random writes at a rate. */
const random = (mount: string, rateMb: number): Fio =>
  new Fio(
    `--name=random --filename=${mount}/random --size=1g --rw=randwrite --bs=4k --direct=1 --ioengine=libaio --iodepth=8 --rate=${rateMb}m`,
  );
/** One block, rewritten and flushed. */
const hotBlock = (mount: string): Fio =>
  new Fio(`--name=hot --filename=${mount}/hot --size=4k --rw=write --bs=4k --direct=1 --ioengine=psync --fsync=1`);
/** Several blocks, rewritten without a pause from several threads. */
const hotBlocks = (mount: string): Fio =>
  new Fio(
    `--name=hot --filename=${mount}/hot16 --size=64k --rw=randwrite --bs=4k --direct=1 --ioengine=libaio --iodepth=16 --norandommap`,
  );

interface Found {
  readonly cutMs: number[];
  readonly freezeMs: number[];
  readonly passes: number[];
  readonly cycleMs: number[];
  readonly riskSeconds: number[];
  skipped: number;
}

async function underLoad(system: System, load: readonly Fio[], seconds: number): Promise<Found> {
  try {
    // Past the files' creation and the cycle that began before.
    await sleep(8000);
    const from = system.agent.log.length;
    const skippedBefore = (await system.status()).pointsSkipped;
    const riskSeconds: number[] = [];
    for (const end = performance.now() + seconds * 1000; performance.now() < end; await sleep(250)) {
      riskSeconds.push((await system.status()).disks[0]?.dataAtRisk.seconds ?? 0);
    }
    const points = system.agent.log.slice(from).filter((l) => l.msg === 'recovery point committed');
    const all = (key: string): number[] => points.map((p) => Number(p[key] ?? 0));
    return {
      cutMs: all('cutMs'),
      freezeMs: all('freezeMs').filter((ms) => ms > 0),
      passes: all('passes'),
      cycleMs: all('durationMs'),
      riskSeconds,
      skipped: (await system.status()).pointsSkipped - skippedBefore,
    };
  } finally {
    for (const fio of load) await fio.stop();
  }
}

function report(context: BenchContext, name: string, found: Found, hasGoal: boolean): void {
  const worst = Math.max(...found.riskSeconds);
  const freezes = found.freezeMs.length > 0 ? `, ${found.freezeMs.length} with a freeze` : '';
  context.say(`${name}: ${found.cutMs.length} points, ${found.skipped} skipped${freezes}`);
  if (found.cutMs.length > 0) {
    context.report(figureOf(`${name}: cut`, 'ms', found.cutMs));
    context.report(figureOf(`${name}: passes`, '', found.passes));
    context.report(figureOf(`${name}: cycle`, 'ms', found.cycleMs));
  }
  context.report(
    figureOf(`${name}: data at risk, worst`, 's', found.riskSeconds, {
      value: worst,
      ...(hasGoal ? { goal: '≤ 10 s', met: worst <= 10 } : {}),
    }),
  );
}

async function forcedFreeze(context: BenchContext, lab: Lab): Promise<void> {
  const { system, mount } = await mounted(lab, 'freeze', { agent: 'cut: { deadline: 100ms }\n' });
  const found = await underLoad(system, [hotBlocks(mount), random(mount, 5)], SECONDS_AT_HIGHEST);
  report(context, 'cut, hot blocks, deadline 100 ms', found, false);
  if (found.freezeMs.length > 0) {
    context.report(figureOf('freeze: p50', 'ms', found.freezeMs));
    context.report(
      figureOf('freeze: p99', 'ms', found.freezeMs, {
        value: quantile(found.freezeMs, 0.99),
        goal: '≤ 2000 ms',
        met: Math.max(...found.freezeMs) <= 2000,
      }),
    );
  }
}
