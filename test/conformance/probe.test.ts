/**
 * The probe of a place for a store: fit places pass and are left as they were; each way in which one can be unfit is found and named.
 */
import { readdir } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { AfterimageError } from '../../shared/errors.js';
import { systemClock } from '../../shared/clock.js';
import { MIB } from '../../shared/units.js';
import { DeleteError } from '../../receiver/store/delete-error.js';
import { probe, type Finding } from '../../receiver/store/probe/probe.js';
import type { CreateResult, ListOptions, ObjectInfo, ObjectWriter } from '../../receiver/store/store.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { probeByCommand } from './probe-by-command.js';

removeTempFolders();

const probed = async (store: MemoryStore): Promise<Map<string, Finding>> => {
  const findings = await probe({
    open: async () => store,
    clock: systemClock,
    id: 'test',
    sizeBytes: 4 * MIB,
    onFinding: () => undefined,
    onProgress: () => undefined,
    signal: new AbortController().signal,
  });
  return new Map(findings.map((finding) => [finding.check, finding]));
};
const failed = async (store: MemoryStore): Promise<string[]> =>
  [...(await probed(store)).values()].filter((f) => f.verdict === 'fail').map((f) => f.check);

describe('a probe', () => {
  it('passes a folder, and leaves it as it was', async () => {
    const folder = await tempFolder('probe');
    const { findings, code } = await probeByCommand(`file:${folder}`);
    expect(code).toBe(0);
    expect(findings.every((finding) => finding.verdict === 'ok')).toBe(true);
    expect(await readdir(folder)).toEqual(['.tmp']);
    expect((await probeByCommand(`file:${folder}/none`)).code).toBe(2);
    expect((await probeByCommand('s3://key:secret@bucket')).code).toBe(2);
  });

  it('finds a store that overwrites', async () => {
    class Overwrites extends MemoryStore {
      override async createIfAbsent(name: string, bytes: Buffer): Promise<CreateResult> {
        this.objects.set(name, Buffer.from(bytes));
        return 'created';
      }
    }
    expect(await failed(new Overwrites())).toEqual(['create']);
  });

  it('finds one that lets several win a race', async () => {
    class Races extends MemoryStore {
      override async createIfAbsent(name: string, bytes: Buffer): Promise<CreateResult> {
        const taken = this.objects.has(name);
        await new Promise((resolve) => setImmediate(resolve));
        if (!taken) this.objects.set(name, Buffer.from(bytes));
        return taken ? 'exists' : 'created';
      }
    }
    expect(await failed(new Races())).toEqual(['race']);
  });

  it('finds one whose listings come late, or end early', async () => {
    class Late extends MemoryStore {
      override async *list(prefix: string, options?: ListOptions): AsyncGenerator<ObjectInfo> {
        const newest = [...this.objects.keys()].at(-1);
        for await (const info of super.list(prefix, options)) if (info.name !== newest) yield info;
      }
    }
    expect(await failed(new Late())).toEqual(['list']);
  });

  it('finds one that shows or replaces large objects', async () => {
    class Shows extends MemoryStore {
      override async openWriter(name: string): Promise<ObjectWriter> {
        const writer = await super.openWriter(name);
        return {
          write: (buffers) => writer.write(buffers),
          abort: () => writer.abort(),
          finish: async () => {
            this.objects.delete(name);
            return writer.finish();
          },
        };
      }
    }
    expect(await failed(new Shows())).toEqual(['large']);
  });

  it('finds one that gives wrong bytes', async () => {
    class Wrong extends MemoryStore {
      override async read(name: string, offset: number, length: number): Promise<Buffer> {
        return super.read(name, Math.max(0, offset - 1), length);
      }
    }
    expect(await failed(new Wrong())).toContain('read');
  });

  it('tells what credentials suffice for, and what stays when nothing can be deleted', async () => {
    const refuse = (error: Error) =>
      class extends MemoryStore {
        override deleteMany(): Promise<void> {
          return Promise.reject(error);
        }
      };
    const kept = { name: 'probe/test/one', lockedUntilMs: 1_900_000_000_000, message: 'locked' };
    const Locked = refuse(new DeleteError([{ ...kept, reason: 'locked' }]));
    expect((await probed(new Locked())).get('delete')).toMatchObject({
      verdict: 'warn',
      text: expect.stringContaining('2030-03-17') as string,
    });
    const Denied = refuse(new AfterimageError('denied', { code: 'store-denied', kind: 'io' }));
    expect((await probed(new Denied())).get('delete')).toMatchObject({
      verdict: 'warn',
      text: expect.stringContaining('enough for a receiver') as string,
      todo: expect.stringContaining('probe/test/') as string,
    });
  });

  it('tells a clock that is wrong', async () => {
    const ahead = (ms: number) =>
      class extends MemoryStore {
        serverClockMs(): number {
          return ms;
        }
      };
    const verdict = async (ms: number): Promise<string | undefined> =>
      (await probed(new (ahead(ms))())).get('clock')?.verdict;
    expect([await verdict(0), await verdict(60_000), await verdict(-3_600_000)]).toEqual(['ok', 'warn', 'fail']);
  });
});
