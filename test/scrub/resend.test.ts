/**
 * Blocks that the receiver asks for once more, with the real agent and the real session between them: they are in the next point although nothing
 * changed, and only then is the order answered.
 */
import { beforeEach, describe, expect, it } from 'vitest';
import { MANIFEST_VERSION } from '../../receiver/catalog/manifest.js';
import { isOpen } from '../../receiver/catalog/damage.js';
import { loadDamage } from '../../receiver/catalog/damage-io.js';
import { layerName } from '../../receiver/catalog/names.js';
import { OwnedMachines } from '../../receiver/catalog/owned-machines.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { createIdentity } from '../../receiver/session/identity.js';
import { SessionRegistry } from '../../receiver/session/registry.js';
import { unpaced } from '../../receiver/upkeep/pace.js';
import { repairMachine } from '../../receiver/upkeep/scrub-repair.js';
import { LayerReader } from '../../receiver/volume/layer-reader.js';
import { verifyDisk } from '../../receiver/volume/verify.js';
import type { Clock } from '../../shared/clock.js';
import { LAYER_HEADER_BYTES } from '../../shared/layer/layer.js';
import { silentLogger } from '../../shared/log.js';
import { KIB, MIB } from '../../shared/units.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { planOf } from '../helpers/restore.js';
import { scrub } from './finished-store.js';
import { AgentNode, hardwareIdOf } from '../sim/agent-node.js';
import { useSynchronousCodec } from '../sim/codec.js';
import { SimMachine } from '../sim/machine.js';
import { Network } from '../sim/network.js';
import { EPOCH_MS, SimProcess } from '../sim/process.js';
import { Rng } from '../sim/rng.js';
import { Scheduler } from '../sim/scheduler.js';

const WORKLOAD = { writers: 1, thinkMs: 20, deviceMs: 1, hotShare: 0.5, burstBlocks: 4, burstChance: 0, raceChance: 0 };

class Bench {
  readonly scheduler: Scheduler;
  readonly store = new MemoryStore();
  readonly machine: SimMachine;
  readonly agent: AgentNode;
  readonly registry: SessionRegistry;
  readonly machines = new OwnedMachines();
  readonly clock: Clock;
  readonly crashes: string[] = [];
  #contents = 0;

  constructor() {
    useSynchronousCodec();
    const rng = new Rng(5);
    this.scheduler = new Scheduler(rng.fork('scheduler'));
    const shape = { disks: [{ sizeBytes: 1 * MIB, blockBytes: 4 * KIB }], workload: WORKLOAD };
    this.machine = new SimMachine(this.scheduler, 'm', 0, shape, rng.fork('machine'), () => ++this.#contents);
    const host = new SimProcess(this.scheduler, 'receiver');
    const network = new Network(this.scheduler, rng.fork('network'), 1);
    const deps = { store: this.store, clock: host.clock, randomId: () => rng.uuid(), log: silentLogger() };
    this.registry = new SessionRegistry({ ...deps, program: 'test', machines: this.machines });
    this.clock = host.clock;
    const identity = {
      version: MANIFEST_VERSION,
      number: 1,
      machine: this.machine.id,
      name: 'm',
      certificate: '0'.repeat(64),
      hardwareId: hardwareIdOf(this.machine),
      generation: 1,
      enrolledAtMs: EPOCH_MS,
    } as const;
    void createIdentity(this.store, identity);
    const world = {
      scheduler: this.scheduler,
      log: () => silentLogger(),
      connect: (process: SimProcess) =>
        network.dial(
          process,
          () => ({
            process: host,
            accept: (transport) => void this.registry.admit({ identity, remote: 'agent' }, transport),
          }),
          () => undefined,
        ),
      onCrash: (what: string) => void this.crashes.push(what),
      sourceKeys: () => null,
      wrapTracker: <T>(tracker: T): T => tracker,
    };
    this.agent = new AgentNode(world, this.machine, rng.fork('agent'), '1s');
  }

  async run(ms: number, isDone: () => boolean = () => false): Promise<void> {
    await this.scheduler.run(this.scheduler.nowMs + ms, isDone);
  }

  /** Numbers and hashes of the blocks that a point's own layers hold. */
  async blocksOf(point: number): Promise<Map<number, bigint>> {
    const view = await MachineReader.open(this.store, this.machine.id);
    const disk = this.machine.disks[0]?.id;
    if (disk === undefined) throw new Error('no disk');
    const reader = new LayerReader(this.store, { machine: this.machine.id, disk, blockBytes: 4 * KIB });
    const found = new Map<number, bigint>();
    for (const layer of (await view.layersFor(disk, point)).deltas.filter((l) => l.lastPoint === point)) {
      const index = await reader.index(layer);
      index.first.forEach((first, i) => {
        for (let b = 0; b < (index.count[i] ?? 0); b++) {
          found.set(first + b, index.zero[i] === 1 ? 0n : (index.hashes[(index.hashAt[i] ?? 0) + b] ?? 0n));
        }
      });
    }
    return found;
  }

  async newestPoint(): Promise<number> {
    return (await MachineReader.open(this.store, this.machine.id)).manifest.lastPoint;
  }
}

let bench: Bench;

beforeEach(async () => {
  bench = new Bench();
  bench.machine.workload.start();
  bench.agent.start();
  await bench.run(20_000);
  bench.machine.workload.stop();
  await bench.run(10_000);
  expect(bench.agent.status()?.state).toBe('Protected');
});

describe('blocks that are asked for once more', () => {
  it('are in the next point, as they are, although nothing has changed', async () => {
    const before = await bench.newestPoint();
    const disk = bench.machine.disks[0];
    if (disk === undefined) throw new Error('no disk');
    let point: number | null = null;
    const signal = new AbortController().signal;
    void bench.registry.homeAgents
      .resend(
        bench.machine.id,
        disk.id,
        [
          [0, 3],
          [200, 2],
        ],
        signal,
      )
      .then((done) => (point = done.point));
    await bench.run(30_000, () => point !== null);
    expect(point).toBe(before + 1);
    const blocks = await bench.blocksOf(before + 1);
    expect([...blocks.keys()].sort((a, b) => a - b)).toEqual([0, 1, 2, 200, 201]);
    // Once: the next point, if there is one, holds none of them.
    bench.machine.workload.start();
    await bench.run(5_000);
    bench.machine.workload.stop();
    await bench.run(5_000);
    expect(await bench.newestPoint()).toBeGreaterThan(before + 1);
    expect((await bench.blocksOf(before + 2)).size).toBeLessThan(200);
    expect(bench.crashes).toEqual([]);
  });

  it('while the machine writes are in a point with what it wrote, and the digest holds', async () => {
    bench.machine.workload.start();
    const disk = bench.machine.disks[0];
    if (disk === undefined) throw new Error('no disk');
    const points: number[] = [];
    const { signal } = new AbortController();
    for (const first of [0, 100, 250]) {
      void bench.registry.homeAgents
        .resend(bench.machine.id, disk.id, [[first, 2]], signal)
        .then(({ point }) => points.push(point));
    }
    await bench.run(60_000, () => points.length === 3);
    for (const point of points) {
      const blocks = await bench.blocksOf(point);
      expect([...blocks.keys()].some((n) => [0, 1, 100, 101, 250, 251].includes(n))).toBe(true);
    }
    // Throws when the layers don't add up to the point.
    await verifyDisk(await planOf(bench.store, bench.machine.id, disk.id, Math.max(...points)));
  });

  it('end with the session: whoever asked learns that the agent is gone', async () => {
    const disk = bench.machine.disks[0];
    if (disk === undefined) throw new Error('no disk');
    const asked = bench.registry.homeAgents.resend(bench.machine.id, disk.id, [[0, 1]], new AbortController().signal);
    const outcome = asked.then(
      () => 'answered',
      (error: unknown) => (error as { code: string }).code,
    );
    bench.agent.kill();
    await bench.run(60_000);
    expect(await outcome).toBe('home-absent');
    await expect(
      bench.registry.homeAgents.resend(bench.machine.id, disk.id, [[0, 1]], new AbortController().signal),
    ).rejects.toMatchObject({ code: 'home-absent' });
  });
});

describe('from the bad byte to whole points', () => {
  it('found by the scrub, asked of the real agent, made anew', async () => {
    const { machine, store, registry, machines } = bench;
    const [disk] = machine.disks;
    const owned = machines.get(machine.id);
    if (disk === undefined || owned === null) throw new Error('no disk');
    const newest = owned.manifest.tail.deltas.at(-1)?.layer;
    if (newest === undefined) throw new Error('no layer');
    const name = layerName(machine.id, disk.id, newest);
    const bytes = Buffer.from(store.objects.get(name) ?? Buffer.alloc(0));
    bytes[LAYER_HEADER_BYTES + 40] = (bytes[LAYER_HEADER_BYTES + 40] ?? 0) ^ 1;
    store.objects.set(name, bytes);
    await scrub(store, machine.id);
    const { signal } = new AbortController();
    let isDone = false;
    const repairing = repairMachine({
      ...{ store, beneath: store, clock: bench.clock, log: silentLogger(), owned, pace: unpaced(bench.clock), signal },
      ask: (id, extents) => registry.homeAgents.resend(machine.id, id, extents, signal),
    }).finally(() => (isDone = true));
    await bench.run(60_000, () => isDone);
    await repairing;
    const items = (await loadDamage(store, machine.id))?.items ?? [];
    expect(items).toMatchObject([{ object: name, state: 'repaired' }]);
    expect((await scrub(store, machine.id)).items.filter(isOpen)).toEqual([]);
    const view = await MachineReader.open(store, machine.id);
    for await (const { number } of view.points()) await verifyDisk(await planOf(store, machine.id, disk.id, number));
  });
});
