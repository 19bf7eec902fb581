/** The protocol in detail, by libnbd's Python bindings, and what must be on stable storage when. */
import { afterEach, describe, expect, it } from 'vitest';
import { AfterimageError } from '../../shared/errors.js';
import { MIB } from '../../shared/units.js';
import { removeTempFolders } from '../helpers/folders.js';
import { MemoryDevice } from '../helpers/memory-device.js';
import { missingTools, must, PYTHON, serve, stopServers, type World } from './nbd-world.js';

removeTempFolders();
afterEach(stopServers);
const missing = missingTools(PYTHON);

/** `h` is a connected handle; `fails(errno, call)` asserts an error of the server. Own checks of libnbd are off. */
const PRELUDE = `
import nbd, sys, random, errno
def fails(number, call):
    try:
        call()
    except nbd.Error as e:
        assert e.errnum == number, (number, e)
        return
    assert False, 'no error, expected %s' % number
def connect(uri, structured=True, context=True):
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.set_request_structured_replies(structured)
    if context: h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.connect_uri(uri)
    assert h.get_structured_replies_negotiated() == structured
    return h
uri = sys.argv[1]
`;
const python = (world: World, script: string): Promise<string> =>
  must(PYTHON, ['-c', `${PRELUDE}\n${script}`, world.uri('disk')]);

/** A handle whose options go one by one. */
const HAGGLING = `
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(uri)
`;

describe.skipIf(missing.length > 0)('libnbd', () => {
  it.each([
    ['structured', 'True', true],
    ['structured', 'True', false],
    ['simple', 'False', true],
    ['simple', 'False', false],
  ])('%s replies: reads and writes of any shape, many in flight (at once: %s %s)', async (_kind, flag, atOnce) => {
    const device = new MemoryDevice(40 * MIB, { atOnce });
    // Later requests overtake earlier ones.
    device.before = async (_operation, offset) => {
      for (let i = 0; i < (offset >> 12) % 5; i++) await new Promise((resolve) => setImmediate(resolve));
    };
    const world = await serve({ disk: device });
    await python(
      world,
      `
h = connect(uri, ${flag})
random.seed(5)
model = bytearray(h.get_size())
big = random.randbytes(32 << 20)
h.pwrite(big, 12345)
model[12345:12345 + len(big)] = big
assert h.pread(32 << 20, 12345) == big
assert h.pread(1, 12344) == b'\\0'
assert h.pread(0, 5) == b'' if ${flag} else True
for turn in range(30):
    cookies = []
    # Ranges that don't overlap, in flight together.
    for slot in range(64):
        offset = slot * 600000 + random.randrange(1000)
        data = random.randbytes(random.choice([1, 511, 4096, 5000, 70000, 300000]))
        model[offset:offset + len(data)] = data
        cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset))
    while h.aio_in_flight() > 0: h.poll(-1)
    for c in cookies: assert h.aio_command_completed(c)
    reads = []
    for i in range(64):
        offset = random.randrange(len(model) - 400000)
        buffer = nbd.Buffer(random.choice([1, 511, 4096, 65536, 400000]))
        reads.append((h.aio_pread(buffer, offset), buffer, offset))
    while h.aio_in_flight() > 0: h.poll(-1)
    for c, buffer, offset in reads:
        assert h.aio_command_completed(c)
        assert buffer.to_bytearray() == model[offset:offset + buffer.size()], offset
h.shutdown()
`,
    );
    expect(world.server.stats).toMatchObject({ errors: 0, heldBytes: 0, inFlight: 0, cutOff: 0 });
  });

  it('says what is wrong, and goes on', async () => {
    const world = await serve({ disk: new MemoryDevice(MIB), ro: new MemoryDevice(MIB, { readOnly: true }) });
    await python(
      world,
      `
for structured in (True, False):
    h = connect(uri, structured)
    size = h.get_size()
    fails(errno.EINVAL, lambda: h.pread(2, size - 1))
    fails(errno.EINVAL, lambda: h.pread(1, 1 << 63))
    fails(errno.EINVAL, lambda: h.pread(1, (1 << 64) - 1))
    fails(errno.ENOSPC, lambda: h.pwrite(b'xy', size - 1))
    fails(errno.ENOSPC, lambda: h.pwrite(b'xy', 1 << 62))
    fails(errno.ENOSPC, lambda: h.zero(4096, size))
    fails(errno.EINVAL, lambda: h.trim(4096, size))
    fails(errno.EINVAL, lambda: h.pread((32 << 20) + 1, 0))
    fails(errno.EINVAL, lambda: h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO))
    fails(errno.EINVAL, lambda: h.cache(2, size - 1))
    if structured:
        fails(errno.EINVAL, lambda: h.block_status(2, size - 1, lambda *a: 0))
        assert h.pread_structured(8192, 1, lambda buf, off, kind, err: 0, nbd.CMD_FLAG_DF) == bytearray(8192)
    else:
        fails(errno.EINVAL, lambda: h.pread_structured(512, 0, lambda *a: 0, nbd.CMD_FLAG_DF))
    h.cache(size, 0)
    assert h.pread(1, size - 1) == b'\\0'
h = connect(uri.replace('disk', 'ro'))
assert h.is_read_only()
for call in (lambda: h.pwrite(b'x' * 100000, 0), lambda: h.zero(512, 0), lambda: h.trim(512, 0)): fails(errno.EPERM, call)
h.flush()
assert h.pread(1, 0) == b'\\0'
h = connect(uri, context=False)
fails(errno.EINVAL, lambda: h.block_status(4096, 0, lambda *a: 0))
`,
    );
  });

  it('block status: runs, one run, its bounds', async () => {
    const device = new MemoryDevice(16 * MIB);
    for (let i = 0; i < 2000; i++) device.fill(i * 8192, Buffer.from([1]));
    const world = await serve({ disk: device });
    await python(
      world,
      `
h = connect(uri)
def status(count, offset, flags=0):
    got = []
    def take(context, at, entries, err):
        assert context == 'base:allocation' and at == offset
        got.extend(entries)
    h.block_status(count, offset, take, flags)
    return got
assert status(20480, 100) == [3996, 0, 4096, 3, 4096, 0, 4096, 3, 4096, 0, 100, 3], status(20480, 100)
assert status(20480, 100, nbd.CMD_FLAG_REQ_ONE) == [3996, 0]
assert status(100, 100, nbd.CMD_FLAG_REQ_ONE) == [100, 0]
assert len(status(16 << 20, 0)) == 2 * 1024
h.zero(4096, 0)
h.zero(4096, 8192, nbd.CMD_FLAG_NO_HOLE)
assert status(16384, 0) == [8192, 3, 4096, 0, 4096, 3]
h.trim(4096, 8192)
assert status(16384, 0) == [16384, 3]
`,
    );
  });

  it('what FLUSH and FUA answered survives a crash', async () => {
    const device = new MemoryDevice(MIB);
    // A flush takes time, and covers what was there when it began.
    device.before = (operation) =>
      operation === 'flush' ? new Promise((resolve) => void setTimeout(resolve, 20)) : undefined;
    const world = await serve({ disk: device });
    await python(
      world,
      `
h = connect(uri)
h.pwrite(b'a' * 4096, 0, nbd.CMD_FLAG_FUA)
h.pwrite(b'b' * 4096, 4096)
`,
    );
    expect([device.durable[0], device.durable[4096], device.flushes]).toEqual([97, 0, 1]);
    await python(
      world,
      `
first, second = connect(uri), connect(uri)
first.pwrite(b'c' * 4096, 8192)
second.flush()
first.pwrite(b'dddd', 12288)
first.zero(4096, 0, nbd.CMD_FLAG_FUA)
first.pwrite(b'eeee', 16384)
first.trim(4096, 4096, nbd.CMD_FLAG_FUA)
`,
    );
    expect(device.durable.equals(device.bytes)).toBe(true);
    expect(device.durable[8192]).toBe(99);
    expect(device.durable[16384]).toBe(101);
    // Many at once share flushes, and none is answered by one that began before it.
    const before = device.flushes;
    await python(
      world,
      `
h = connect(uri)
for i in range(64): h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i + 1]) * 512), 65536 + i * 512, flags=nbd.CMD_FLAG_FUA)
while h.aio_in_flight() > 0: h.poll(-1)
`,
    );
    expect(device.durable.equals(device.bytes)).toBe(true);
    expect(device.durable[65536 + 63 * 512]).toBe(64);
    expect(device.flushes - before).toBeLessThan(32);
  });

  it("a device's error is an answer: EIO, or ENOSPC when it is full", async () => {
    const device = new MemoryDevice(MIB, { atOnce: false });
    const full = Object.assign(new Error('no space left'), { code: 'ENOSPC' });
    device.before = (operation, offset) => {
      if (offset === 4096) throw new Error(`broken ${operation}`);
      if (offset === 8192) throw full;
      if (offset === 12288) throw new AfterimageError('overlay is full', { code: 'volume', kind: 'io', cause: full });
    };
    const world = await serve({ disk: device });
    await python(
      world,
      `
for structured in (True, False):
    h = connect(uri, structured)
    for call in (lambda: h.pread(10, 4096), lambda: h.pwrite(b'x', 4096), lambda: h.zero(10, 4096), lambda: h.trim(10, 4096), lambda: h.cache(1, 4096)):
        fails(errno.EIO, call)
    if structured: fails(errno.EIO, lambda: h.block_status(10, 4096, lambda *a: 0))
    fails(errno.ENOSPC, lambda: h.pwrite(b'x', 8192))
    fails(errno.ENOSPC, lambda: h.pwrite(b'x', 12288))
    assert h.pread(4, 0) == b'\\0' * 4
`,
    );
    expect(world.server.stats).toMatchObject({ errors: 15, heldBytes: 0 });
  });

  it('negotiation: options one by one', async () => {
    const world = await serve({ disk: new MemoryDevice(MIB), other: new MemoryDevice(2 * MIB) });
    await python(
      world,
      `
${HAGGLING}
names = []
assert h.opt_list(lambda name, description: names.append((name, description))) == 2
assert names == [('disk', 'about disk'), ('other', 'about other')]
h.set_full_info(True)
h.set_export_name('other')
h.opt_info()
assert (h.get_size(), h.get_canonical_export_name(), h.get_export_description()) == (2 << 20, 'other', 'about other')
h.set_export_name('missing')
fails(errno.ENOENT, h.opt_info)
fails(errno.ENOENT, h.opt_go)
h.set_export_name('')
contexts = []
assert h.opt_list_meta_context(lambda name: contexts.append(name)) == 1
h.add_meta_context('base:')
assert h.opt_list_meta_context(lambda name: 0) == 1
h.clear_meta_contexts()
h.add_meta_context('x-other:thing')
assert h.opt_list_meta_context(lambda name: 0) == 0
h.opt_go()
assert contexts == ['base:allocation'] and h.get_size() == 1 << 20 and not h.can_meta_context('base:allocation')
h.shutdown()
h2 = nbd.NBD(); h2.set_opt_mode(True); h2.connect_uri(uri); h2.opt_abort()
`,
    );
  });
});
