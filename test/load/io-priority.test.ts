/** Priority of the threads that read, as the kernel tells it. */
import { closeSync, openSync, read, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { CLASS_IDLE, classOf, IoPriority, priorityOf, threadIds } from '../../agent/load/io-priority.js';
import { MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';

removeTempFolders();

const bytesReadBy = (thread: number): number =>
  Number(/rchar: (\d+)/.exec(readFileSync(`/proc/self/task/${thread}/io`, 'utf8'))?.[1]);

/** Reads on the threads of the pool; returns those that did. */
async function readingThreads(path: string): Promise<number[]> {
  const before = new Map(threadIds().map((id) => [id, bytesReadBy(id)]));
  const fd = openSync(path, 'r');
  await Promise.all(
    Array.from(
      { length: 16 },
      () =>
        new Promise<void>((resolve, reject) => {
          read(fd, Buffer.alloc(4 * MIB), 0, 4 * MIB, 0, (error) => (error === null ? resolve() : reject(error)));
        }),
    ),
  );
  closeSync(fd);
  // The main thread reads /proc itself: a few hundred bytes at a time.
  return threadIds().filter((id) => bytesReadBy(id) - (before.get(id) ?? 0) >= 4 * MIB);
}

test('threads that read are idle while a sweep reads, and as before after it', async () => {
  const path = join(await tempFolder('priority'), 'file');
  writeFileSync(path, Buffer.alloc(4 * MIB));
  const problems: string[] = [];
  const priority = new IoPriority(true, (problem) => problems.push(problem));
  const own = priorityOf(process.pid);
  expect(classOf(own)).not.toBe(CLASS_IDLE);
  expect(priority.status).toBe('normal');
  priority.idle();
  try {
    const readers = await readingThreads(path);
    expect(readers.length).toBeGreaterThan(0);
    expect(readers.map((id) => classOf(priorityOf(id)))).toEqual(readers.map(() => CLASS_IDLE));
    expect(priority.status).toBe('idle');
  } finally {
    priority.normal();
  }
  expect(priority.status).toBe('normal');
  const readers = await readingThreads(path);
  expect(readers.map((id) => priorityOf(id))).toEqual(readers.map(() => own));
  expect(problems).toEqual([]);
});

test('switched off, nothing is set', () => {
  const priority = new IoPriority(false, () => undefined);
  priority.idle();
  expect(classOf(priorityOf(process.pid))).not.toBe(CLASS_IDLE);
  expect(priority.status).toBe('normal');
});
