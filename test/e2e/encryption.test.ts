/**
 * Encryption through real processes: a receiver with a key file as its provider, and an agent that encrypts before anything leaves its machine. What the
 * disks hold is nowhere in the store, is proven, thinned out, mended when it rots, and comes back with the bucket and the key alone, also through a
 * receiver that has never seen it.
 * Proven to be able to fail: the same search finds the disks' bytes in a store that isn't encrypted.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes, randomFillSync } from 'node:crypto';
import {
  closeSync,
  constants,
  cpSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { alignedBuffer } from '../../shared/native/libc.js';
import { MIB } from '../../shared/units.js';
import { canRunLab, Lab, MACHINE_NAME, sleep, WHY_NO_LAB } from './lab.js';
import { BLOCK_BYTES, type LoopDisk } from './loop-disk.js';

/** Stands in every block that is written here; can't be compressed, so it would be in the store as it is. */
const MARK = randomBytes(64);
const LIMIT = { timeout: 600_000 };
/** Some points of a busy host, and as short as that allows: each is proven again and again. */
const SLOT_MS = 2_000;

/** Blocks of noise with the mark, past the page cache. */
function write(disk: LoopDisk | undefined, first: number, count: number): void {
  if (disk === undefined) throw new Error('no disk');
  const bytes = alignedBuffer(count * BLOCK_BYTES);
  randomFillSync(bytes);
  for (let b = 0; b < count; b++) MARK.copy(bytes, b * BLOCK_BYTES + 512);
  const fd = openSync(disk.device, constants.O_WRONLY | constants.O_DIRECT);
  try {
    writeSync(fd, bytes, 0, bytes.length, first * BLOCK_BYTES);
  } finally {
    closeSync(fd);
  }
}

const filesIn = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));

/** Null when it is gone since it was listed: a receiver replaces its notes of a scrub, and what upkeep writes. */
function readIfThere(path: string): Buffer | null {
  try {
    return readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

/** Objects in which the mark can be read. */
const marked = (folder: string): string[] =>
  filesIn(folder).filter((path) => readIfThere(path)?.includes(MARK) === true);

function flipInLargestLayer(storeFolder: string): string {
  const layers = filesIn(storeFolder).filter((path) => /\/(delta|base)\//.test(path));
  const [largest = ''] = layers.sort((a, b) => statSync(b).size - statSync(a).size);
  const bytes = readFileSync(largest);
  const at = Math.floor(bytes.length / 2);
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  writeFileSync(largest, bytes);
  return largest.slice(storeFolder.length + 1);
}

async function expectPointsWhole(lab: Lab): Promise<void> {
  const verdicts = await lab.verifyAll();
  expect(verdicts.length).toBeGreaterThan(0);
  expect(verdicts.filter((v) => !v.restorable)).toEqual([]);
}

async function expectRestored(lab: Lab): Promise<void> {
  await lab.restore();
  expect([lab.differences(0), lab.differences(1)]).toEqual([[], []]);
}

/** Keeps one point of SLOT_MS: what lies between is merged and collected. */
async function thinOut(lab: Lab): Promise<void> {
  const policy = join(lab.folder, 'policy.yaml');
  writeFileSync(policy, `retention: [{ every: all, upTo: 1s }, { every: ${SLOT_MS}ms, upTo: 1d }]\n`);
  await lab.command('cli', 'policy', MACHINE_NAME, '--set', policy);
  const socket = ['--socket', join(lab.folder, 'receiver.sock')];
  const tasks = async (): Promise<
    { task: string; problem: string | null; mergedLayers: number; deletedObjects: number }[]
  > => (JSON.parse(await lab.command('cli', 'upkeep', MACHINE_NAME, ...socket, '--json')) as { tasks: never }).tasks;
  const first = await tasks();
  expect(first.filter(({ problem }) => problem !== null)).toEqual([]);
  expect(first.reduce((sum, { mergedLayers }) => sum + mergedLayers, 0)).toBeGreaterThan(0);
  // The second pass of two.
  const second = await tasks();
  expect(second.reduce((sum, { deletedObjects }) => sum + deletedObjects, 0)).toBeGreaterThan(0);
}

const MODES = {
  'the receiver, with a key file': {
    agent: () => ({}),
    receiver: (folder: string) => ({ encryption: { provider: { file: join(folder, 'kek.json') } } }),
    async init(lab: Lab): Promise<void> {
      await lab.command('receiver', 'keys', 'init');
    },
    /** What opens the machine without the receiver. */
    async recoveryFile(lab: Lab): Promise<string> {
      const out = join(lab.folder, 'recovery.json');
      await lab.command('cli', '--config', lab.configs.receiver, 'keys', 'export', MACHINE_NAME, '--out', out);
      return out;
    },
  },
  'the source': {
    agent: (folder: string) => ({ encryption: { keyFile: join(folder, 'source-keys.json') } }),
    receiver: () => ({}),
    async init(lab: Lab): Promise<void> {
      await lab.command('agent', 'keys', 'init');
    },
    async recoveryFile(lab: Lab): Promise<string> {
      const copy = join(lab.folder, 'copy-of-source-keys.json');
      cpSync(join(lab.folder, 'source-keys.json'), copy);
      return copy;
    },
  },
};

describe.skipIf(!canRunLab)(`encryption through real processes (${WHY_NO_LAB})`, () => {
  it('a store that is not encrypted shows what the disks hold', LIMIT, async () => {
    const lab = await Lab.open({ disks: [8 * MIB] });
    try {
      await lab.setUp();
      write(lab.disks[0], 100, 16);
      await lab.syncNow();
      expect(marked(lab.storeFolder)).not.toEqual([]);
    } finally {
      await lab.cleanUp();
    }
  });

  describe.each(Object.entries(MODES))('by %s', (_who, mode) => {
    let lab!: Lab;
    beforeAll(async () => {
      lab = await Lab.open({
        disks: [40 * MIB, 8 * MIB],
        agent: mode.agent,
        receiver: (folder) => ({ upkeep: { deletionDelay: '0s' }, ...mode.receiver(folder) }),
      });
      await mode.init(lab);
      write(lab.disks[0], 0, 64);
      write(lab.disks[1], 7, 9);
      await lab.setUp();
    }, 300_000);
    afterAll(() => lab.cleanUp(), 60_000);

    it('points are made, hold what the disks held, and nobody can read them in the store', LIMIT, async () => {
      // Long enough for several points of one slot, and for slots that have closed.
      const endMs = performance.now() + 4 * SLOT_MS;
      for (let i = 0; performance.now() < endMs || i < 8; i++) {
        write(lab.disks[0], 200 + 3 * i, 8);
        write(lab.disks[1], 40 + i, 2);
        await lab.syncNow();
      }
      const blind = await lab.run(
        'cli',
        'restore',
        MACHINE_NAME,
        '--point',
        'latest',
        '--to',
        `${lab.diskIds[0] ?? ''}=${join(lab.folder, 'none')}`,
      );
      expect(blind.code).toBe(1);
      expect(blind.stderr).toMatch(/is not at hand[\s\S]*--key FILE/);
      lab.keyFile = await mode.recoveryFile(lab);
      expect(await lab.command('cli', 'keys', 'check', MACHINE_NAME, '--key', lab.keyFile, '--all')).toContain(
        'opens point',
      );
      await expectRestored(lab);
      await expectPointsWhole(lab);
      expect(marked(lab.storeFolder)).toEqual([]);
    });

    it('the scrub reads everything without a key, and with it', LIMIT, async () => {
      expect(await lab.command('cli', 'scrub', MACHINE_NAME, '--now')).toContain(': 0 damaged');
      const key = lab.keyFile ?? '';
      expect(await lab.command('cli', 'scrub', MACHINE_NAME, '--now', '--key', key)).toContain(': 0 damaged');
      expect((await lab.run('cli', 'scrub', MACHINE_NAME, '--key', join(lab.folder, 'nowhere.json'))).code).toBe(2);
    });

    it('upkeep thins out, merges and collects it', LIMIT, async () => {
      await thinOut(lab);
      await expectPointsWhole(lab);
      await expectRestored(lab);
      expect(marked(lab.storeFolder)).toEqual([]);
    });

    it('what rots is found without a key, and mended by the receiver with the agent', LIMIT, async () => {
      await lab.syncNow();
      const name = flipInLargestLayer(lab.storeFolder);
      const scrubbed = await lab.run('cli', 'scrub', MACHINE_NAME, '--now');
      expect(scrubbed.code).toBe(1);
      expect(scrubbed.stdout).toContain(name);
      expect((await lab.verifyAll()).some((v) => !v.restorable)).toBe(true);
      const socket = join(lab.folder, 'receiver.sock');
      const repaired = await lab.command('cli', 'repair', MACHINE_NAME, '--socket', socket);
      expect(repaired).toContain('repaired');
      expect(await lab.command('cli', 'scrub', MACHINE_NAME, '--now')).toContain(': 0 damaged');
      await lab.syncNow();
      await expectPointsWhole(lab);
      await expectRestored(lab);
      expect(marked(lab.storeFolder)).toEqual([]);
    });

    it(
      'the bucket, copied elsewhere, and the key are enough for a receiver that has never seen it',
      LIMIT,
      async () => {
        write(lab.disks[0], 900, 5);
        await lab.syncNow();
        await lab.agent?.stop();
        await lab.receiver?.stop();
        const copy = join(lab.folder, 'copy');
        cpSync(lab.storeFolder, copy, { recursive: true });
        lab.reconfigureReceiver({
          store: `file:${copy}`,
          stateDir: join(lab.folder, 'fresh'),
          encryption: { machineKeys: [lab.keyFile] },
          scrub: { every: '1s', rate: '100MB/s' },
          // It looks four times whether others live before it takes a machine over.
          fleet: { heartbeat: '1s' },
        });
        expect(await lab.command('cli', 'machines')).toContain(MACHINE_NAME);
        await expectRestored(lab);
        await expectPointsWhole(lab);
        // It looks after the machine: upkeep needs what is encrypted, and so does mending from what the store has.
        await lab.startReceiver();
        await thinOutAgain(lab);
        await expectPointsWhole(lab);
        await expectRestored(lab);
      },
    );

    it(
      'with the authority of the old one it goes on with the agent, and mends by itself what rots',
      LIMIT,
      async () => {
        await lab.receiver?.stop();
        cpSync(join(lab.folder, 'receiver', 'ca'), join(lab.folder, 'fresh', 'ca'), { recursive: true, force: true });
        await lab.startReceiver();
        await lab.startAgent();
        await lab.untilProtected();
        write(lab.disks[0], 1000, 5);
        const { point } = await lab.syncNow();
        expect((await lab.points()).find((p) => p.number === point)?.reason ?? '').not.toContain('compar');
        const name = flipInLargestLayer(lab.storeFolder);
        await untilMended(lab, name);
        await lab.syncNow();
        await expectPointsWhole(lab);
        await expectRestored(lab);
        expect(marked(lab.storeFolder)).toEqual([]);
      },
    );
  });
});

/** Once it has seen that the receiver of before is gone. */
async function thinOutAgain(lab: Lab): Promise<void> {
  const socket = ['--socket', join(lab.folder, 'receiver.sock')];
  for (let i = 0; i < 600; i++) {
    const { code, stdout, stderr } = await lab.run('cli', 'upkeep', MACHINE_NAME, ...socket, '--json');
    if (stderr.includes('machine-not-ours')) {
      await sleep(200);
      continue;
    }
    if (code !== 0) throw new Error(stderr);
    const { tasks } = JSON.parse(stdout) as { tasks: { problem: string | null }[] };
    return expect(tasks.filter(({ problem }) => problem !== null)).toEqual([]);
  }
  throw new Error('the machine stayed the old receiver’s');
}

/** The receiver's own scrub finds it, and has it mended. */
async function untilMended(lab: Lab, object: string): Promise<void> {
  for (let i = 0; i < 600; i++) {
    const { items } = JSON.parse(await lab.command('cli', 'damage', MACHINE_NAME, '--json')) as {
      items: { object: string; state: string; reason: string }[];
    };
    const item = items.find((one) => one.object === object);
    if (item?.state === 'repaired') return;
    await sleep(100);
  }
  throw new Error(`not mended: ${execFileSync('tail', ['-n', '20', lab.receiverLog], { encoding: 'utf8' })}`);
}
