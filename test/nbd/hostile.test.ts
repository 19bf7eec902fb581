/** Clients that break the rules, vanish, hoard or flood: only their own connection may suffer. */
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { MIB } from '../../shared/units.js';
import { startNbdServer } from '../../receiver/volume/nbd/server.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { MemoryDevice } from '../helpers/memory-device.js';
import { between, randomOf, type Random } from '../helpers/random.js';
import { optionOf, RawClient, requestOf, serve, socketExists, stopServers, type World } from './nbd-world.js';

removeTempFolders();
afterEach(stopServers);

const [READ, WRITE, DISCONNECT, FLUSH] = [0, 1, 2, 3];

async function begin(world: World, name = 'disk'): Promise<RawClient> {
  const client = new RawClient(world.socketPath);
  await client.begin(name);
  return client;
}

const errorOf = (reply: Buffer): number => reply.readUInt32BE(4);
const settle = (ms = 50): Promise<void> => new Promise((resolve) => void setTimeout(resolve, ms));

/** Writes and reads its own part of the disk, and finds in it what it wrote. */
async function wellBehaved(world: World, until: () => boolean): Promise<number> {
  const client = await begin(world);
  let rounds = 0;
  while (!until() || rounds < 3) {
    const data = Buffer.alloc(50_000, ++rounds % 251);
    client.socket.write(Buffer.concat([requestOf(WRITE, 1000, data.length, rounds), data]));
    expect(errorOf(await client.take(16))).toBe(0);
    client.socket.write(requestOf(READ, 1000, data.length, rounds));
    const reply = await client.take(16 + data.length);
    expect(reply.subarray(16).equals(data)).toBe(true);
    expect(reply.readBigUInt64BE(8)).toBe(BigInt(rounds));
  }
  client.socket.end(requestOf(DISCONNECT, 0, 0));
  await client.untilClosed();
  return rounds;
}

function randomBytes(random: Random, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i++) bytes[i] = between(random, 0, 256);
  return bytes;
}

/** Something that begins like a negotiation, or like requests after one, and goes wrong somewhere. */
function garbage(random: Random): Buffer {
  const parts: Buffer[] = [];
  if (random() < 0.9) parts.push(Buffer.from([0, 0, 0, between(random, 0, 4)]));
  for (let n = between(random, 0, 4); n > 0; n--) {
    const data = randomBytes(random, between(random, 0, 40));
    if (random() < 0.5 && data.length >= 4) data.writeUInt32BE(between(random, 0, 40), 0);
    const option = optionOf(between(random, 0, 13), data);
    if (random() < 0.15) option.writeUInt32BE(Math.floor(random() * 2 ** 32), 12);
    if (random() < 0.05) option[between(random, 0, 8)] = 0;
    parts.push(option);
  }
  if (random() < 0.7) parts.push(optionOf(1, Buffer.from('disk')));
  for (let n = between(random, 0, 30); n > 0; n--) {
    // Never into what the well-behaved client holds.
    const offset =
      random() < 0.2 ? BigInt(Math.floor(random() * 2 ** 52)) << 12n : BigInt(between(random, MIB, 4 * MIB));
    const length = random() < 0.1 ? Math.floor(random() * 2 ** 32) : between(random, 0, 100_000);
    const request = requestOf(between(random, 0, 10), offset, length, n, random() < 0.3 ? between(random, 0, 64) : 0);
    if (random() < 0.03) request[0] = 0;
    parts.push(request);
    if (random() < 0.5) parts.push(randomBytes(random, between(random, 0, 3000)));
  }
  return Buffer.concat(parts);
}

describe('hostile clients of NBD', () => {
  it.each([1, 2, 3])('garbage (seed %i) harms nobody else and leaves nothing behind', async (seed) => {
    const random = randomOf(seed);
    const device = new MemoryDevice(4 * MIB, { atOnce: seed !== 2 });
    const world = await serve({ disk: device }, { limits: { handshakeTimeoutMs: 500 } });
    let isOver = false;
    const good = wellBehaved(world, () => isOver);
    for (let round = 0; round < 40; round++) {
      const clients = Array.from({ length: 4 }, () => new RawClient(world.socketPath));
      for (const client of clients) {
        const bytes = garbage(random);
        for (let at = 0; at < bytes.length;) {
          const to = at + (random() < 0.3 ? between(random, 1, 40) : bytes.length);
          client.socket.write(bytes.subarray(at, to));
          at = to;
          if (random() < 0.1) await settle(1);
        }
        if (random() < 0.5) client.socket.end();
      }
      await settle(2);
      for (const client of clients) client.socket.destroy();
    }
    isOver = true;
    expect(await good).toBeGreaterThan(3);
    await vi.waitFor(() => expect(world.server.connections).toBe(0));
    expect(world.server.stats).toMatchObject({ heldBytes: 0, inFlight: 0 });
  });

  it('a client that vanishes in the middle of a payload has written nothing', async () => {
    const device = new MemoryDevice(MIB);
    const world = await serve({ disk: device });
    for (const part of [1, 40_000, 400_000, 499_999]) {
      const client = await begin(world);
      client.socket.write(Buffer.concat([requestOf(WRITE, 0, 500_000), Buffer.alloc(part, 1)]));
      await settle(20);
      client.socket.destroy();
      await settle(20);
      expect(device.bytes.every((byte) => byte === 0)).toBe(true);
    }
    await vi.waitFor(() => expect(world.server.connections).toBe(0));
    expect(world.server.stats).toMatchObject({ heldBytes: 0, bytesWritten: 0 });
  });

  it.each([
    ['a request with a wrong magic', Buffer.alloc(28, 1)],
    ['a write larger than the largest', requestOf(WRITE, 0, 32 * MIB + 1)],
  ])('%s is cut off', async (_what, bytes) => {
    const world = await serve({ disk: new MemoryDevice(MIB) });
    const client = await begin(world);
    client.socket.write(bytes);
    await client.untilClosed();
    expect(world.server.stats.cutOff).toBe(1);
  });

  it.each([
    ['unknown client flags', Buffer.from([0, 0, 1, 3])],
    ['a wrong magic of an option', Buffer.concat([Buffer.from([0, 0, 0, 3]), Buffer.alloc(16, 9)])],
    ['a huge option', Buffer.concat([Buffer.from([0, 0, 0, 3]), optionOf(3, Buffer.alloc(20_000))])],
    [
      'too many options',
      Buffer.concat([Buffer.from([0, 0, 0, 3]), ...Array<Buffer>(1001).fill(optionOf(99, Buffer.alloc(0)))]),
    ],
    ['an unknown export', Buffer.concat([Buffer.from([0, 0, 0, 3]), optionOf(1, Buffer.from('other'))])],
  ])('%s ends the negotiation', async (_what, bytes) => {
    const world = await serve({ disk: new MemoryDevice(MIB) });
    const client = new RawClient(world.socketPath);
    client.socket.write(bytes);
    await client.untilClosed();
    expect(world.server.stats.cutOff).toBe(1);
  });

  it('unknown options are answered, and the old way to choose an export has its padding', async () => {
    const world = await serve({ disk: new MemoryDevice(MIB, { blockBytes: 65536 }) });
    const client = new RawClient(world.socketPath);
    await client.take(18);
    client.socket.write(Buffer.from([0, 0, 0, 1]));
    client.socket.write(optionOf(77, Buffer.from('what is this')));
    expect((await client.take(20)).readUInt32BE(12)).toBe(0x8000_0001);
    client.socket.write(optionOf(5, Buffer.alloc(0)));
    expect((await client.take(20)).readUInt32BE(12)).toBe(0x8000_0002);
    await client.take('TLS is not configured'.length);
    // INFO, asking for block sizes of the default export.
    client.socket.write(optionOf(6, Buffer.from([0, 0, 0, 0, 0, 1, 0, 3])));
    const info = await client.take(20 + 12 + 20 + 14 + 20);
    const sizes = info.subarray(20 + 12 + 20);
    expect([sizes.readUInt16BE(0), sizes.readUInt32BE(2)]).toEqual([3, 1]);
    expect([sizes.readUInt32BE(6), sizes.readUInt32BE(10)]).toEqual([65536, 32 * MIB]);
    client.socket.write(optionOf(6, Buffer.from([0, 0, 0, 9, 0, 1, 0, 3])));
    expect((await client.take(20)).readUInt32BE(12)).toBe(0x8000_0003);
    await client.take('malformed'.length);
    client.socket.write(optionOf(1, Buffer.alloc(0)));
    const answer = await client.take(10 + 124);
    expect(answer.readBigUInt64BE(0)).toBe(BigInt(MIB));
    expect(answer.subarray(10).every((byte) => byte === 0)).toBe(true);
    client.socket.write(requestOf(FLUSH, 0, 0));
    expect(errorOf(await client.take(16))).toBe(0);
  });

  it('a negotiation that takes too long is ended, an idle client afterwards is not', async () => {
    const world = await serve({ disk: new MemoryDevice(MIB) }, { limits: { handshakeTimeoutMs: 300 } });
    const idle = await begin(world);
    const slow = new RawClient(world.socketPath);
    for (let i = 0; i < 20 && !slow.closed; i++) {
      slow.socket.write(Buffer.from([0]));
      if (i === 3) slow.socket.write(Buffer.from('IHAVEOPT'));
      await settle(40);
    }
    await slow.untilClosed(100);
    expect(idle.closed).toBe(false);
    idle.socket.write(requestOf(FLUSH, 0, 0));
    expect(errorOf(await idle.take(16))).toBe(0);
  });

  it('turns clients away beyond the limit of connections', async () => {
    const world = await serve({ disk: new MemoryDevice(MIB) }, { limits: { connections: 2 } });
    const first = await begin(world);
    await begin(world);
    const third = new RawClient(world.socketPath);
    await third.untilClosed();
    expect(world.server.stats.cutOff).toBe(1);
    first.socket.destroy();
    await settle();
    await begin(world);
  });

  it('begins no more than the limit of requests in flight, and reads no further', async () => {
    const device = new MemoryDevice(MIB);
    let waiting = 0;
    const releases: (() => void)[] = [];
    device.before = () => {
      waiting++;
      return new Promise((resolve) => void releases.push(resolve));
    };
    const world = await serve({ disk: device }, { limits: { requestsInFlight: 4 } });
    const client = await begin(world);
    const writes = Array.from({ length: 600 }, (_, i) =>
      Buffer.concat([requestOf(WRITE, i * 512, 512, i), Buffer.alloc(512, i + 1)]),
    );
    client.socket.write(Buffer.concat(writes));
    await settle();
    expect(waiting).toBe(4);
    expect(world.server.stats.inFlight).toBe(4);
    const timer = setInterval(() => releases.splice(0).forEach((release) => release()), 1);
    await client.take(600 * 16);
    clearInterval(timer);
    for (let i = 0; i < 600; i++) expect(device.bytes[i * 512]).toBe((i + 1) % 256);
    expect(world.server.stats).toMatchObject({ inFlight: 0, heldBytes: 0 });
  });

  it.each([true, false])('bounds what waits for a client that does not read (reads at once: %s)', async (atOnce) => {
    const device = new MemoryDevice(32 * MIB, { atOnce });
    const world = await serve({ disk: device }, { limits: { connectionBytes: 3 * MIB } });
    const lazy = await begin(world);
    lazy.socket.pause();
    lazy.socket.write(Buffer.concat(Array.from({ length: 100 }, (_, i) => requestOf(READ, 0, 600_000, i))));
    await settle(200);
    expect(world.server.stats.heldBytes).toBeGreaterThan(0);
    expect(world.server.stats.heldBytes).toBeLessThan(4 * MIB);
    expect(device.reads).toBeLessThan(20);
    await wellBehaved(world, () => true);
    // It was only lazy: it gets all when it reads.
    lazy.socket.resume();
    await lazy.take(100 * (600_000 + 16));
    expect(world.server.stats.heldBytes).toBe(0);
  });

  it('who hoards memory slows others down, and is cut off when they wait', async () => {
    const world = await serve(
      { disk: new MemoryDevice(32 * MIB) },
      { limits: { serverBytes: 8 * MIB + 100_000, stallMs: 400 } },
    );
    const hoarder = await begin(world);
    hoarder.socket.write(requestOf(WRITE, 0, 6 * MIB));
    hoarder.socket.write(Buffer.alloc(1000));
    await settle();
    expect(world.server.stats.heldBytes).toBeGreaterThan(6 * MIB);
    // Small requests don't wait for it, and so long nobody cuts it off.
    await wellBehaved(world, () => true);
    await settle(600);
    expect(hoarder.closed).toBe(false);
    const large = await begin(world);
    large.socket.write(requestOf(READ, 0, 8 * MIB));
    const reply = await large.take(16 + 8 * MIB);
    expect(errorOf(reply)).toBe(0);
    await hoarder.untilClosed();
    await settle();
    expect(world.server.stats).toMatchObject({ cutOff: 1, heldBytes: 0 });
  });

  it('stop() and disconnect() answer what is in flight, and wait for nothing else', async () => {
    const device = new MemoryDevice(MIB);
    let release = (): void => undefined;
    device.before = () => new Promise((resolve) => (release = resolve));
    const world = await serve({ disk: device, other: new MemoryDevice(MIB) }, { limits: { stopTimeoutMs: 700 } });
    const client = await begin(world);
    const other = await begin(world, 'other');
    const negotiating = new RawClient(world.socketPath);
    await negotiating.take(18);
    // One whole write, one whose payload will never come.
    client.socket.write(Buffer.concat([requestOf(WRITE, 0, 5), Buffer.from('hello'), requestOf(WRITE, 0, 99_999)]));
    await settle();
    const disconnected = world.server.disconnect('disk');
    await settle();
    expect(client.closed).toBe(false);
    release();
    expect(errorOf(await client.take(16))).toBe(0);
    await disconnected;
    await client.untilClosed();
    expect(device.bytes.toString('latin1', 0, 5)).toBe('hello');
    expect([other.closed, world.server.connections]).toEqual([false, 2]);
    // A device that never answers does not keep the server.
    const stuck = await begin(world);
    stuck.socket.write(Buffer.concat([requestOf(WRITE, 0, 5), Buffer.from('never')]));
    await settle();
    await world.server.stop();
    await Promise.all([stuck.untilClosed(), other.untilClosed(), negotiating.untilClosed()]);
    expect([world.server.connections, socketExists(world.socketPath)]).toEqual([0, false]);
  });

  it("bytes that come after the end don't reach memory that others use by then", async () => {
    const [device, other] = [new MemoryDevice(MIB), new MemoryDevice(MIB)];
    const releases: (() => void)[] = [];
    device.before = () => new Promise((resolve) => void releases.push(resolve));
    other.before = device.before;
    const world = await serve({ disk: device, other });
    const ending = await begin(world);
    const write = (byte: number): Buffer => Buffer.concat([requestOf(WRITE, 0, 99_999), Buffer.alloc(99_999, byte)]);
    // One request keeps the connection; of the second a part is missing.
    ending.socket.write(Buffer.concat([requestOf(WRITE, 0, 1), Buffer.from('x'), write(1).subarray(0, 1000)]));
    await settle();
    const disconnected = world.server.disconnect('disk');
    const good = await begin(world, 'other');
    good.socket.write(write(2));
    await settle();
    ending.socket.write(Buffer.alloc(90_000, 1));
    await settle();
    for (const release of releases) release();
    expect(errorOf(await good.take(16))).toBe(0);
    expect(other.bytes.subarray(0, 99_999).every((byte) => byte === 2)).toBe(true);
    await disconnected;
  });

  it('replaces the socket of the dead, respects that of the living', async () => {
    const world = await serve({ disk: new MemoryDevice(MIB) });
    const again = { exports: () => [], log: silentLogger(), clock: systemClock };
    const living = { ...again, listen: { socketPath: world.socketPath } };
    await expect(startNbdServer(living)).rejects.toMatchObject({ code: 'already-running' });
    const folder = await tempFolder('nbd-socket');
    const stale = join(folder, 'stale.sock');
    await writeFile(stale, '');
    await (await startNbdServer({ ...again, listen: { socketPath: stale } })).stop();
    expect(socketExists(stale)).toBe(false);
    const long = join(folder, 'x'.repeat(100));
    await expect(startNbdServer({ ...again, listen: { socketPath: long } })).rejects.toMatchObject({ kind: 'usage' });
    const plain = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => plain.once('listening', resolve));
    const { port } = plain.address() as { port: number };
    const taken = { ...again, listen: { host: '127.0.0.1', port } };
    await expect(startNbdServer(taken)).rejects.toMatchObject({ code: 'already-running' });
    plain.close();
  });
});
