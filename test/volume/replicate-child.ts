/**
 * Child of the kill test: a running copy after a restart. Its blocks come from a file per disk; all that were ever written are given as changed.
 * Arguments: store, folder of images, first block and number of blocks that are given as changed. Prints what the cycle sent.
 */
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { geometryOf } from '../../shared/blocks/geometry.js';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { asMachineId } from '../../shared/units.js';
import { resumeGeneration } from '../../receiver/catalog/generation.js';
import { openStore } from '../../receiver/store/open.js';
import { hashesOfSegment } from '../../receiver/volume/block-hashes.js';
import type { PointContent } from '../../receiver/volume/content.js';
import { VolumeReplicator, type ReplicatedVolume } from '../../receiver/volume/replicate.js';
import { MemoryCutSource } from '../helpers/memory-cut-source.js';
import { planOf } from '../helpers/restore.js';

const [url = '', images = '', machineText = '', count = ''] = process.argv.slice(2);
const machine = asMachineId(machineText);
const store = await openStore(url);
const deps = { store, clock: systemClock, randomId: randomUUID };
const owned = await resumeGeneration(deps, machine, 1);
const volumes: ReplicatedVolume[] = [];
for (const { id, sizeBytes, blockBytes, lastPoint } of owned.manifest.disks) {
  const source = new MemoryCutSource(id, geometryOf(sizeBytes, blockBytes), readFileSync(join(images, id)));
  source.changed.addRange(0, Math.min(Number(count), source.geometry.blockCount));
  const { reader, plan } = await planOf(store, machine, id, lastPoint);
  const all = await hashesOfSegment(reader, plan, 0);
  const unused = (): Promise<never> => Promise.reject(new Error('replication needs hashes only'));
  const reference: PointContent = {
    geometry: plan.geometry,
    isNear: false,
    runs: unused,
    read: unused,
    hashes: (first, n) => Promise.resolve(all.slice(first, first + n)),
  };
  volumes.push({ source, reference, reopenReference: unused, device: 'memory' });
}
const replicator = new VolumeReplicator(
  { ...deps, log: silentLogger() },
  { owned, volumes, intervalMs: 1_000, reason: 'after a restart' },
);
await replicator.pointNow('after a restart');
process.stdout.write(JSON.stringify(replicator.status));
