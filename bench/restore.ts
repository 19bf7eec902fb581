/**
 * Restore against a plain copy of the same image to the same disk (`qemu-img convert`), both sparse and both on disk at the end.
 * Ours decompresses, checks each block's hash and the digest of the whole disk.
 */
import { rmSync } from 'node:fs';
import { GIB, type Bench, type BenchContext } from './bench.js';
import { figureOf, median } from './figures.js';
import { Lab, mixedImage, programPath, System } from './lab.js';
import { measure, type Cost } from './shell.js';

export const restore: Bench = { name: 'restore', promise: 'a restore keeps up with a plain copy of the image', run };

async function run(context: BenchContext): Promise<void> {
  const lab = new Lab(context.diskDir);
  try {
    const image = await mixedImage(lab, 'disk.img', context.sizeBytes);
    const system = await System.start(lab, 'restore');
    await system.protect(lab.loop(image));
    await system.firstPoint();
    await system.stop();
    const cli = `${programPath('receiver/cli/main.js')} --store ${system.storeUrl}`;
    const costs: Record<'afterimage' | 'qemu-img', Cost[]> = { afterimage: [], 'qemu-img': [] };
    for (let round = 0; round < context.runs; round++) {
      const target = lab.path('target.raw');
      for (const name of ['afterimage', 'qemu-img'] as const) {
        const timed =
          name === 'afterimage'
            ? `${cli} restore ${system.name} --point latest --to ${target} --sparse --json > /dev/null; sync ${target}`
            : `qemu-img convert -f raw -O raw ${image} ${target}; sync ${target}`;
        costs[name].push(await measure({ setup: 'sync', timed }));
        rmSync(target, { force: true });
      }
    }
    const speed = (name: keyof typeof costs): number[] => costs[name].map((c) => context.sizeBytes / 1e6 / c.seconds);
    const cpu = (name: keyof typeof costs): number[] =>
      costs[name].map((c) => c.cpuSeconds / (context.sizeBytes / GIB));
    context.report(
      figureOf('restore: speed', 'MB/s', speed('afterimage'), {
        peer: { name: 'qemu-img', value: median(speed('qemu-img')) },
      }),
    );
    context.report(
      figureOf('restore: CPU', 's/GiB', cpu('afterimage'), {
        peer: { name: 'qemu-img', value: median(cpu('qemu-img')) },
      }),
    );
  } finally {
    await lab.close();
  }
}
