/** The command-line clients of libnbd and QEMU against our server. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { MemoryDevice } from '../helpers/memory-device.js';
import { randomOf } from '../helpers/random.js';
import { missingTools, must, run, serve, stopServers } from './nbd-world.js';

removeTempFolders();
afterEach(stopServers);
const missing = missingTools('nbdinfo', 'nbdcopy', 'qemu-img', 'qemu-io');

function noise(seed: number, bytes: number): Buffer {
  const random = randomOf(seed);
  const buffer = Buffer.allocUnsafe(bytes);
  for (let i = 0; i < bytes; i += 4) buffer.writeUInt32LE(Math.floor(random() * 2 ** 32), i);
  return buffer;
}

/** 9 MiB and a bit, with data at the start, in the middle, and in the odd end. */
function sparseDevice(atOnce: boolean): MemoryDevice {
  const device = new MemoryDevice(9 * MIB + 512, { atOnce });
  device.fill(0, noise(1, MIB));
  device.fill(4 * MIB, noise(2, 64 * 1024));
  device.fill(9 * MIB, noise(3, 512));
  return device;
}

interface Info {
  readonly exports: readonly Record<string, unknown>[];
}

describe.skipIf(missing.length > 0)('clients of NBD', () => {
  it('nbdinfo sees what is offered, and what is allocated', async () => {
    const readOnly = new MemoryDevice(MIB, { readOnly: true, blockBytes: 65536 });
    const world = await serve({ disk1: sparseDevice(true), 'a b/ü': readOnly });
    const one = JSON.parse(await must('nbdinfo', ['--json', world.uri('disk1')])) as Info;
    expect(one.exports[0]).toMatchObject({
      'export-name': 'disk1',
      'export-size': 9 * MIB + 512,
      is_read_only: false,
      can_flush: true,
      can_fua: true,
      can_trim: true,
      can_zero: true,
      can_fast_zero: false,
      can_multi_conn: true,
      can_cache: true,
      can_df: true,
    });
    const list = JSON.parse(await must('nbdinfo', ['--list', '--json', world.uri('')])) as Info;
    expect(list.exports.map((e) => [e['export-name'], e['description']])).toEqual([
      ['disk1', 'about disk1'],
      ['a b/ü', 'about a b/ü'],
    ]);
    expect(list.exports[1]).toMatchObject({
      is_read_only: true,
      can_trim: false,
      can_zero: false,
    });
    const map = JSON.parse(await must('nbdinfo', ['--map', '--json', world.uri('disk1')])) as object[];
    expect(map).toEqual([
      { offset: 0, length: MIB, type: 0, description: 'data' },
      { offset: MIB, length: 3 * MIB, type: 3, description: 'hole,zero' },
      { offset: 4 * MIB, length: 65536, type: 0, description: 'data' },
      { offset: 4 * MIB + 65536, length: 5 * MIB - 65536, type: 3, description: 'hole,zero' },
      { offset: 9 * MIB, length: 512, type: 0, description: 'data' },
    ]);
    expect((await run('nbdinfo', [world.uri('nothing')])).code).not.toBe(0);
    await vi.waitFor(() => expect(world.server.connections).toBe(0));
  });

  it.each([true, false])('nbdcopy and qemu-img copy and compare (reads at once: %s)', async (atOnce) => {
    const device = sparseDevice(atOnce);
    const target = new MemoryDevice(device.sizeBytes, { atOnce });
    target.fill(0, noise(9, 2 * MIB));
    const world = await serve({ disk: device, target });
    const folder = await tempFolder('nbd-copy');
    const [copied, converted] = [join(folder, 'copied'), join(folder, 'converted.qcow2')];
    await must('nbdcopy', [world.uri('disk'), copied]);
    expect((await readFile(copied)).equals(device.bytes)).toBe(true);
    await must('nbdcopy', ['--flush', copied, world.uri('target')]);
    expect(target.bytes.equals(device.bytes)).toBe(true);
    expect(target.durable.equals(device.bytes)).toBe(true);
    await must('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', world.uri('disk'), converted]);
    await must('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', world.uri('target'), converted]);
    target.bytes[5 * MIB] = 1;
    target.fill(5 * MIB, Buffer.from([1]));
    expect((await run('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', world.uri('target'), converted])).code).toBe(
      1,
    );
    await writeFile(copied, noise(4, device.sizeBytes - 512));
    await must('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', copied, world.uri('target')]);
    expect(target.bytes.subarray(0, 9 * MIB).equals(await readFile(copied))).toBe(true);
    expect(world.server.stats.errors).toBe(0);
  });

  it('qemu-io writes, discards, zeroes and flushes', async () => {
    const device = new MemoryDevice(64 * MIB);
    const world = await serve({ disk: device });
    const commands = [
      'write -P 0xab 1M 64k',
      'read -P 0xab 1M 64k',
      'write -P 0xcd 1049088 512',
      'discard 2M 1M',
      'write -z -u 4M 8M',
      'write -P 0x11 16M 20M',
      'read -P 0x11 16M 20M',
      'flush',
    ].flatMap((command) => ['-c', command]);
    const output = await must('qemu-io', ['-t', 'none', '-f', 'raw', ...commands, world.uri('disk')]);
    expect(output).not.toMatch(/failed|mismatch|verification/i);
    const expected = Buffer.alloc(64 * MIB);
    expected.fill(0xab, MIB, MIB + 65536);
    expected.fill(0xcd, 1049088, 1049088 + 512);
    expected.fill(0x11, 16 * MIB, 36 * MIB);
    expect(device.bytes.equals(expected)).toBe(true);
    expect(device.durable.equals(expected)).toBe(true);
    const readOnly = await serve({ disk: new MemoryDevice(MIB, { readOnly: true }) });
    expect((await run('qemu-io', ['-f', 'raw', '-c', 'write 0 4k', readOnly.uri('disk')])).output).toMatch(
      /Permission denied/,
    );
  });
});
