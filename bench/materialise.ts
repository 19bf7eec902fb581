/**
 * A recovery point as a raw file and as a qcow2 image, against `qemu-img convert` of the same disk from a plain file to the same formats. All sparse,
 * all on disk at the end. Ours decompresses, checks each block's hash and the digest of the whole disk; theirs looks for zeroes and copies.
 */
import { rmSync } from 'node:fs';
import { GIB, type Bench, type BenchContext } from './bench.js';
import { figureOf, median } from './figures.js';
import { Lab, mixedImage, programPath, System } from './lab.js';
import { measure, sh, type Cost } from './shell.js';

const FORMATS = ['raw', 'qcow2'] as const;
const SIDES = ['afterimage', 'qemu-img'] as const;
const GOAL_RATIO = 0.8;

export const materialise: Bench = {
  name: 'materialise',
  promise: 'a point becomes a raw or qcow2 image about as fast as qemu-img copies one',
  run,
};

async function run(context: BenchContext): Promise<void> {
  const lab = new Lab(context.diskDir);
  try {
    const image = await mixedImage(lab, 'disk.img', context.sizeBytes);
    const system = await System.start(lab, 'materialise');
    await system.protect(lab.loop(image));
    await system.firstPoint();
    await system.stop();
    const cli = `${programPath('receiver/cli/main.js')} --store ${system.storeUrl}`;
    for (const format of FORMATS) {
      const target = lab.path(`target.${format}`);
      const costs: Record<(typeof SIDES)[number], Cost[]> = { afterimage: [], 'qemu-img': [] };
      for (let round = 0; round < context.runs; round++) {
        for (const side of SIDES) {
          const command =
            side === 'afterimage'
              ? `${cli} materialise ${system.name} --point latest --to ${target} --format ${format} --sparse --json > /dev/null`
              : `qemu-img convert -f raw -O ${format} ${image} ${target}`;
          costs[side].push(await measure({ setup: 'sync', timed: `${command}; sync ${target}` }));
          // Equal bytes, or the figure is worth nothing.
          if (round === 0) sh(`qemu-img compare -f raw -F ${format} ${image} ${target}`);
          rmSync(target, { force: true });
        }
      }
      report(context, format, costs);
    }
  } finally {
    await lab.close();
  }
}

function report(context: BenchContext, format: string, costs: Record<(typeof SIDES)[number], Cost[]>): void {
  const speed = (side: (typeof SIDES)[number]): number[] => costs[side].map((c) => context.sizeBytes / 1e6 / c.seconds);
  const cpu = (side: (typeof SIDES)[number]): number[] =>
    costs[side].map((c) => c.cpuSeconds / (context.sizeBytes / GIB));
  const peer = (values: number[]): { name: string; value: number } => ({ name: 'qemu-img', value: median(values) });
  const ratio = median(speed('afterimage')) / median(speed('qemu-img'));
  context.say(`${format}: ${ratio.toFixed(2)} × qemu-img`);
  context.report(
    figureOf(`materialise: ${format}`, 'MB/s', speed('afterimage'), {
      peer: peer(speed('qemu-img')),
      goal: `≥ ${GOAL_RATIO} × qemu-img convert`,
      met: ratio >= GOAL_RATIO,
    }),
  );
  context.report(figureOf(`materialise: ${format}, CPU`, 's/GiB', cpu('afterimage'), { peer: peer(cpu('qemu-img')) }));
}
