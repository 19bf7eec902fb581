/**
 * Key files: what is written can be read, what was changed is refused, and no error shows a key.
 */
import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadKeyFile, writeNewSecretFile } from '../../shared/crypto/key-file.js';
import {
  formatKeyFile,
  keyCheckOf,
  keyIdOf,
  newKeySet,
  parseKeyFile,
  wipe,
  withNewDataKey,
} from '../../shared/crypto/keys.js';
import { messageOf } from '../../shared/errors.js';
import { MACHINE } from './fixture.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'afterimage-keys-'));
});
afterAll(() => rm(folder, { recursive: true }));

describe('a key file', () => {
  const set = withNewDataKey(
    newKeySet('agent', MACHINE, randomBytes, 1_700_000_000_000),
    randomBytes,
    1_700_000_001_000,
  );

  it('is for its owner alone, and comes back as it was', async () => {
    const path = join(folder, 'a.json');
    await writeNewSecretFile(path, formatKeyFile(set));
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect(await loadKeyFile(path)).toEqual(set);
  });

  it('is never written over', async () => {
    const path = join(folder, 'b.json');
    await writeFile(path, 'mine');
    await expect(writeNewSecretFile(path, formatKeyFile(set))).rejects.toThrow(/exists already/);
    expect(await readFile(path, 'utf8')).toBe('mine');
  });

  it('is refused when others can read it', async () => {
    const path = join(folder, 'c.json');
    await writeNewSecretFile(path, formatKeyFile(set));
    await chmod(path, 0o640);
    await expect(loadKeyFile(path)).rejects.toThrow(/can be read by others/);
  });

  it('is refused when anything of its keys was changed, and no error shows a key', () => {
    const text = formatKeyFile(set);
    const secrets = [set.hash, ...set.data.map((d) => d.key)].map((k) => k.toString('base64'));
    for (const secret of secrets) {
      const at = text.indexOf(secret) + 5;
      const bad = text.slice(0, at) + (text[at] === 'A' ? 'B' : 'A') + text.slice(at + 1);
      let message = '';
      try {
        parseKeyFile(bad, '/etc/keys.json');
      } catch (error) {
        message = messageOf(error);
      }
      expect(message).toContain('/etc/keys.json');
      for (const s of secrets) expect(message).not.toContain(s.slice(8, 30));
    }
    expect(() => parseKeyFile(text.slice(0, -20), '/k')).toThrow(/not JSON/);
    const fewer = JSON.parse(text) as { data: unknown[] };
    fewer.data.pop();
    expect(() => parseKeyFile(JSON.stringify(fewer), '/k')).toThrow(/does not match its check/);
  });

  it('is forgotten when asked to', () => {
    const mine = newKeySet('agent', null, randomBytes, 0);
    wipe(mine);
    expect(mine.hash.equals(Buffer.alloc(32))).toBe(true);
    expect(mine.data[0]?.key.equals(Buffer.alloc(32))).toBe(true);
  });
});

it('ids and checks follow from the key and tell nothing else', () => {
  const key = Buffer.alloc(32, 7);
  expect(keyIdOf(key)).toBe(keyIdOf(Buffer.from(key)));
  expect(keyCheckOf(key)).toMatch(/^[0-9a-f]{16}$/);
  expect(keyCheckOf(key)).not.toBe(keyCheckOf(Buffer.alloc(32, 8)));
});
