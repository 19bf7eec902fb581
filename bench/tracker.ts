/**
 * Promise: change tracking costs at most 2 % of write throughput on a disk (5 % on memory, where a write costs next to nothing).
 * Within one run of fio the tracker is attached and taken off again; each window is compared with its neighbour. Whole runs differ by 20 %.
 */
import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { EbpfTracker } from '../agent/tracker/ebpf/tracker.js';
import type { TrackableDisk } from '../agent/tracker/tracker.js';
import { geometryOf } from '../shared/blocks/geometry.js';
import { asDiskId } from '../shared/units.js';
import { GIB, type Bench, type BenchContext } from './bench.js';
import { figureOf, median, quantile } from './figures.js';
import { Lab } from './lab.js';
import { Fio, sh, sleep } from './shell.js';

const PAIRS = 40;
const WINDOW_MS = 700;
const SETTLE_MS = 100;

export const trackerCost: Bench = { name: 'tracker', promise: 'tracking costs ≤ 2 % of write throughput', run };

async function run(context: BenchContext): Promise<void> {
  for (const [where, dir, goal] of [
    ['ram', context.ramDir, 0.95],
    ['disk', context.diskDir, 0.98],
  ] as const) {
    const lab = new Lab(dir);
    try {
      const file = lab.sparse('disk.img', GIB);
      sh(`fallocate -l ${GIB} ${file}`);
      const device = lab.loop(file, where === 'disk');
      const ratios = await toggled(device);
      context.say(`${where}: quartiles ${quantile(ratios, 0.25).toFixed(3)} … ${quantile(ratios, 0.75).toFixed(3)}`);
      context.report(
        figureOf(`tracker ${where}: write IOPS with / without`, '×', ratios, {
          goal: `≥ ${goal}`,
          met: median(ratios) >= goal,
        }),
      );
    } finally {
      await lab.close();
    }
  }
}

function trackable(device: string): TrackableDisk {
  const sysName = basename(device);
  const [major = 0, minor = 0] = readFileSync(`/sys/block/${sysName}/dev`, 'utf8').trim().split(':').map(Number);
  const sectorCount = Number(readFileSync(`/sys/block/${sysName}/size`, 'utf8'));
  return {
    id: asDiskId(randomUUID()),
    major,
    minor,
    sysName,
    startSector: 0,
    sectorCount,
    geometry: geometryOf(sectorCount * 512, 4096),
  };
}

async function toggled(device: string): Promise<number[]> {
  const disk = trackable(device);
  const pinDirectory = `/sys/fs/bpf/bench-tracker-${process.pid}`;
  mkdirSync(pinDirectory, { recursive: true });
  const writes = (): number => Number(readFileSync(`/sys/block/${disk.sysName}/stat`, 'utf8').trim().split(/\s+/)[4]);
  const window = async (): Promise<number> => {
    const [start, before] = [performance.now(), writes()];
    await sleep(WINDOW_MS);
    return (writes() - before) / (performance.now() - start);
  };
  const fio = new Fio(
    `--name=w --filename=${device} --rw=randwrite --bs=4k --direct=1 --ioengine=libaio --iodepth=32 --norandommap`,
  );
  const ratios: number[] = [];
  try {
    await sleep(3000);
    for (let pair = 0; pair < PAIRS; pair++) {
      // Which one comes first takes turns: drift in one direction cancels out.
      const offFirst = pair % 2 === 0;
      const before = offFirst ? await window() : 0;
      const tracker = new EbpfTracker({ pinDirectory });
      tracker.arm(disk);
      await sleep(SETTLE_MS);
      const on = await window();
      tracker.disarm(disk.id);
      tracker.close();
      await sleep(SETTLE_MS);
      const off = offFirst ? before : await window();
      if (off > 0) ratios.push(on / off);
    }
  } finally {
    await fio.stop();
    sh(`find ${pinDirectory} -type f -delete; find ${pinDirectory} -depth -type d -delete`);
  }
  return ratios;
}
