/**
 * The receiver's session against agents that are right, wrong, slow, doubled and hostile. What it commits must add up; all else must end it
 * with a reason, and leave the points as they were.
 */
import { join } from 'node:path';
import { readdir } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { manifestName } from '../../receiver/catalog/names.js';
import { sealJson } from '../../receiver/catalog/sealed-json.js';
import { loadHead } from '../../receiver/catalog/reader.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { asDiskId } from '../../shared/units.js';
import { CHUNK_PLAIN_BYTES_MAX, INGEST_QUEUE_BYTES_MAX } from '../../shared/limits.js';
import { CLOSE } from '../../shared/wire/close-codes.js';
import { encodeControl } from '../../shared/wire/messages.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { randomOf } from '../helpers/random.js';
import {
  blockBytes,
  BLOCK_BYTES,
  chunkOf,
  dataMessage,
  digestsOf,
  DISK,
  GEOMETRY,
  HELLO_DISK,
  helloOf,
  MACHINE,
  SERIES,
  soundPoints,
  TestAgent,
  withHook,
} from './ingest-fixture.js';

removeTempFolders();

interface Ground {
  readonly store: ObjectStore;
  readonly folder: string;
}

async function ground(): Promise<Ground> {
  const folder = join(await tempFolder('ingest'), 'store');
  return { folder, store: await openStore(`file:${folder}`, { create: true }) };
}

const random = randomOf(7);
const some = (...numbers: number[]): Map<number, Buffer> => new Map(numbers.map((n) => [n, blockBytes(random)]));
const SECOND_SEGMENT = GEOMETRY.blocksPerSegment;

/** A hello of an agent that has committed up to `point`. */
const helloAt = (point: number, changedBlocks = 1): ReturnType<typeof helloOf> =>
  helloOf([{ ...HELLO_DISK, committedPoint: point, committedSeries: SERIES, changedBlocks, hashStore: 'valid' }]);

describe('a session that goes well', () => {
  it('takes a first copy, cycles, zero blocks and a second session', async () => {
    const { store } = await ground();
    const agent = new TestAgent(store);
    const welcome = await agent.hello();
    expect(welcome).toMatchObject({ epoch: 1, lastPoint: 0, lastCycle: null });
    expect(welcome.disks).toMatchObject([{ verdict: 'full', committedPoint: 0, digest: null, stagedLayers: 0 }]);
    expect(await agent.firstCopy(some(0, 1, 5, SECOND_SEGMENT, GEOMETRY.blockCount - 1))).toBe(1);
    agent.begin();
    agent.data(some(1, 2, SECOND_SEGMENT + 7));
    agent.data(some(1));
    agent.data(new Map([[5, null]]));
    expect(await agent.commit()).toBe(2);
    agent.begin();
    expect(await agent.commit()).toBe(3);
    expect(await soundPoints(store)).toEqual([1, 2, 3]);
    expect((await digestsOf(store, 3)).listed).toBe(agent.digest);
    await agent.end();

    const next = new TestAgent(store, agent.model);
    const again = await next.hello(helloAt(3));
    expect(again).toMatchObject({ epoch: 2, lastPoint: 3, lastCycle: agent.cycle });
    expect(again.disks).toMatchObject([{ verdict: 'delta', committedPoint: 3, digest: agent.digest }]);
    next.begin();
    next.data(some(9));
    expect(await next.commit()).toBe(4);
    expect(await soundPoints(store)).toEqual([1, 2, 3, 4]);
    await next.end();
  });

  it('acknowledges received bytes, staged segments and the committed point', async () => {
    const { store } = await ground();
    const agent = new TestAgent(store);
    await agent.hello();
    const blocks = some(0, 1);
    agent.data(blocks, 'sweep-base', 0);
    const bytes = dataMessage(chunkOf(blocks), 1, 'sweep-base', 0).length;
    expect(await agent.transport.next('ack')).toMatchObject({ receivedBytes: bytes, stagedSequence: 0 });
    agent.endSegment(0, 'sweep-base');
    expect(await agent.transport.next('ack')).toMatchObject({ receivedBytes: bytes, stagedSequence: 2 });
    await agent.end();
  });

  it('does not leave a message lying that arrives while an acknowledgement is on its way', async () => {
    const { store } = await ground();
    const agent = new TestAgent(store);
    await agent.hello();
    await agent.firstCopy(some(0));
    for (let i = 0; i < 5; i++) {
      agent.begin();
      agent.data(some(3 + i));
      agent.transport.said.length = 0;
      // The queue is empty, so the session acknowledges; its send is still under way when the commit arrives.
      await agent.transport.next('ack');
      expect(
        await Promise.race([agent.commit(), new Promise((resolve) => setTimeout(resolve, 2000, 'left lying'))]),
      ).toBe(i + 2);
    }
    await agent.end();
  });

  it('forgets what was staged with an agent whose state is older than the last point', async () => {
    const { store } = await ground();
    const agent = new TestAgent(store);
    await agent.hello();
    await agent.firstCopy(some(0, 1));
    agent.begin();
    expect(await agent.commit()).toBe(2);
    await agent.end();
    const staging = new TestAgent(store);
    await staging.hello(helloAt(2));
    staging.data(some(3), 'sweep-delta', 0);
    staging.endSegment(0, 'sweep-delta');
    while ((await staging.transport.next('ack')).stagedSequence < 2);
    await staging.end();
    const sweep = { kind: 'comparison' as const, nextSegment: 1, stagedLayers: 1 };
    const at = (committedPoint: number): ReturnType<typeof helloOf> =>
      helloOf([{ ...HELLO_DISK, committedPoint, committedSeries: SERIES, changedBlocks: 1, sweep }]);
    // Restored from a backup of its own, say: it asks for hashes and compares from the beginning.
    const older = new TestAgent(store);
    expect((await older.hello(at(1))).disks).toMatchObject([
      { verdict: 'compare', stagedLayers: 0, committedPoint: 2 },
    ]);
    await older.end();
    const again = new TestAgent(store);
    expect((await again.hello(at(2))).disks).toMatchObject([{ verdict: 'compare', stagedLayers: 0 }]);
    await again.end();
  });

  it('throws away what a cycle sent that did not commit', async () => {
    const { store } = await ground();
    const agent = new TestAgent(store);
    await agent.hello();
    await agent.firstCopy(some(0, 1));
    const before = new Map(agent.model);
    agent.begin();
    agent.data(some(0, 1, 2));
    agent.begin();
    agent.model.clear();
    before.forEach((bytes, n) => agent.model.set(n, bytes));
    agent.data(some(4));
    expect(await agent.commit()).toBe(2);
    expect(await soundPoints(store)).toEqual([1, 2]);
    await agent.end();
  });

  it('leaves nothing open when the connection is lost at any moment', async () => {
    const { store, folder } = await ground();
    const agent = new TestAgent(store);
    await agent.hello();
    await agent.firstCopy(some(0, 1));
    await agent.end();
    const cycle = async (point: number): Promise<TestAgent> => {
      const session = new TestAgent(store, agent.model);
      await session.hello(helloAt(point));
      const wholeChunk = new Map(Array.from({ length: 60 }, (_, n) => [n, blockBytes(random)] as const));
      session.begin();
      for (let n = 0; n < 6; n++) session.data(wholeChunk);
      return session;
    };
    // How long a commit takes here: the moments are spread over that, and over what comes after it.
    const whole = await cycle(1);
    let turnsOfCommit = 0;
    let committing = true;
    const commit = whole.commit().finally(() => (committing = false));
    for (; committing; turnsOfCommit++) await new Promise((resolve) => setImmediate(resolve));
    expect(await commit).toBe(2);
    await whole.end();
    const rounds = 40;
    for (let i = 0; i < rounds; i++) {
      const point = (await loadHead(store, MACHINE))?.lastPoint ?? 0;
      const lost = await cycle(point);
      if (i % 2 === 0) lost.say(lost.commitMessage());
      const turns = Math.round((1.5 * turnsOfCommit * i) / rounds);
      for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
      await lost.end();
      expect(await readdir(join(folder, '.tmp')), `lost after ${turns} turns`).toEqual([]);
      const committed = (await loadHead(store, MACHINE))?.lastPoint ?? 0;
      if (i % 2 === 1) expect(committed, 'nothing commits without having been asked to').toBe(point);
      // Nothing goes on after the end either.
      await new Promise((resolve) => setTimeout(resolve, 5));
      expect((await loadHead(store, MACHINE))?.lastPoint).toBe(committed);
    }
    const last = (await loadHead(store, MACHINE))?.lastPoint ?? 0;
    expect(await soundPoints(store)).toEqual(Array.from({ length: last }, (_, i) => i + 1));
  });
});

describe('what doesn’t fit ends the session', () => {
  interface Case {
    readonly name: string;
    readonly act: (agent: TestAgent) => void;
    readonly close: { readonly code: number };
  }
  const damaged = (at: number): Buffer => {
    const message = dataMessage(chunkOf(some(1, 2)), 1);
    message[at] = (message[at] ?? 0) ^ 1;
    return message;
  };
  const say = (message: Buffer) => (agent: TestAgent) => agent.transport.deliver(message);
  const data = (
    chunk: Buffer,
    sequence = 1,
    ...rest: [('cycle' | 'sweep-base' | 'sweep-delta')?, (number | null)?, number?]
  ) => say(dataMessage(chunk, sequence, ...rest));
  const end =
    (segment: number, sequence = 1, target: 'sweep-base' | 'sweep-delta' = 'sweep-base', disk = DISK) =>
    (agent: TestAgent) =>
      agent.say({ type: 'segment-end', disk, segment, target, sequence });
  const otherBlocks = Buffer.from(chunkOf(some(1)));
  const protocol = CLOSE.protocol;
  const cases: readonly Case[] = [
    { name: 'an empty message', act: say(Buffer.alloc(0)), close: protocol },
    { name: 'an unknown tag', act: say(Buffer.from([9, 1, 2])), close: protocol },
    { name: 'control that is not msgpack', act: say(Buffer.from([2, 0xc1, 0xff])), close: protocol },
    {
      name: 'control of another kind',
      act: say(encodeControl({ type: 'ack', receivedBytes: 0, stagedSequence: 0, committedPoint: 0 })),
      close: protocol,
    },
    { name: 'a second hello', act: (a) => a.say(helloOf()), close: protocol },
    { name: 'sequence 2 first', act: data(chunkOf(some(1)), 2), close: protocol },
    {
      name: 'a sequence twice',
      act: (a) => {
        data(chunkOf(some(1)))(a);
        data(chunkOf(some(2)))(a);
      },
      close: protocol,
    },
    {
      name: 'data for a disk that was not in hello',
      act: data(chunkOf(some(1)), 1, 'cycle', null, 1),
      close: protocol,
    },
    { name: 'a chunk beyond the disk', act: data(chunkOf(some(GEOMETRY.blockCount))), close: protocol },
    {
      name: 'a chunk beyond its segment',
      act: data(chunkOf(some(SECOND_SEGMENT - 1, SECOND_SEGMENT)), 1, 'sweep-base', 0),
      close: protocol,
    },
    {
      name: 'a chunk before its segment',
      act: data(chunkOf(some(SECOND_SEGMENT - 1)), 1, 'sweep-delta', 1),
      close: protocol,
    },
    {
      name: 'a segment that does not exist',
      act: data(chunkOf(some(1)), 1, 'sweep-base', GEOMETRY.segmentCount),
      close: protocol,
    },
    {
      name: 'a chunk of other blocks',
      act: (a) => {
        otherBlocks.writeUInt32LE(8192, 28);
        data(otherBlocks)(a);
      },
      close: CLOSE.corruptData,
    },
    { name: 'a data header only', act: say(dataMessage(Buffer.alloc(0), 1)), close: protocol },
    { name: 'a chunk cut short', act: data(chunkOf(some(1)).subarray(0, 40)), close: CLOSE.corruptData },
    { name: 'a damaged checksum', act: say(damaged(16)), close: CLOSE.corruptData },
    { name: 'a damaged hash', act: say(damaged(16 + 32 + 16)), close: CLOSE.corruptData },
    {
      name: 'a damaged last byte',
      act: (a) => {
        const m = damaged(16);
        m[16] = (m[16] ?? 0) ^ 1;
        m[m.length - 1] = (m[m.length - 1] ?? 0) ^ 0x40;
        say(m)(a);
      },
      close: CLOSE.corruptData,
    },
    { name: 'a reserved byte that is set', act: say(damaged(3)), close: protocol },
    {
      name: 'two segments at once',
      act: (a) => {
        data(chunkOf(some(1)), 1, 'sweep-base', 0)(a);
        data(chunkOf(some(SECOND_SEGMENT)), 2, 'sweep-base', 1)(a);
      },
      close: protocol,
    },
    {
      name: 'another segment ends',
      act: (a) => {
        data(chunkOf(some(1)), 1, 'sweep-base', 0)(a);
        end(1, 2)(a);
      },
      close: protocol,
    },
    {
      name: 'a segment of another kind ends',
      act: (a) => {
        data(chunkOf(some(1)), 1, 'sweep-base', 0)(a);
        end(0, 2, 'sweep-delta')(a);
      },
      close: protocol,
    },
    { name: 'a segment beyond the disk ends', act: end(GEOMETRY.segmentCount), close: protocol },
    { name: 'a segment of an unknown disk ends', act: end(0, 1, 'sweep-base', asDiskId('disk9')), close: protocol },
    { name: 'a segment end out of order', act: end(0, 2), close: protocol },
    {
      name: 'a commit that forgets a message',
      act: (a) => {
        a.data(some(1));
        a.say(a.commitMessage({ lastSequence: 0 }));
      },
      close: protocol,
    },
    {
      name: 'a commit ahead of its messages',
      act: (a) => a.say(a.commitMessage({ lastSequence: 5 })),
      close: protocol,
    },
    {
      name: 'a commit with a segment left open',
      act: (a) => {
        a.data(some(1), 'sweep-delta', 0);
        a.say(a.commitMessage());
      },
      close: protocol,
    },
    {
      name: 'a commit of an unknown disk',
      act: (a) =>
        a.say(a.commitMessage({ disks: [{ disk: asDiskId('disk9'), series: SERIES, digest: '0'.repeat(16) }] })),
      close: protocol,
    },
    {
      name: 'a commit that names a disk twice',
      act: (a) => {
        const [d] = a.commitMessage().disks;
        if (d !== undefined) a.say(a.commitMessage({ disks: [d, d] }));
      },
      close: protocol,
    },
    {
      name: 'hashes of an unknown disk',
      act: (a) => a.say({ type: 'hashes-request', disk: asDiskId('disk9'), segment: 0 }),
      close: protocol,
    },
    {
      name: 'hashes of a segment beyond the disk',
      act: (a) => a.say({ type: 'hashes-request', disk: DISK, segment: GEOMETRY.segmentCount }),
      close: protocol,
    },
    { name: 'a base for a disk that has points', act: data(chunkOf(some(1)), 1, 'sweep-base', 0), close: protocol },
  ];

  it.each(cases)('$name', async ({ act, close }) => {
    const { store } = await ground();
    const first = new TestAgent(store);
    await first.hello();
    await first.firstCopy(some(0, 1));
    await first.end();
    const agent = new TestAgent(store, first.model);
    await agent.hello(helloAt(1));
    agent.begin();
    act(agent);
    const closed = await agent.transport.closed;
    expect(closed.code).toBe(close.code);
    const refused = agent.transport.said.find((m) => m.type === 'refused');
    expect(refused).toMatchObject({ code: close.code });
    await agent.done;
    expect(await soundPoints(store)).toEqual([1]);
  });

  const hellos: readonly [string, ReturnType<typeof helloOf>][] = [
    ['a disk of no size', helloOf([{ ...HELLO_DISK, sizeBytes: 0 }])],
    ['a disk of an odd size', helloOf([{ ...HELLO_DISK, sizeBytes: HELLO_DISK.sizeBytes + 1 }])],
    ['odd blocks', helloOf([{ ...HELLO_DISK, blockBytes: 4097 }])],
    ['a disk twice', helloOf([HELLO_DISK, HELLO_DISK])],
  ];
  it.each(hellos)('hello with %s', async (_name, hello) => {
    const { store } = await ground();
    const agent = new TestAgent(store);
    agent.say(hello);
    expect((await agent.transport.closed).code).toBe(CLOSE.protocol.code);
    expect(await loadHead(store, MACHINE)).toBe(null);
  });

  it('anything before hello', async () => {
    for (const act of [
      (a: TestAgent) => a.data(some(1)),
      (a: TestAgent) => a.begin(),
      (a: TestAgent) => a.say(a.commitMessage()),
      (a: TestAgent) => a.say({ type: 'bye', reason: '' }),
    ]) {
      const { store } = await ground();
      const agent = new TestAgent(store);
      act(agent);
      expect((await agent.transport.closed).code).toBe(CLOSE.protocol.code);
      expect(await loadHead(store, MACHINE)).toBe(null);
    }
  });
});

describe('memory', () => {
  it('stops reading past the bound and goes on below half of it', async () => {
    const { store } = await ground();
    const agent = new TestAgent(store);
    await agent.hello();
    await agent.firstCopy(some(0));
    agent.begin();
    const many = CHUNK_PLAIN_BYTES_MAX / BLOCK_BYTES;
    // Incompressible, so that the frames are as large as they get.
    const blocks = new Map(
      Array.from({ length: many }, (_, n) => {
        const block = Buffer.alloc(BLOCK_BYTES);
        for (let i = 0; i < BLOCK_BYTES; i += 4) block.writeUInt32LE(Math.floor(random() * 2 ** 32), i);
        return [n, block] as const;
      }),
    );
    const frame = chunkOf(blocks);
    blocks.forEach((bytes, n) => agent.model.set(n, bytes));
    const sends = Math.ceil((INGEST_QUEUE_BYTES_MAX * 2) / frame.length);
    let highest = 0;
    // A well-behaved socket: nothing is delivered while paused.
    for (let i = 0; i < sends; i++) {
      while (agent.transport.paused) await new Promise((resolve) => setImmediate(resolve));
      agent.transport.deliver(dataMessage(frame, ++agent.sequence));
      highest = Math.max(highest, agent.status.queuedBytes);
    }
    expect(agent.transport.pauses).toBeGreaterThan(0);
    expect(highest).toBeLessThan(INGEST_QUEUE_BYTES_MAX + 2 * frame.length);
    expect(await agent.commit()).toBe(2);
    expect(agent.transport.resumes).toBe(agent.transport.pauses);
    await expect.poll(() => agent.status.queuedBytes).toBe(0);
    await agent.end();
  });
});

describe('two receivers on one store', () => {
  it('the one that was taken over can’t commit, and no point is lost', async () => {
    const { store, folder } = await ground();
    const other = await openStore(`file:${folder}`, { create: false });
    const old = new TestAgent(store);
    await old.hello();
    await old.firstCopy(some(0, 1));
    old.begin();
    old.data(some(2));
    const now = new TestAgent(other, new Map([...old.model].filter(([n]) => n !== 2)));
    expect(await now.hello(helloAt(1))).toMatchObject({ epoch: 2, lastPoint: 1 });
    old.say(old.commitMessage());
    expect((await old.transport.closed).code).toBe(CLOSE.fenced.code);
    now.begin();
    now.data(some(7));
    expect(await now.commit()).toBe(2);
    expect(await soundPoints(store)).toEqual([1, 2]);
    expect((await digestsOf(store, 2)).listed).toBe(now.digest);
    await old.done;
    await now.end();
  });

  it('takeovers and commits that race end in one line of points, each sound', async () => {
    const { store, folder } = await ground();
    const first = new TestAgent(store);
    await first.hello();
    await first.firstCopy(some(0, 1));
    await first.end();
    let committed = 1;
    let model = new Map(first.model);
    for (let round = 0; round < 15; round++) {
      const agents: TestAgent[] = [];
      for (let i = 0; i < 3; i++) agents.push(new TestAgent(await openStore(`file:${folder}`), new Map(model)));
      const results = await Promise.all(
        agents.map(async (agent, i) => {
          try {
            const { disks } = await agent.hello(helloAt(committed));
            // Another one committed before this one took over: its state is old, and it is told so.
            if (disks[0]?.verdict !== 'delta') return 'compare';
            agent.begin();
            agent.data(some(10 + i, 20 + round));
            return await agent.commit();
          } catch {
            return null;
          }
        }),
      );
      const points = await soundPoints(store);
      const winners = results.filter((point) => typeof point === 'number');
      expect(winners.every((point) => points.includes(point))).toBe(true);
      expect(new Set(winners).size).toBe(winners.length);
      expect(points).toEqual(points.map((_, i) => i + 1));
      for (const [i, agent] of agents.entries()) {
        if (results[i] === null) expect(agent.transport.end?.code).toBe(CLOSE.fenced.code);
        if (results[i] === points.length) model = new Map(agent.model);
        await agent.end();
      }
      committed = points.length;
    }
    expect(committed).toBeGreaterThan(5);
  });

  it('an agent whose generation ends between its refusal check and the takeover is refused', async () => {
    const { store } = await ground();
    const first = new TestAgent(store);
    await first.hello();
    await first.firstCopy(some(0));
    await first.end();
    // A failover by another receiver: a manifest of a newer generation, written while this one reads layers for its verdict.
    let raised = false;
    const slow = withHook(store, 'freeBytes', async () => {
      const head = await loadHead(store, MACHINE);
      if (raised || head === null) return;
      raised = true;
      const next = { ...head, number: head.number + 1, epoch: head.epoch + 1, generation: 2, writeId: 'other' };
      await store.createIfAbsent(manifestName(MACHINE, next.number), sealJson(next));
    });
    const late = new TestAgent(slow, first.model);
    late.say(helloAt(1));
    expect((await late.transport.closed).code).toBe(CLOSE.failedOver.code);
    expect(await loadHead(store, MACHINE)).toMatchObject({ generation: 2, lastPoint: 1 });
  });
});
