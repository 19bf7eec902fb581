/** The test guests themselves: what end-to-end tests rely on when they use one as a source machine. */
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { bootGuest, guestImage, guestUnavailable, readWriterLog, type Guest } from './guest.js';

const unavailable = guestUnavailable();
if (unavailable !== null) console.log(`guests: skipped, ${unavailable}`);
removeTempFolders();
let guest: Guest | null = null;
afterAll(async () => {
  if (guest?.isRunning === true) await guest.kill();
});

describe.skipIf(unavailable !== null)('test guest', () => {
  it('boots, acknowledges writes, keeps them over a power cut, powers off', async () => {
    const folder = await tempFolder('guest');
    const { path } = await guestImage({ kind: 'plain', path: join(folder, 'disk.img') });
    const options = {
      kind: 'plain',
      disk: path,
      serialPath: join(folder, 'serial'),
      qmpSocket: join(folder, 'q'),
    } as const;
    guest = await bootGuest(options);
    await guest.waitFor('READY boots=1');
    await guest.append(1);
    await guest.kill();
    guest = await bootGuest(options);
    await guest.waitFor('READY boots=2');
    await guest.append(2);
    expect(await guest.http('/data.log')).toBe('1\n2\n');
    expect(readWriterLog(await guest.http('/writer.log')).lastBoot).toBe(2);
    await guest.powerDown();
    expect(guest.serial()).toContain('POWEROFF boots=2');
    expect(guest.isRunning).toBe(false);
  });

  it('a writer’s log with a gap or a changed line is refused', () => {
    const line = (n: number): string => `${n} boot=1 sum=${(BigInt(n) * 2654435761n + 40503n) & 0xffffffffn}\n`;
    expect(readWriterLog(`${line(1)}${line(2)}3 bo`)).toEqual({ lines: 2, last: 2, lastBoot: 1 });
    expect(() => readWriterLog(line(1) + line(3))).toThrow(/line 3 follows line 1/);
    expect(() => readWriterLog(line(1).replace(/sum=\d/, 'sum=0'))).toThrow(/wrong sum/);
  });
});
