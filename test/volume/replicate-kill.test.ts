/**
 * The process dies in the middle of a cycle. After the restart the volumes give all blocks that were ever written as changed; those that the chain
 * has already are found by hash, and the point is whole.
 */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { join } from 'node:path';
import type { FailpointName } from '../../shared/failpoints.js';
import type { ReplicatorStatus } from '../../receiver/volume/replicate.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { blockOf, DISKS, MACHINE, newMachine, newStore, pointNumbers, restored } from './replicate-fixture.js';

removeTempFolders();

/** Where the child dies, and whether the point of its cycle stands all the same. */
const PLACES: readonly (readonly [FailpointName | `${FailpointName}:${number}`, boolean])[] = [
  ['receiver.catalog.takeover', false],
  ['receiver.replicate.cut', false],
  ['receiver.replicate.batch:2', false],
  ['receiver.ingest.layer-open:2', false],
  ['receiver.ingest.layer-finished', false],
  ['receiver.replicate.layers-durable', false],
  ['receiver.replicate.committed', true],
];

test.each(PLACES)('killed at %s', async (place, stands) => {
  const store = await newStore();
  const contents = await newMachine(store);
  const images = await tempFolder('replicate-images');
  // 150 blocks of each disk were written since the copy began, half of them with what they held.
  const differing = 75;
  const written = 2 * differing;
  for (const [id, geometry] of DISKS) {
    const bytes = contents.get(id) ?? Buffer.alloc(0);
    for (let i = 0; i < differing; i++)
      blockOf(geometry, i % 5 === 3 ? 4_444 : 5_000 + i).copy(bytes, i * 2 * geometry.blockBytes);
    writeFileSync(join(images, id), bytes);
  }
  const child = (failpoint?: string) =>
    spawnSync(
      process.execPath,
      [
        '--import',
        './test/helpers/ts-loader.mjs',
        'test/volume/replicate-child.ts',
        store.url,
        images,
        MACHINE,
        String(written),
      ],
      {
        env: { ...process.env, ...(failpoint === undefined ? {} : { AFTERIMAGE_FAILPOINT: failpoint }) },
        encoding: 'utf8',
      },
    );
  const killed = child(place);
  expect([killed.signal, killed.stderr]).toEqual(['SIGKILL', '']);
  expect(await pointNumbers(store)).toEqual(stands ? [1, 2] : [1]);
  const again = child();
  expect(again.stderr).toBe('');
  const status = JSON.parse(again.stdout) as ReplicatorStatus;
  expect(status.readBlocks).toBe(written * 2);
  expect(status.sentBlocks).toBe(stands ? 0 : differing * 2);
  const last = stands ? 3 : 2;
  expect(await pointNumbers(store)).toEqual(stands ? [1, 2, 3] : [1, 2]);
  for (const [id, geometry] of DISKS)
    expect(
      (await restored(store, id, last)).equals((contents.get(id) ?? Buffer.alloc(0)).subarray(0, geometry.sizeBytes)),
    ).toBe(true);
});
