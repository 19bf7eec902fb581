/**
 * Promise: the cost of a cycle follows the change, not the size of the disk. The same small change on sparse disks of 1, 8 and 64 GiB,
 * side by side: batches of cycles take turns; medians of wall time and CPU per cycle.
 */
import { GIB, type Bench, type BenchContext } from './bench.js';
import { change } from './change.js';
import { figureOf, median } from './figures.js';
import { Lab, System } from './lab.js';

const SIZES = [1, 8, 64] as const;
const CHANGE_BYTES = 2 ** 20;
const CYCLES_PER_BATCH = 20;
const BATCHES = 8;

export const cycleSize: Bench = {
  name: 'cycle-size',
  promise: 'a cycle costs the same on 1, 8 and 64 GiB (± 10 %)',
  run,
};

interface Side {
  readonly gib: number;
  readonly device: string;
  readonly system: System;
  readonly wall: number[];
  readonly cpu: number[];
}

async function run(context: BenchContext): Promise<void> {
  const lab = new Lab(context.ramDir);
  try {
    const sides: Side[] = [];
    for (const gib of SIZES) {
      const device = lab.loop(lab.sparse(`disk${gib}.img`, gib * GIB));
      const system = await System.start(lab, `size${gib}`);
      await system.protect(device);
      const point = await system.firstPoint();
      context.say(`${gib} GiB: first point after ${String(point['durationMs'])} ms of catching up`);
      sides.push({ gib, device, system, wall: [], cpu: [] });
    }
    for (let batch = -1; batch < BATCHES; batch++) {
      for (const side of sides) await runBatch(side, batch);
    }
    report(context, sides);
  } finally {
    await lab.close();
  }
}

/** Batch -1 warms up. */
async function runBatch({ device, system, wall, cpu }: Side, batch: number): Promise<void> {
  const before = system.cpuSeconds();
  const durations: number[] = [];
  for (let i = 0; i < CYCLES_PER_BATCH; i++) {
    change('/dev/urandom', { device, withinBytes: GIB, bytes: CHANGE_BYTES, seed: (batch + 2) * 1000 + i });
    durations.push((await system.syncNow()).durationMs);
  }
  if (batch < 0) return;
  wall.push(median(durations));
  cpu.push(((system.cpuSeconds() - before) / CYCLES_PER_BATCH) * 1000);
}

function report(context: BenchContext, sides: readonly Side[]): void {
  for (const what of ['wall', 'cpu'] as const) {
    const [smallest] = sides;
    if (smallest === undefined) return;
    for (const side of sides) {
      const ratio = median(side[what]) / median(smallest[what]);
      context.report(
        figureOf(`cycle-size ${side.gib} GiB: ${what} of a cycle of 1 MiB`, 'ms', side[what], {
          ...(side === smallest
            ? {}
            : {
                peer: { name: `${smallest.gib} GiB`, value: median(smallest[what]) },
                goal: '± 10 % of 1 GiB',
                met: ratio <= 1.1,
              }),
        }),
      );
    }
  }
}
