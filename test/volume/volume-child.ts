/**
 * Serves a volume under load until it is killed. What it begins and what was acknowledged is appended to a journal, which survives it.
 * Arguments: folder, journal, seed.
 */
import { appendFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, MIB } from '../../shared/units.js';
import { Volume } from '../../receiver/volume/volume.js';
import { MemoryContent } from '../helpers/memory-content.js';
import { between, randomOf } from '../helpers/random.js';
import { SECTOR, SectorModel, stampedDisk } from './sector-model.js';
import { VolumeLoad } from './volume-load.js';

const [folder = '', journal = '', seedText = ''] = process.argv.slice(2);
const seed = Number(seedText);
const disk = stampedDisk(randomOf(1), (2 * MIB) / SECTOR + 5);
const content = new MemoryContent(disk);
const random = randomOf(seed);
content.onRead = () => sleep(between(random, 0, 2));
const volume = await Volume.open({
  folder,
  disk: asDiskId('d0'),
  content,
  baseKey: 'p',
  writable: true,
  cacheBytesMax: 256 * 1024,
  clock: systemClock,
  log: silentLogger(),
});
const note = (...fields: (string | number)[]): void => appendFileSync(journal, `${fields.join(' ')}\n`);
const load = new VolumeLoad(volume, new SectorModel(disk), random, {
  onIssue: (first, count, value) => note('issue', first, count, value),
  onSettle: (first, count) => note('settle', first, count),
  stampsFrom: seed * 1e6,
  reads: false,
});
note('ready');
await load.run(Infinity, 4);
