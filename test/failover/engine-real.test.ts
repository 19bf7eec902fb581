/**
 * Failover with the real parts, but for a guest: a copy is written through NBD, its points are restored and compared with what its disk reads;
 * a second receiver takes over from one that is gone; a receiver that comes back ends what is no longer its own.
 */
import { execFile } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { MIB } from '../../shared/units.js';
import { loadDamage } from '../../receiver/catalog/damage-io.js';
import { layerName } from '../../receiver/catalog/names.js';
import { OwnedMachines } from '../../receiver/catalog/owned-machines.js';
import { loadRecovery } from '../../receiver/catalog/recovery-io.js';
import { loadHead } from '../../receiver/catalog/reader.js';
import { FailoverEngine } from '../../receiver/failover/engine.js';
import { operationRequestSchema, type OperationInput } from '../../receiver/failover/operations.js';
import { realParts } from '../../receiver/failover/real-parts.js';
import type { FailoverParts } from '../../receiver/failover/parts.js';
import { FileStore } from '../../receiver/store/file-store.js';
import { unpaced } from '../../receiver/upkeep/pace.js';
import { repairMachine } from '../../receiver/upkeep/scrub-repair.js';
import { Chain } from '../helpers/layers.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { planOf, restoreTo } from '../helpers/restore.js';
import { scrub } from '../scrub/finished-store.js';
import { copiesFolder, copiesIn, removeCopiesFolders } from './fakes.js';

const run = promisify(execFile);
const hasQemuIo = existsSync('/usr/bin/qemu-io');
if (!hasQemuIo) console.log('skipped: qemu-io is not installed (qemu-utils)');

removeTempFolders();
afterAll(removeCopiesFolders);

const home: FailoverParts['home'] = {
  stateOf: () => null,
  finalCut: () => Promise.reject(new Error('no home')),
  resumeHome: () => Promise.resolve(),
  restore: () => Promise.reject(new Error('no home')),
  seriesAfterRestore: () => new Map(),
  disconnect: () => Promise.resolve(),
};

const engines: FailoverEngine[] = [];
afterEach(async () => {
  for (const engine of engines.splice(0)) await engine.stop();
});

class Site {
  readonly folder = copiesFolder();
  readonly receiver = randomUUID();
  engine!: FailoverEngine;
  readonly #machines = new OwnedMachines();

  constructor(
    readonly store: FileStore,
    readonly chain: Chain,
    readonly name: string,
  ) {}

  async start(): Promise<void> {
    const parts = realParts({
      store: this.store,
      clock: systemClock,
      randomId: randomUUID,
      log: silentLogger(),
      home,
      machines: this.#machines,
      intervalMs: 200,
      cacheBytesMax: null,
      env: process.env,
    });
    const { receiver, folder, name: receiverName } = this;
    this.engine = new FailoverEngine(parts, { receiver, receiverName, folder, provider: 'none', hydrate: null });
    engines.push(this.engine);
    await this.engine.start();
  }

  async stop(): Promise<void> {
    engines.splice(engines.indexOf(this.engine), 1);
    await this.engine.stop();
  }

  async do(input: OperationInput): Promise<string> {
    const job = await this.engine.begin(this.chain.machine, operationRequestSchema.parse(input));
    await this.engine.settled(this.chain.machine);
    const ended = await this.engine.job(this.chain.machine, job.id);
    if (ended.state !== 'Succeeded')
      throw new Error(`${ended.operation} ${ended.state}: ${ended.error?.message ?? ''}`);
    return ended.tasks.map((t) => t.detail).join('; ');
  }

  async uri(): Promise<string> {
    return (await this.engine.view(this.chain.machine)).instances[0]?.disks[0]?.uri ?? '';
  }

  /** All bytes of the copy's disk, as a client reads them. */
  async disk(): Promise<Buffer> {
    const path = join(this.folder, 'read.img');
    await run('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', await this.uri(), path]);
    return readFile(path);
  }

  async write(offset: number, bytes: Buffer): Promise<void> {
    const path = join(this.folder, 'write.bin');
    await writeFile(path, bytes);
    await run('qemu-io', [
      '-f',
      'raw',
      '-c',
      `write -s ${path} ${offset} ${bytes.length}`,
      '-c',
      'flush',
      await this.uri(),
    ]);
  }

  /** A point that holds everything written before. */
  async nextPoint(): Promise<number> {
    const until = systemClock.monotonicMs() + 20_000;
    for (;;) {
      const copy = (await this.engine.view(this.chain.machine)).instances[0];
      if (copy?.disks[0]?.changedBytes === 0 && copy.dataAtRisk?.bytes === 0) return copy.lastPoint ?? 0;
      if (systemClock.monotonicMs() > until) throw new Error(`no point: ${JSON.stringify(copy)}`);
      await systemClock.sleep(50);
    }
  }

  /** Finds and mends what is damaged, as the daemon does. */
  async mend(): Promise<void> {
    const { store, chain, engine } = this;
    const { machine } = chain;
    await scrub(store, machine);
    const owned = this.#machines.get(machine);
    if (owned === null) throw new Error('nobody has the machine');
    const { signal } = new AbortController();
    const atHome = (): Promise<never> => Promise.reject(new Error('there is nobody at home'));
    await repairMachine({
      ...{ store, beneath: store, clock: systemClock, log: silentLogger(), owned, signal },
      pace: unpaced(systemClock),
      wholeCopy: () => engine.wholeCopy(machine),
      ask: (disk, extents) => engine.resend(machine, disk, extents, signal) ?? atHome(),
    });
  }

  async restored(point: number): Promise<Buffer> {
    const path = join(this.folder, `restored-${point}.img`);
    await restoreTo(await planOf(this.store, this.chain.machine, this.chain.disk, point), { path });
    return readFile(path);
  }
}

async function site(name = 'dr1'): Promise<Site> {
  const store = await FileStore.open(await tempFolder('failover-store'));
  const chain = new Chain(store, { sizeBytes: 80 * MIB, blockBytes: 4096 });
  for (let point = 1; point <= 4; point++) {
    const changes = [
      {
        first: point * 100,
        blocks: [chain.block(point * 100, `a${point}`, false), chain.block(point * 100 + 1, `b${point}`)],
      },
      { first: 5, blocks: [chain.block(5, `same place ${point}`, false)] },
      { first: 18_000 + point, blocks: [chain.block(18_000 + point, `far ${point}`)] },
    ];
    chain.apply(changes);
    await chain.delta(point, point, changes);
    chain.point(point);
  }
  await chain.publish();
  const made = new Site(store, chain, name);
  await made.start();
  return made;
}

function modelBytes({ chain }: Site, point: number): Buffer {
  const bytes = Buffer.alloc(chain.geometry.sizeBytes);
  for (const [block, content] of chain.models.get(point) ?? []) content.copy(bytes, block * 4096);
  return bytes;
}

const same = (a: Buffer, b: Buffer): boolean => a.equals(b);

describe.skipIf(!hasQemuIo)('a copy with real volumes', () => {
  it.each(['latest', '2'])('failed over to point %s: its points restore to what its disk holds', async (word) => {
    const at = await site();
    await at.do({ operation: 'failover', point: word });
    const base = word === 'latest' ? 4 : 2;
    expect(same(await at.disk(), modelBytes(at, base))).toBe(true);
    // Before anything is written: the chain's end must be what the copy is, not what the newest point was.
    const first = await at.nextPoint();
    expect(same(await at.restored(first), modelBytes(at, base))).toBe(true);
    await at.write(123 * 4096, randomBytes(3 * 4096));
    await at.write(18_002 * 4096 + 512, randomBytes(1024));
    const second = await at.nextPoint();
    expect(second).toBeGreaterThan(first);
    expect(same(await at.restored(second), await at.disk())).toBe(true);
    // Older points are as they were.
    expect(same(await at.restored(3), modelBytes(at, 3))).toBe(true);
  });

  it('change of the point: the next points are those of the new copy, the old copy’s writes stay in the chain', async () => {
    const at = await site();
    await at.do({ operation: 'failover' });
    await at.write(0, randomBytes(8192));
    const written = await at.disk();
    await at.do({ operation: 'change-point', point: '1' });
    expect(same(await at.disk(), modelBytes(at, 1))).toBe(true);
    const last = await at.nextPoint();
    expect(same(await at.restored(last), modelBytes(at, 1))).toBe(true);
    expect(same(await at.restored(last - 1), written)).toBe(true);
  });

  it('a restart of the receiver keeps what was written, and goes on under the same generation', async () => {
    const at = await site();
    await at.do({ operation: 'failover', point: '2' });
    await at.write(77 * 4096, randomBytes(4096));
    const before = await at.disk();
    await at.stop();
    await at.start();
    expect(same(await at.disk(), before)).toBe(true);
    await at.write(78 * 4096, randomBytes(4096));
    const point = await at.nextPoint();
    expect(same(await at.restored(point), await at.disk())).toBe(true);
    expect((await loadHead(at.store, at.chain.machine))?.generation).toBe(2);
  });

  it('a test failover leaves no trace', async () => {
    const at = await site();
    const objects = async (): Promise<string[]> => {
      const names: string[] = [];
      for await (const { name } of at.store.list(`machines/${at.chain.machine}/`)) names.push(name);
      return names.filter((n) => !/\/(recovery|jobs|checks)\//.test(n));
    };
    const before = await objects();
    await at.do({ operation: 'test-failover', point: '3' });
    expect(same(await at.disk(), modelBytes(at, 3))).toBe(true);
    await at.write(0, randomBytes(4096));
    await at.do({ operation: 'cleanup', notes: 'drill' });
    expect(copiesIn(at.folder).filter((n) => !n.includes('.'))).toEqual([]);
    expect(await objects()).toEqual(before);
    const recovery = await loadRecovery(at.store, at.chain.machine);
    expect(recovery?.jobs[0]?.data['drillSucceeded']).toBe(true);
  });

  describe('whose store is damaged', () => {
    const layerOf = ({ chain }: Site, n: number): string => {
      const layer = chain.deltas[n];
      if (layer === undefined) throw new Error(`no layer ${n}`);
      return layerName(chain.machine, chain.disk, layer);
    };

    it('has all of itself: it goes on, also after a restart, and gives the store what that lacks', async () => {
      const at = await site();
      await at.do({ operation: 'failover' });
      await at.write(77 * 4096, randomBytes(4096));
      await at.nextPoint();
      // All of it was read, and is on this host.
      const before = await at.disk();
      for (let mib = 0; mib < 80; mib += 16)
        await run('qemu-io', ['-f', 'raw', '-c', `read ${mib}M 16M`, await at.uri()]);
      await at.stop();
      await at.store.deleteMany([layerOf(at, 1)]);
      await at.start();
      expect(same(await at.disk(), before)).toBe(true);
      // What no layer has any more, and what one has that is gone.
      await at.write(78 * 4096, randomBytes(4096));
      await at.write(200 * 4096, randomBytes(4096));
      const whole = await at.nextPoint();
      await at.mend();
      expect((await loadDamage(at.store, at.chain.machine))?.items.map((item) => item.kind)).toEqual(['layer']);
      expect(same(await at.restored(whole), await at.disk())).toBe(true);
      await at.write(79 * 4096, randomBytes(4096));
      expect(same(await at.restored(await at.nextPoint()), await at.disk())).toBe(true);
      const { findings } = await scrub(at.store, at.chain.machine);
      expect(findings).toEqual([]);
      // The point that it began with is not listed any more.
      const last = await at.disk();
      await at.stop();
      await at.start();
      expect(same(await at.disk(), last)).toBe(true);
      await at.write(80 * 4096, randomBytes(4096));
      expect(same(await at.restored(await at.nextPoint()), await at.disk())).toBe(true);
    }, 60_000);

    it('lacks a part of it: what can be had is served, and what is wrong is said', async () => {
      const at = await site();
      await at.do({ operation: 'failover' });
      await at.stop();
      await at.store.deleteMany([layerOf(at, 1)]);
      await at.start();
      const view = await at.engine.view(at.chain.machine);
      expect(view.instances).toEqual([]);
      expect(view.recovery?.failover).not.toBeNull();
    });
  });

  it('another receiver is refused while the first lives, takes over when it is gone, and the first ends its copy when it is back', async () => {
    const first = await site('dr1');
    await first.do({ operation: 'failover' });
    await first.write(40 * 4096, randomBytes(4096));
    const point = await first.nextPoint();
    const written = await first.disk();
    const second = new Site(first.store, first.chain, 'dr2');
    await second.start();
    await expect(second.do({ operation: 'failover' })).rejects.toThrow(/runs at receiver dr1, which lives/);
    await first.stop();
    expect(await second.do({ operation: 'failover' })).toMatch(/receiver dr1, where the machine ran, did not answer/);
    expect(same(await second.disk(), written)).toBe(true);
    expect(await second.nextPoint()).toBeGreaterThanOrEqual(point);
    await first.start();
    expect((await first.engine.view(first.chain.machine)).instances).toEqual([]);
    await second.write(0, randomBytes(4096));
    expect(same(await second.restored(await second.nextPoint()), await second.disk())).toBe(true);
  }, 60_000);
});
