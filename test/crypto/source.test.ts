/**
 * A source that encrypts, with the real agent on a loop device: protection, restore, rotation, the way home from a receiver without and with the key, and
 * a key file that goes away.
 */
import { readdirSync, readFileSync, renameSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { initKeys, rotateKeys } from '../../agent/keys/commands.js';
import { loadKeyFile } from '../../shared/crypto/key-file.js';
import { hashBlockAt } from '../../shared/blocks/hash.js';
import { MIB } from '../../shared/units.js';
import { canRunLab, MACHINE_NAME, WHY_NO_LAB } from '../e2e/lab.js';
import { BLOCK_BYTES } from '../e2e/loop-disk.js';
import { HomeLab, randomBlock, scattered, writeBlocks } from '../restore/home-lab.js';
import { agentCipher } from './world.js';

const DISK_BYTES = 64 * MIB;
const SECRET = 'the recipe is nine parts of water and one of salt; ';

/** A block full of text that would be found again, no two alike. */
let serial = 0;
const secretBlock = (): Buffer => Buffer.alloc(BLOCK_BYTES, `${serial++} ${SECRET}`);

let home: HomeLab | null = null;
afterEach(async () => {
  await home?.lab.cleanUp();
  home = null;
});

function* objectsIn(folder: string): Generator<Buffer> {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (statSync(path).isDirectory()) yield* objectsIn(path);
    else yield readFileSync(path);
  }
}

/** What an onlooker finds in the store of some blocks of the disk. */
function found(h: HomeLab, blocks: readonly number[]): string[] {
  const image = h.disk().content();
  const needles: [string, Buffer][] = [['text', Buffer.from(SECRET.slice(0, 30))]];
  for (const block of blocks) {
    const hash = Buffer.alloc(8);
    hash.writeBigUInt64LE(hashBlockAt(image, block * BLOCK_BYTES, BLOCK_BYTES, block));
    needles.push([`hash of block ${block}`, hash]);
  }
  return [...objectsIn(h.lab.storeFolder)].flatMap((bytes) =>
    needles.filter(([, needle]) => bytes.includes(needle)).map(([what]) => what),
  );
}

describe.skipIf(!canRunLab)(`a source that encrypts (${WHY_NO_LAB})`, () => {
  it('shows nothing, is restored with its key, and comes home', { timeout: 120_000 }, async () => {
    const h = (home = await HomeLab.open({
      disks: [DISK_BYTES],
      agent: (folder) => ({ encryption: { keyFile: join(folder, 'keys.json') } }),
    }));
    const keyFile = join(h.lab.folder, 'keys.json');
    await initKeys(keyFile, null, 0);
    writeBlocks(h.disk(), scattered(0, 2000, 1), secretBlock);
    await h.setUp();
    writeBlocks(h.disk(), scattered(5, 60, 7), secretBlock);
    await h.lab.syncNow();
    expect(found(h, [0, 5, 12, 1999])).toEqual([]);

    // A rotation costs no comparison: the hash key stays.
    await rotateKeys(keyFile, 1);
    const seen = h.verdicts().length;
    await h.reconnect();
    await h.lab.until(
      'it goes on',
      (s) => s.receiver.connected && s.state === 'Protected' && h.verdicts().length > seen,
    );
    writeBlocks(h.disk(), scattered(3, 40, 9), secretBlock);
    const { point: rotated } = await h.lab.syncNow();
    h.images = h.lab.disks.map((d) => d.content());
    expect(h.verdicts()).not.toContain('compare');
    expect(found(h, [0, 3, 12])).toEqual([]);
    const image = join(h.lab.folder, 'restored.img');
    const restore = ['restore', MACHINE_NAME, '--point', String(rotated), '--to', image, '--sparse', '--read-back'];
    expect((await h.lab.run('cli', ...restore)).stderr).toContain('--key FILE');
    await h.lab.command('cli', ...restore, '--key', keyFile);
    expect(h.disk().differences(image)).toEqual([]);

    // The recovery site has the keys for what it writes; the receiver that sends it home has not, and then has.
    await h.failOver();
    h.cipher = agentCipher({ ...(await loadKeyFile(keyFile)), machine: h.machine }, h.machine);
    await h.lab.until('told that it was failed over', (s) => s.state === 'FailedOver');
    writeBlocks(h.disk(), scattered(1, 20, 11));
    const first = await h.commit(new Map([...scattered(2, 50, 17)].map((b) => [b, randomBlock()])));
    await h.letHomeRestore();
    await h.restore(first, false);
    expect(h.differences()).toEqual([]);
    await h.stopReceiver();
    h.keyFiles = [keyFile];
    await h.startReceiver();
    const last = await h.commit(new Map([...scattered(4, 50, 13)].map((b) => [b, b % 3 === 0 ? null : randomBlock()])));
    await h.reconnect();
    await h.restore(last, true);
    expect(h.differences()).toEqual([]);
    const heard = h.verdicts().length;
    await h.comeHome();
    await h.lab.until('replicating again', (s) => s.state === 'Protected' && h.verdicts().length > heard);
    expect(h.verdicts().at(-1)).toBe('nothing');

    // Without its key file the agent sends nothing.
    renameSync(keyFile, `${keyFile}.gone`);
    await h.reconnect();
    await h.lab.until('it misses its key file', () => h.logText().includes(`key file ${keyFile} can not be read`));
    expect((await h.lab.status()).receiver.connected).toBe(false);
  });
});
