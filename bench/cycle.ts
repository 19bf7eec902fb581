/**
 * Promise: cost follows change. A cycle of 1 % changed blocks puts at most 1.1 × their compressed size (lz4 -1 of the changed blocks in a row)
 * on the wire and into the store. Wall time and CPU are shown beside restic, borg and rsync, which take the same change.
 */
import { mkdirSync } from 'node:fs';
import type { Bench, BenchContext } from './bench.js';
import { change, lz4Bytes } from './change.js';
import { figureOf, median } from './figures.js';
import { peers, settle } from './first-copy.js';
import { freePort, Lab, mixedImage, System } from './lab.js';
import { measure, sh, type Cost } from './shell.js';

/** The pipe and nbdcopy know no difference: they copy everything again. */
const PEERS = ['rsync', 'borg', 'restic', 'pipe', 'nbdcopy'] as const;

export const cycle: Bench = { name: 'cycle', promise: 'a 1 % change costs ≤ 1.1 × its compressed size', run };

async function run(context: BenchContext): Promise<void> {
  const lab = new Lab(context.ramDir);
  try {
    const image = await mixedImage(lab, 'disk.img', context.sizeBytes);
    // What changes has the content of what is there: from a second copy that stays as it is.
    sh(`cp --sparse=always ${image} ${lab.path('source.img')}`);
    const device = lab.loop(image);
    const system = await System.start(lab, 'cycle');
    await system.protect(device);
    await system.firstPoint();
    const found = new Found();
    for (const name of PEERS) {
      mkdirSync(lab.path(name));
      await peerRun(lab, name, device, image);
    }
    for (let round = 1; round <= context.runs; round++) {
      const copyTo = lab.path('changed');
      const changed = change(lab.path('source.img'), {
        device,
        withinBytes: context.sizeBytes * 0.8,
        bytes: context.sizeBytes / 100,
        seed: round * 7919,
        copyTo,
      });
      settle(device);
      const compressed = lz4Bytes(copyTo);
      const before = system.cpuSeconds();
      const result = await system.syncNow();
      found.add('afterimage', { seconds: result.durationMs / 1000, cpuSeconds: system.cpuSeconds() - before });
      found.wire.push(result.sentBytes / compressed);
      found.store.push(result.storedBytes / compressed);
      context.say(
        `${(changed / 1e6).toFixed(1)} MB changed (${(compressed / 1e6).toFixed(1)} compressed), ${(result.sentBytes / 1e6).toFixed(1)} MB sent, ${result.durationMs.toFixed(0)} ms, cut ${result.cut.cutMs.toFixed(1)} ms`,
      );
      for (const name of PEERS) found.add(name, await peerRun(lab, name, device, image));
    }
    found.report(context);
  } finally {
    await lab.close();
  }
}

/** The same script as for a first copy: the repository is there now, and rsync compares. */
async function peerRun(lab: Lab, name: string, device: string, image: string): Promise<Cost> {
  const script = peers(device, image, lab.path(name), await freePort())[name];
  if (script === undefined) throw new Error(`no peer ${name}`);
  settle(device);
  return measure({ ...script, timed: script.timed.replace('--inplace', '--inplace --no-whole-file') });
}

class Found {
  readonly wire: number[] = [];
  readonly store: number[] = [];
  readonly #costs = new Map<string, Cost[]>();

  add(name: string, cost: Cost): void {
    this.#costs.set(name, [...(this.#costs.get(name) ?? []), cost]);
  }

  report(context: BenchContext): void {
    const goal = '≤ 1.1 × compressed';
    for (const [what, values] of [
      ['wire', this.wire],
      ['store', this.store],
    ] as const)
      context.report(
        figureOf(`cycle: bytes of ${what} / compressed`, '×', values, { goal, met: median(values) <= 1.1 }),
      );
    for (const [name, costs] of this.#costs) {
      context.report(
        figureOf(
          `cycle ${name}: wall`,
          's',
          costs.map((c) => c.seconds),
        ),
      );
      context.report(
        figureOf(
          `cycle ${name}: CPU of both sides`,
          's',
          costs.map((c) => c.cpuSeconds),
        ),
      );
    }
  }
}
