/**
 * `afterimage scrub` and `afterimage damage` as operators use them, what the other commands say of damage, and the scrub in the receiver: when it is
 * due, how fast it reads, where it goes on.
 */
import { PassThrough } from 'node:stream';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { loadScrubNote } from '../../receiver/catalog/damage-io.js';
import { layerName } from '../../receiver/catalog/names.js';
import { runCli } from '../../receiver/cli/program.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { paceOf } from '../../receiver/upkeep/scrub-pace.js';
import { scrubPass } from '../../receiver/upkeep/scrub-pass.js';
import { ScrubTask, type ScrubSettings } from '../../receiver/upkeep/scrub-task.js';
import { systemClock, type Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import { LAYER_HEADER_BYTES } from '../../shared/layer/layer.js';
import { silentLogger } from '../../shared/log.js';
import { MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { Chain } from '../helpers/layers.js';

removeTempFolders();

let folder: string;
let store: ObjectStore;
let chain: Chain;

beforeEach(async () => {
  folder = await tempFolder('scrub');
  store = await openStore(`file:${folder}`, { create: true });
  chain = new Chain(store, { sizeBytes: 70 * MIB, blockBytes: 4096 });
  for (const p of [1, 2, 3]) {
    const changes = [{ first: 10 * p, blocks: [chain.block(10 * p, `at ${p}`, false)] }];
    chain.apply(changes);
    await chain.delta(p, p, changes);
    chain.point(p);
  }
  await chain.publish();
});

async function flipLayerOf(point: number): Promise<void> {
  const layer = chain.deltas[point - 1];
  if (layer === undefined) throw new Error('no layer');
  const path = join(folder, layerName(chain.machine, chain.disk, layer));
  const bytes = await readFile(path);
  bytes[LAYER_HEADER_BYTES + 100] = (bytes[LAYER_HEADER_BYTES + 100] ?? 0) ^ 1;
  await writeFile(path, bytes);
}

async function run(args: readonly string[], signal = new AbortController().signal) {
  const [out, err] = [new PassThrough(), new PassThrough()];
  const code = await runCli(args, {
    out,
    err,
    env: { AFTERIMAGE_STORE: `file:${folder}` },
    clock: systemClock,
    signal,
  });
  const text = (stream: PassThrough): string => (stream.read() as Buffer | null)?.toString() ?? '';
  return { code, out: text(out), err: text(err) };
}

describe('afterimage scrub', () => {
  it('of a whole store says so', async () => {
    const { code, out } = await run(['scrub', 'web1']);
    expect(code).toBe(0);
    expect(out).toMatch(/^\d+ objects read, .*: 0 damaged\n$/);
    expect(await run(['damage', 'web1'])).toMatchObject({ code: 0, out: '' });
  });

  it('finds, names and marks what is bad; points and restores go by it', async () => {
    await flipLayerOf(3);
    const scrubbed = await run(['scrub', 'web1']);
    expect(scrubbed.code).toBe(1);
    expect(scrubbed.out).toContain('delta/000000000003-000000000003');
    expect(scrubbed.out).toContain('from 3 on');
    expect((await run(['damage', 'web1'])).out).toMatch(/found +\S+ +from 3 on .*1 of disk disk0/);
    expect((await run(['machines'])).out).toContain('1 damaged objects, points from 3 on');
    const listed = (await run(['points', 'web1'])).out.split('\n');
    expect(listed[0]).toContain('DAMAGE');
    expect(listed[1]).toContain('chunk-checksum');
    expect(listed[2]).not.toContain('chunk-checksum');
    const target = join(folder, '..', `${folder.split('/').at(-1) ?? ''}.raw`);
    const restored = await run(['restore', 'web1', '--point', 'latest', '--to', target, '--sparse', '--json']);
    expect(restored.code).toBe(0);
    expect(JSON.parse(restored.out)).toMatchObject({
      point: 2,
      concerns: [expect.stringContaining('point 3 is passed over')],
    });
    // By its number it is tried, and fails at what is bad.
    const tried = await run(['restore', 'web1', '--point', '3', '--to', target, '--force', '--sparse']);
    expect(tried.code).toBe(1);
    expect(tried.err).toContain('checksum');
  });

  it('as JSON has findings and what is open', async () => {
    await flipLayerOf(2);
    const { code, out } = await run(['scrub', 'web1', '--json']);
    expect(code).toBe(1);
    expect(JSON.parse(out)).toMatchObject({
      findings: [{ kind: 'layer', code: 'chunk-checksum', points: [{ first: 2, last: null }] }],
      damaged: [{ state: 'found', extents: [[20, 1]] }],
    });
  });

  it('goes on where it was cancelled, and from the beginning with --now', async () => {
    const read: string[] = [];
    const stop = new AbortController();
    const watched = new Proxy(store, {
      get(target, key): unknown {
        const value: unknown = Reflect.get(target, key, target);
        if (key !== 'get') return typeof value === 'function' ? (value.bind(target) as unknown) : value;
        return async (name: string, max: number) => {
          if (name.includes('/delta/')) read.push(name);
          if (read.length === 2) stop.abort();
          return target.get(name, max);
        };
      },
    });
    const deps = { store: watched, clock: systemClock };
    const cancelled = scrubPass(
      { ...deps, pace: paceOf(null, systemClock, stop.signal), signal: stop.signal },
      chain.machine,
    );
    await expect(cancelled).rejects.toMatchObject({ kind: 'cancelled' });
    const { signal } = new AbortController();
    read.length = 0;
    await scrubPass({ ...deps, pace: paceOf(null, systemClock, signal), signal }, chain.machine);
    expect(read).toEqual([expect.stringContaining('000000000003-000000000003')]);
    expect((await loadScrubNote(store, chain.machine))?.pass.cursor).toBeNull();
    const { out } = await run(['scrub', 'web1', '--now', '--json']);
    expect(JSON.parse(out)).toMatchObject({ findings: [] });
  });

  it.each([
    [['scrub', 'web1', '--rate', 'fast'], 'rate'],
    [['scrub', 'nobody'], 'no machine'],
  ])('%j is bad input', async (args, text) => {
    const { code, err } = await run(args);
    expect(code).toBe(2);
    expect(err).toContain(text);
  });
});

describe('afterimage repair', () => {
  const NO_RECEIVER = ['--socket', '/nonexistent/control.sock'];

  it('has nothing to do where nothing is known to be damaged', async () => {
    const { code, out, err } = await run(['repair', 'web1', ...NO_RECEIVER]);
    expect({ code, out }).toEqual({ code: 0, out: '' });
    expect(err).toContain('Nothing of machine web1 is known to be damaged');
  });

  it('mends from what the store has where no receiver runs', async () => {
    const layer = chain.deltas[1];
    if (layer === undefined) throw new Error('no layer');
    const path = join(folder, layerName(chain.machine, chain.disk, layer));
    const bytes = await readFile(path);
    bytes[bytes.length - 10] = (bytes[bytes.length - 10] ?? 0) ^ 1;
    await writeFile(path, bytes);
    expect((await run(['scrub', 'web1'])).code).toBe(1);
    const { code, out } = await run(['repair', 'web1', ...NO_RECEIVER]);
    expect(out).toMatch(/^repaired .*made anew of what the store has/m);
    expect(code).toBe(0);
    expect((await run(['verify', 'web1', '--all'])).code).toBe(0);
  });

  it('says what it can not mend, and why', async () => {
    await flipLayerOf(3);
    await run(['scrub', 'web1']);
    const { code, out } = await run(['repair', 'web1', ...NO_RECEIVER]);
    expect(code).toBe(1);
    expect(out).toContain('no receiver runs here that its agent could be asked through');
    // Every point that is listed gets its verdict, also when the newest is damaged.
    const verified = await run(['verify', 'web1', '--all', '--json']);
    const { points } = JSON.parse(verified.out) as { points: { point: number; restorable: boolean }[] };
    expect(points.map((p) => [p.point, p.restorable])).toEqual([
      [3, false],
      [2, true],
      [1, true],
    ]);
  });
});

/** Time that passes only while somebody sleeps. */
function hurriedClock(): Clock & { ms: number } {
  const clock = {
    ms: 1_700_000_000_000,
    nowMs: () => clock.ms,
    monotonicMs: () => clock.ms,
    sleep: async (ms: number) => void (clock.ms += ms),
  };
  return clock;
}

describe('the scrub of a receiver', () => {
  const PROVE_EVERY_MS = 7 * 86_400_000;
  const settings: ScrubSettings = {
    enabled: true,
    bytesPerSecond: 1_000,
    everyMs: 86_400_000,
    prove: { by: 'interval', everyMs: PROVE_EVERY_MS },
  };

  function taskAt(clock: Clock, repaired: string[] = [], prove = settings.prove, random = (): number => 0): ScrubTask {
    return new ScrubTask({
      ...{
        store,
        clock,
        log: silentLogger(),
        random,
        settings: { ...settings, prove },
        isOurs: async () => true,
      },
      repair: async (machine) => void repaired.push(machine),
    });
  }

  it('reads each object once in its time, at its rate, and proves points when that is due', async () => {
    const clock = hurriedClock();
    const { signal } = new AbortController();
    const pace = paceOf(settings.bytesPerSecond, clock, signal);
    const task = taskAt(clock);
    const begunMs = clock.ms;
    await task.look(chain.machine, pace, signal);
    const [after] = task.figures;
    expect(after?.completedAtMs).not.toBeNull();
    // Three layers of 4 KiB at 1 kB/s; what the last one owes is paid by the next pass.
    expect(clock.ms - begunMs).toBeGreaterThan(8_000);
    const pass = await loadScrubNote(store, chain.machine);
    await task.look(chain.machine, pace, signal);
    expect((await loadScrubNote(store, chain.machine))?.number).toBe(pass?.number);
    clock.ms += settings.everyMs;
    await task.look(chain.machine, pace, signal);
    expect((await loadScrubNote(store, chain.machine))?.number).toBeGreaterThan(pass?.number ?? 0);
    expect(task.figures[0]?.provenAtMs).toBeNull();
    clock.ms += PROVE_EVERY_MS;
    await task.look(chain.machine, pace, signal);
    expect((await loadScrubNote(store, chain.machine))?.provenAtMs).not.toBeNull();
  });

  it('does not wait for a time that a clock which ran ahead has noted', async () => {
    const clock = hurriedClock();
    const { signal } = new AbortController();
    const pace = paceOf(null, clock, signal);
    const task = taskAt(clock);
    const rightMs = clock.ms;
    clock.ms += 10 * 365 * 86_400_000;
    await task.look(chain.machine, pace, signal);
    const ahead = await loadScrubNote(store, chain.machine);
    clock.ms = rightMs;
    await task.look(chain.machine, pace, signal);
    const note = await loadScrubNote(store, chain.machine);
    expect(note?.number).toBeGreaterThan(ahead?.number ?? 0);
    expect(note?.pass.startedAtMs).toBe(rightMs);
    await task.look(chain.machine, pace, signal);
    expect((await loadScrubNote(store, chain.machine))?.number).toBe(note?.number);
  });

  it('proves points when a cron expression says so, once for each time of it', async () => {
    const clock = hurriedClock();
    const { signal } = new AbortController();
    const pace = paceOf(null, clock, signal);
    // Every full hour: the same in all time zones that differ by whole ones.
    const task = taskAt(clock, [], { by: 'cron', expression: '0 * * * *' });
    clock.ms = Date.UTC(2026, 0, 1, 10, 5);
    await task.look(chain.machine, pace, signal);
    expect((await loadScrubNote(store, chain.machine))?.provenAtMs).toBeNull();
    clock.ms = Date.UTC(2026, 0, 1, 10, 59);
    await task.look(chain.machine, pace, signal);
    expect((await loadScrubNote(store, chain.machine))?.provenAtMs).toBeNull();
    clock.ms = Date.UTC(2026, 0, 1, 11, 1);
    await task.look(chain.machine, pace, signal);
    expect((await loadScrubNote(store, chain.machine))?.provenAtMs).toBe(clock.ms);
    const proven = (await loadScrubNote(store, chain.machine))?.number;
    clock.ms = Date.UTC(2026, 0, 1, 11, 30);
    await task.look(chain.machine, pace, signal);
    expect((await loadScrubNote(store, chain.machine))?.number).toBe(proven);
  });

  it('counts what is damaged by its state, and has it mended', async () => {
    await flipLayerOf(1);
    const clock = hurriedClock();
    const repaired: string[] = [];
    const { signal } = new AbortController();
    const task = taskAt(clock, repaired);
    await task.look(chain.machine, paceOf(null, clock, signal), signal);
    expect(task.figures).toMatchObject([{ damaged: { found: 1, lost: 0 }, problem: null }]);
    expect(repaired).toEqual([chain.machine]);
  });

  it('has it mended before points are proven, which may fail for want of a key', async () => {
    const clock = hurriedClock();
    const repaired: string[] = [];
    const { signal } = new AbortController();
    const failing = (): never => {
      throw new AfterimageError('test: the key is not at hand', { code: 'key-missing', kind: 'refused' });
    };
    const task = taskAt(clock, repaired, settings.prove, failing);
    await task.look(chain.machine, paceOf(null, clock, signal), signal);
    await flipLayerOf(3);
    clock.ms += PROVE_EVERY_MS;
    await task.look(chain.machine, paceOf(null, clock, signal), signal);
    expect(task.figures[0]?.problem).toContain('the key is not at hand');
    expect(repaired).toEqual([chain.machine]);
  });

  it('finds by proof what stored bytes can not tell: a layer that the catalog forgot', async () => {
    chain.deltas.splice(1, 1);
    await chain.publish();
    const clock = hurriedClock();
    const { signal } = new AbortController();
    const task = taskAt(clock);
    const pace = paceOf(null, clock, signal);
    await task.look(chain.machine, pace, signal);
    expect(task.figures[0]?.damaged.found).toBe(0);
    clock.ms += PROVE_EVERY_MS;
    await task.look(chain.machine, pace, signal);
    // The newest, and one that was drawn.
    expect(task.figures[0]?.damaged.found).toBeGreaterThan(0);
    expect((await run(['damage', 'web1'])).out).toContain('digest');
  });
});
