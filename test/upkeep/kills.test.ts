/**
 * Upkeep in a receiver that is killed (SIGKILL) again and again at the places where most is at stake: every point that is listed stays restorable, the next
 * process goes on, in the end nothing is left over; and status, metrics and `afterimage upkeep` say what was done.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { readHighestManifest } from '../../receiver/catalog/manifest-io.js';
import { machinePrefix } from '../../receiver/catalog/names.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { namesOf } from '../../receiver/upkeep/gc-plan.js';
import { CatalogCache, loadHistory } from '../../receiver/upkeep/history.js';
import type { MachineUpkeepStatus } from '../../receiver/upkeep/upkeep-status.js';
import { MIB } from '../../shared/units.js';
import { freePort, sleep } from '../e2e/lab.js';
import { Daemon, runToEnd } from '../e2e/program.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { MACHINE } from '../helpers/layers.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { randomOf } from '../helpers/random.js';
import { randomWrites, World } from './world.js';

removeTempFolders();

const MINUTE = 60_000;
const REACH_LIMIT_MS = 60_000;
/** Each time the receiver is started anew, and dies at this place. */
const PLACES = [
  'receiver.catalog.takeover:1',
  'receiver.ingest.layer-open:3',
  'receiver.upkeep.pages-written:1',
  'receiver.upkeep.committed:1',
  'receiver.ingest.layer-finished:2',
  'receiver.upkeep.committed:2',
  'receiver.upkeep.batch-deleted:1',
];

let daemon: Daemon | null = null;
afterEach(async () => {
  await daemon?.kill();
  daemon = null;
});

/** A machine with many points that nothing was done for, in a folder; what its points are made of is known to the world that is returned. */
async function agedMachine(folder: string): Promise<World> {
  const random = randomOf(3);
  const memory = new MemoryStore();
  const world = new World(memory);
  await world.takeOver();
  const disk = world.addDisk('disk0', 66 * MIB, 4096);
  for (let block = 0; block < 60; block++) disk.apply([{ first: block, values: [block + 1] }]);
  for (let i = 0; i < 300; i++) {
    world.clock.ms += MINUTE;
    await world.point(new Map([[disk, randomWrites(disk, random).slice(0, 2)]]));
  }
  for (const [name, bytes] of memory.objects) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), bytes);
  }
  return world;
}

async function leftover(store: ObjectStore): Promise<string[]> {
  const manifest = await readHighestManifest(store, MACHINE);
  if (manifest === null) throw new Error('no manifest');
  const named = namesOf(await loadHistory(new CatalogCache(store), manifest));
  const found: string[] = [];
  for (const part of ['disks/', 'history/'])
    for await (const { name } of store.list(`${machinePrefix(MACHINE)}${part}`)) if (!named.has(name)) found.push(name);
  return found;
}

it('killed at each place in turn: listed points stay, the next one goes on, nothing is left over', async () => {
  const folder = await tempFolder('upkeep-kills');
  const storeFolder = join(folder, 'store');
  const store = await openStore(`file:${storeFolder}`, { create: true });
  const before = await agedMachine(storeFolder);
  const statusPort = await freePort();
  const configPath = join(folder, 'receiver.yaml');
  const log = join(folder, 'receiver.log');
  await writeFile(
    configPath,
    stringify({
      store: `file:${storeFolder}`,
      stateDir: join(folder, 'state'),
      controlSocket: join(folder, 'control.sock'),
      listen: { host: '127.0.0.1', port: await freePort() },
      status: { host: '127.0.0.1', port: statusPort },
      fleet: { heartbeat: '200ms' },
      policy: {
        retention: [
          { every: 'all', upTo: '20min' },
          { every: '30min', upTo: '150min' },
        ],
      },
      scrub: { enabled: false },
      upkeep: { interval: '1s', deletionDelay: '1s' },
    }),
  );
  const after = new World(store);
  for (const [point, digests] of before.digests) after.digests.set(point, digests);
  const start = (env: Record<string, string> = {}): Daemon =>
    (daemon = new Daemon('receiver', ['--config', configPath, 'run'], log, env));

  for (const place of PLACES) {
    const killed = start({ AFTERIMAGE_FAILPOINT: place });
    const ended = await Promise.race([killed.ended, sleep(REACH_LIMIT_MS)]);
    const said = (await readFile(log, 'utf8')).slice(-2000);
    expect(ended, `${place} was not reached: ${said}`).toMatchObject({ signal: 'SIGKILL' });
    expect((await after.proveAll()).at(-1), place).toBe(300);
  }

  start();
  const status = await settled(statusPort);
  const listed = await after.proveAll();
  expect(listed.at(-1)).toBe(300);
  expect(listed.length).toBeLessThan(40);
  await expect.poll(() => leftover(store), { timeout: 60_000, interval: 500 }).toEqual([]);

  expect(status.tasks.map(({ task }) => task)).toEqual(['retention', 'merge', 'shortcuts', 'bases', 'gc']);
  const metrics = await (await fetch(`http://127.0.0.1:${statusPort}/metrics`)).text();
  const labels = `machine="${MACHINE}",name="web1"`;
  for (const task of ['retention', 'gc']) {
    expect(metrics).toMatch(
      new RegExp(`afterimage_receiver_upkeep_last_run_timestamp_seconds\\{${labels},task="${task}"\\} [1-9]`),
    );
    expect(metrics).toContain(`afterimage_receiver_upkeep_failed{${labels},task="${task}"} 0`);
  }
  expect(metrics).toMatch(new RegExp(`afterimage_receiver_stored_objects_by_state\\{${labels},state="named"\\} [1-9]`));
  expect(metrics).toMatch(new RegExp(`afterimage_receiver_read_amplification\\{${labels},disk="disk0"\\} [0-9.]+`));

  // Through the running receiver's control socket; bad input changes nothing.
  const now = await runToEnd('cli', ['--config', configPath, 'upkeep', 'web1', '--task', 'gc', '--json']);
  expect(now.stderr).toBe('');
  expect(JSON.parse(now.stdout)).toMatchObject({ machine: MACHINE, tasks: [{ task: 'gc', problem: null }] });
  const wrong = await runToEnd('cli', ['--config', configPath, 'upkeep', 'web1', '--task', 'sweep']);
  expect(wrong).toMatchObject({ code: 2 });
  expect(wrong.stderr).toContain('sweep');
}, 240_000);

/** The machine's figures once a whole run had nothing to do any more. */
async function settled(port: number): Promise<MachineUpkeepStatus> {
  for (let i = 0; i < 600; i++) {
    const answer = await fetch(`http://127.0.0.1:${port}/status`).catch(() => null);
    const status = ((await answer?.json()) as { upkeep: MachineUpkeepStatus[] } | undefined)?.upkeep.find(
      ({ machine }) => machine === MACHINE,
    );
    const isIdle = status?.tasks.every(
      (t) => t.problem === null && t.droppedPoints + t.mergedLayers + t.builtBases + t.deletedObjects === 0,
    );
    if (status !== undefined && status.tasks.length === 5 && isIdle === true) return status;
    await sleep(200);
  }
  throw new Error('upkeep does not come to an end');
}
