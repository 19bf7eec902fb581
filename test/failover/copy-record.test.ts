/** The record of a copy lies in the store as it is, also where the receiver or the source encrypts: it may not tell what the copy's disks hold. */
import { afterAll, expect, it } from 'vitest';
import { disksOfCopy, instanceSchema } from '../../receiver/catalog/recovery.js';
import { asDiskId, MIB } from '../../shared/units.js';
import { removeCopiesFolders } from './fakes.js';
import { run, SCENARIOS } from './scenarios.js';

afterAll(removeCopiesFolders);

it.each(['failover', 'test failover'])('%s: no record holds a digest', async (name) => {
  const found = SCENARIOS.find((s) => s.name === name);
  if (found === undefined) throw new Error(name);
  const { world } = await run(found);
  const recovery = await world.recovery();
  const copy = recovery?.failover ?? recovery?.testFailover.instance;
  expect(copy?.disks).toEqual([{ disk: 'disk0', sizeBytes: 1 * MIB, blockBytes: 4096, digest: '' }]);
});

it('a copy of a machine whose source encrypts can be recorded', () => {
  const disk = { disk: asDiskId('disk0'), sizeBytes: 1 * MIB, blockBytes: 4096, digest: '0123456789abcdef' };
  const recorded = disksOfCopy([{ ...disk, hashCheck: 'a'.repeat(64) }]);
  expect(instanceSchema.shape.disks.parse(recorded)).toEqual([{ ...disk, digest: '' }]);
});
