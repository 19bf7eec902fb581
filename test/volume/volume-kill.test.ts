/** The process that serves a volume is killed under load, again and again: everything it had acknowledged is there when the next one opens it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, MIB } from '../../shared/units.js';
import { Volume, type VolumeOptions } from '../../receiver/volume/volume.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { MemoryContent } from '../helpers/memory-content.js';
import { between, randomOf } from '../helpers/random.js';
import { SECTOR, SectorModel, stampedDisk } from './sector-model.js';
import { differing, wholeDisk } from './volume-load.js';

removeTempFolders();

const KILLS = 4;
/** ... and at places where a crash would hurt most. */
const FAILPOINTS = [
  ...[7, 20, 60].map((n) => `volume.write.data-written:${n}`),
  'volume.flush.image-synced:2',
  'volume.evict.map-cleared:2',
];

function start(folder: string, journal: string, seed: number, failpoint?: string) {
  const args = ['--import', './test/helpers/ts-loader.mjs', 'test/volume/volume-child.ts', folder, journal, `${seed}`];
  const env = { ...process.env, ...(failpoint === undefined ? {} : { AFTERIMAGE_FAILPOINT: failpoint }) };
  return spawn(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit'], env });
}

/** The model as the journal has it; a last line that was cut off was never acknowledged. */
function replay(model: SectorModel, journal: string): number {
  const lines = readFileSync(journal, 'utf8').split('\n');
  let settled = 0;
  for (const line of lines) {
    const [what, first, count, value] = line.split(' ');
    if (what === 'issue') model.issue(Number(first), Number(count), Number(value));
    if (what !== 'settle') continue;
    model.settle(Number(first), Number(count));
    settled++;
  }
  return settled;
}

describe('a volume whose process is killed', () => {
  it('has everything that was acknowledged, and knows what changed', async () => {
    const random = randomOf(4711);
    const disk = stampedDisk(randomOf(1), (2 * MIB) / SECTOR + 5);
    const root = await tempFolder('volume-kill');
    const folder = join(root, 'volume');
    const options: VolumeOptions = {
      folder,
      disk: asDiskId('d0'),
      content: new MemoryContent(disk),
      baseKey: 'p',
      writable: true,
      cacheBytesMax: null,
      clock: systemClock,
      log: silentLogger(),
    };
    const model = new SectorModel(disk);
    let settled = 0;
    for (let kill = 1; kill <= KILLS + FAILPOINTS.length; kill++) {
      const failpoint = FAILPOINTS[kill - 1 - KILLS];
      const journal = join(root, `journal-${kill}`);
      const child = start(folder, journal, kill, failpoint);
      const exited = once(child, 'exit');
      while (!existsSync(journal) && child.exitCode === null) await sleep(5);
      if (failpoint === undefined) await sleep(between(random, 5, 250));
      if (kill === 1) await expect(Volume.open(options)).rejects.toMatchObject({ code: 'volume-in-use' });
      if (failpoint === undefined) child.kill('SIGKILL');
      const [code, signal] = (await exited) as [number | null, string | null];
      expect({ code, signal }).toEqual({ code: null, signal: 'SIGKILL' });
      settled += replay(model, journal);
      const volume = await Volume.open(options);
      const found = await wholeDisk(volume);
      expect(model.problem(found, 0, model.settledIndexes(0, model.sectors.length))).toBeUndefined();
      await volume.hold();
      const { changed } = volume.cut();
      volume.resume();
      expect(differing(found, disk, 4096).filter((block) => !changed.has(block))).toEqual([]);
      await volume.close();
      // Little is written yet at the places: most of it is cache.
      if (kill >= KILLS) await rm(folder, { recursive: true });
      if (kill >= KILLS) model.adopt(disk);
      // What was under way is decided now.
      else model.adopt(found);
    }
    expect(settled).toBeGreaterThan(KILLS);
  });
});
