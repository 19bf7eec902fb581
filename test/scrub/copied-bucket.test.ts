/**
 * Bucket and key are enough: a store that was copied elsewhere, and a receiver that has never seen it, list and restore everything. A store of a newer
 * format is refused by all that there is, and not a byte of it is touched.
 */
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { PassThrough } from 'node:stream';
import { beforeAll, describe, expect, it } from 'vitest';
import { runCli } from '../../receiver/cli/program.js';
import { receiverConfigSchema } from '../../receiver/config.js';
import { runReceiver } from '../../receiver/daemon.js';
import { FORMAT_NAME } from '../../receiver/store/format.js';
import { openStore } from '../../receiver/store/open.js';
import { checksum64 } from '../../shared/blocks/hash.js';
import { systemClock } from '../../shared/clock.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { restoreToMemory, wrongBlocks } from '../helpers/memory-target.js';
import { planOf } from '../helpers/restore.js';
import { finishedStore, type FinishedStore } from './finished-store.js';

removeTempFolders();

let finished: FinishedStore;
let folder: string;

beforeAll(async () => {
  finished = await finishedStore();
  folder = join(await tempFolder('copied'), 'elsewhere');
  for (const [name, bytes] of finished.store.objects) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), bytes);
  }
});

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

async function run(store: string, ...args: string[]): Promise<Ran> {
  const [out, err] = [new PassThrough(), new PassThrough()];
  const signal = new AbortController().signal;
  const code = await runCli(args, { out, err, env: { AFTERIMAGE_STORE: `file:${store}` }, clock: systemClock, signal });
  const text = (stream: PassThrough): string => (stream.read() as Buffer | null)?.toString() ?? '';
  return { code, out: text(out), err: text(err) };
}

/** Every file below a folder, with what it holds. */
async function contents(of: string): Promise<Map<string, bigint>> {
  const found = new Map<string, bigint>();
  for (const entry of await readdir(of, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    found.set(relative(of, path), checksum64(await readFile(path)));
  }
  return found;
}

const configOf = async (store: string) => {
  const state = await tempFolder('fresh');
  return receiverConfigSchema.parse({
    store: `file:${store}`,
    stateDir: join(state, 'state'),
    controlSocket: join(state, 'control.sock'),
    listen: { host: '127.0.0.1', port: await freePort() },
    status: { port: await freePort() },
    log: { level: 'silent' },
  });
};

async function freePort(): Promise<number> {
  const { createServer } = await import('node:net');
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}

describe('a store that was copied elsewhere', () => {
  it('lists the same machines and points', async () => {
    const { code, out } = await run(folder, 'machines', '--json');
    expect(code).toBe(0);
    const { machines } = JSON.parse(out) as { machines: { id: string; name: string; lastPoint: number }[] };
    expect(machines.map((m) => m.name)).toEqual(['old1', 'web1']);
    for (const { machine, models } of finished.machines) {
      const listed = JSON.parse((await run(folder, 'points', machine, '--json')).out) as {
        points: { number: number }[];
      };
      expect(listed.points.map((p) => p.number).reverse()).toEqual([...models.keys()]);
    }
  });

  it('restores every point of every machine to what it held', async () => {
    const store = await openStore(`file:${folder}`);
    for (const { machine, disk, models } of finished.machines) {
      for (const [number, model] of models) {
        expect(wrongBlocks(await restoreToMemory(await planOf(store, machine, disk, number)), model)).toEqual([]);
      }
    }
    await store.close();
    const { code, out } = await run(folder, 'verify', 'old1', '--all');
    expect(out).toContain('restorable');
    expect(code).toBe(0);
  });

  it('is served by a receiver that has never seen it', async () => {
    const stop = new AbortController();
    const config = await configOf(folder);
    const running = runReceiver(config, stop.signal);
    let answer: Response | undefined;
    for (let i = 0; answer === undefined && i < 200; i++) {
      answer = await fetch(`http://127.0.0.1:${config.status.port}/status`).catch(() => undefined);
      if (answer === undefined) await systemClock.sleep(50);
    }
    expect(await answer?.json()).toMatchObject({ store: `file:${folder}` });
    const { code, out } = await run(folder, 'status', '--socket', config.controlSocket, '--json');
    expect(code).toBe(0);
    for (const { machine } of finished.machines) expect(out).toContain(machine);
    stop.abort();
    await running;
  });
});

describe('a store of a newer format', () => {
  it('is refused by receiver and commands alike, and not a byte of it is touched', async () => {
    const newer = join(await tempFolder('newer'), 'store');
    await mkdir(newer, { recursive: true });
    for (const [name, bytes] of finished.store.objects) {
      await mkdir(dirname(join(newer, name)), { recursive: true });
      await writeFile(join(newer, name), bytes);
    }
    const format = JSON.parse(await readFile(join(newer, FORMAT_NAME), 'utf8')) as object;
    await writeFile(join(newer, FORMAT_NAME), JSON.stringify({ ...format, version: 2, compression: 'zstd' }));
    const before = await contents(newer);
    await expect(runReceiver(await configOf(newer), new AbortController().signal)).rejects.toMatchObject({
      code: 'version-newer',
      kind: 'unsupported',
    });
    for (const args of [['machines'], ['points', 'web1'], ['verify', 'web1'], ['scrub', 'web1'], ['damage', 'web1']]) {
      const { code, err } = await run(newer, ...args);
      expect(code).toBe(1);
      expect(err).toContain('format version 2, this program knows 1');
    }
    expect(await contents(newer)).toEqual(before);
  });

  it('in one of its objects: what a newer program wrote is refused where it is read, and stays', async () => {
    const { store, machines } = await finishedStore();
    const [{ machine } = { machine: null }] = machines;
    if (machine === null) throw new Error('no machine');
    const newest = [...store.objects.keys()]
      .filter((n) => n.startsWith(`machines/${machine}/manifest/`))
      .sort()
      .at(-1);
    const { sealJson } = await import('../../receiver/catalog/sealed-json.js');
    const { MachineReader } = await import('../../receiver/catalog/reader.js');
    store.objects.set(newest ?? '', sealJson({ version: 2, something: 'else' }));
    const before = new Map(store.objects);
    // Not even an older manifest is taken instead: the newer program knows what it did.
    await expect(MachineReader.openReadable(store, machine)).rejects.toMatchObject({ code: 'version-newer' });
    expect(store.objects).toEqual(before);
  });
});
