/**
 * Hostile and damaged messages against the receiver's session, thousands of them, from a seed (AFTERIMAGE_FUZZ_SEED replays one run).
 * Whatever arrives: no crash, no hang, no commit of what doesn't add up; the session ends with `protocol error` or `corrupt data`, or goes on.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Packr } from 'msgpackr';
import { afterAll, describe, expect, it } from 'vitest';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { AfterimageError } from '../../shared/errors.js';
import { decodeChunkHeader } from '../../shared/layer/chunk.js';
import { CLOSE } from '../../shared/wire/close-codes.js';
import {
  DATA_HEADER_BYTES,
  decodeAgentMessage,
  decodeDataHeader,
  decodeReceiverMessage,
  encodeControl,
  TAG_CONTROL,
  type AgentMessage,
} from '../../shared/wire/messages.js';
import { between, randomOf, type Random } from '../helpers/random.js';
import {
  blockBytes,
  chunkOf,
  dataMessage,
  DISK,
  HELLO_DISK,
  helloOf,
  SERIES,
  soundPoints,
  TestAgent,
} from './ingest-fixture.js';

const SEED = Number(process.env['AFTERIMAGE_FUZZ_SEED'] ?? 20_260_301);
const SESSIONS = 1200;
const SESSIONS_PER_STORE = 100;
const DECODES = 40_000;
const HANG_MS = 10_000;

// Thousands of small durable writes: in memory where there is any.
const BASE = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
const folders: string[] = [];
afterAll(async () => {
  for (const folder of folders) await rm(folder, { recursive: true, force: true });
});

async function newStore(): Promise<ObjectStore> {
  const folder = await mkdtemp(join(BASE, 'afterimage-fuzz-'));
  folders.push(folder);
  return openStore(`file:${folder}/store`, { create: true });
}

const packr = new Packr({ useRecords: false });
const randomBytes = (random: Random, length: number): Buffer =>
  Buffer.from(Array.from({ length }, () => between(random, 0, 256)));

/** One to four flips, cuts, insertions or doublings of bytes. */
function damage(random: Random, bytes: Buffer, from = 0): Buffer {
  let out: Buffer = Buffer.from(bytes);
  for (let n = between(random, 1, 5); n > 0; n--) {
    const at = between(random, from, Math.max(from + 1, out.length));
    const kind = between(random, 0, 5);
    if (kind === 0) out = out.subarray(0, at);
    else if (kind === 1) out = Buffer.concat([out.subarray(0, at), randomBytes(random, 3), out.subarray(at)]);
    else if (kind === 2) out = Buffer.concat([out.subarray(0, at), out.subarray(Math.min(out.length, at + 2))]);
    else if (at < out.length)
      out[at] = kind === 3 ? between(random, 0, 256) : (out[at] ?? 0) ^ (1 << between(random, 0, 8));
  }
  return out;
}

const ODD: readonly unknown[] = [
  null,
  -1,
  0,
  0.5,
  2 ** 31,
  2 ** 53,
  NaN,
  Infinity,
  '',
  'x'.repeat(5000),
  '../../etc/passwd',
  'disk0',
  [],
  {},
  [[[[]]]],
  true,
  Buffer.alloc(10),
  { __proto__: null, toString: 1 },
];

/** The message with one value, at any depth, replaced by an odd one, taken away, or joined by a stranger. */
function distort(random: Random, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || between(random, 0, 5) === 0)
    return ODD[between(random, 0, ODD.length)];
  if (Array.isArray(value)) {
    if (value.length === 0 || between(random, 0, 4) === 0)
      return [...(value as unknown[]), ODD[between(random, 0, ODD.length)]];
    const at = between(random, 0, value.length);
    return (value as unknown[]).map((item, i) => (i === at ? distort(random, item) : item));
  }
  const entries = Object.entries(value);
  const at = between(random, 0, entries.length + 1);
  if (at === entries.length) return { ...value, stranger: 1 };
  const kept = entries.filter((_, i) => i !== at || between(random, 0, 4) > 0);
  return Object.fromEntries(kept.map(([key, item], i) => [key, i === at ? distort(random, item) : item]));
}

const control = (value: unknown): Buffer => Buffer.concat([Buffer.from([TAG_CONTROL]), packr.pack(value)]);

/** One message of each type, as the agent in this state would say it. */
function messages(agent: TestAgent): AgentMessage[] {
  return [
    helloOf(),
    { type: 'cycle-begin', cycle: agent.cycle },
    { type: 'segment-end', disk: DISK, segment: 1, target: 'sweep-delta', sequence: agent.sequence + 1 },
    agent.commitMessage(),
    { type: 'hashes-request', disk: DISK, segment: 0 },
    { type: 'progress', disks: [{ disk: DISK, state: 'Protected', percent: 1, dataAtRiskBytes: 1, dataAtRiskMs: 1 }] },
    { type: 'bye', reason: 'test' },
  ];
}

interface Attack {
  readonly what: string;
  readonly bytes: Buffer;
  /** Damage that a checksum or the schema must find: the session has to end. */
  readonly mustEnd: boolean;
}

function attackOf(random: Random, agent: TestAgent): Attack {
  const kind = between(random, 0, 6);
  if (kind === 0) return { what: 'random bytes', bytes: randomBytes(random, between(random, 0, 400)), mustEnd: true };
  if (kind === 1) {
    const tag = Buffer.from([between(random, 1, 3)]);
    return {
      what: 'tagged random bytes',
      bytes: Buffer.concat([tag, randomBytes(random, between(random, 0, 400))]),
      mustEnd: true,
    };
  }
  const said = messages(agent);
  const message = said[between(random, 0, said.length)] as AgentMessage;
  if (kind === 2)
    return { what: `distorted ${message.type}`, bytes: control(distort(random, message)), mustEnd: false };
  if (kind === 3)
    return { what: `damaged ${message.type}`, bytes: damage(random, encodeControl(message), 1), mustEnd: false };
  const blocks = new Map(Array.from({ length: between(random, 1, 8) }, (_, i) => [i * 3, blockBytes(random)] as const));
  const sweep = between(random, 0, 2) === 0;
  const whole = dataMessage(chunkOf(blocks), agent.sequence + 1, sweep ? 'sweep-delta' : 'cycle', sweep ? 0 : null);
  const bytes = damage(random, whole);
  return { what: 'damaged data', bytes, mustEnd: !bytes.equals(whole) };
}

/** Whether the message is one that an agent might have meant: then the session may do what it says. */
function isWellFormed(bytes: Buffer): boolean {
  try {
    decodeAgentMessage(bytes);
    return bytes[0] === TAG_CONTROL;
  } catch {
    return false;
  }
}

const ALLOWED: readonly number[] = [CLOSE.protocol.code, CLOSE.corruptData.code];

async function withLimit<T>(what: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`hangs: ${what}`)), HANG_MS);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

describe(`a session under attack, seed ${SEED}`, () => {
  it(
    `${SESSIONS} sessions end with a reason or go on, and commit nothing that doesn’t add up`,
    { timeout: 120_000 },
    async () => {
      const random = randomOf(SEED);
      let ended = 0;
      for (let n = 0; n < SESSIONS;) {
        const store = await newStore();
        const first = new TestAgent(store);
        await first.hello();
        await first.firstCopy(new Map([[0, blockBytes(random)]]));
        await first.end();
        let points = 1;
        const model = first.model;
        for (const until = n + SESSIONS_PER_STORE; n < until; n++) {
          const agent = new TestAgent(store, new Map(model));
          const at = { ...HELLO_DISK, committedPoint: points, committedSeries: SERIES, changedBlocks: 1 };
          const sayHello = between(random, 0, 10) > 0;
          if (sayHello) {
            await agent.hello(helloOf([at]));
            agent.begin();
            if (between(random, 0, 2) === 0) agent.data(new Map([[between(random, 100, 200), blockBytes(random)]]));
          }
          const { what, bytes, mustEnd } = attackOf(random, agent);
          const where = `case ${n}: ${what}, ${bytes.subarray(0, 40).toString('hex')}`;
          const wellFormed = isWellFormed(bytes);
          agent.transport.deliver(bytes);
          // What follows a message that ended the session must go nowhere; after one that didn't, the session still works or says why not.
          if (!wellFormed) agent.say(agent.commitMessage());
          else agent.say({ type: 'bye', reason: 'end' });
          if (mustEnd || !wellFormed) {
            const closed = await withLimit(where, agent.transport.closed);
            expect(ALLOWED, where).toContain(closed.code);
            ended++;
          }
          await withLimit(where, agent.end());
          const code = agent.transport.end?.code ?? 0;
          if (code !== 1006)
            expect(
              [
                ...ALLOWED,
                CLOSE.version.code,
                CLOSE.badCertificate.code,
                CLOSE.failedOver.code,
                CLOSE.clone.code,
                CLOSE.unrelated.code,
              ],
              where,
            ).toContain(code);
          const now = await soundPointsBut(store, wellFormed);
          if (!wellFormed) expect(now, where).toBe(points);
          if (now !== points) {
            // A distorted commit that was still well formed (another reason, time or cycle) was one: go on in a new store.
            expect(now, where).toBe(points + 1);
            break;
          }
          points = now;
        }
      }
      expect(ended).toBeGreaterThan(SESSIONS / 3);
    },
  );
});

/** How many points are listed; -1 when one doesn't add up and the agent may have said so. */
async function soundPointsBut(store: ObjectStore, mayLie: boolean): Promise<number> {
  const points = await soundPoints(store).catch((error: unknown) => {
    if (mayLie) return null;
    throw error;
  });
  return points === null ? -1 : points.length;
}

describe(`decoders, seed ${SEED}`, () => {
  const only = (codes: readonly string[], work: () => unknown, what: string): void => {
    try {
      work();
    } catch (error) {
      if (error instanceof AfterimageError && codes.includes(error.code)) return;
      throw new Error(`${what}: ${String(error)}`, { cause: error });
    }
  };

  it(`${DECODES} damaged messages are refused as protocol errors or damaged chunks`, () => {
    const random = randomOf(SEED + 1);
    const agent = {
      commitMessage: TestAgent.prototype.commitMessage,
      cycle: SERIES,
      sequence: 3,
      digest: '0'.repeat(16),
    };
    const controls = messages(agent as unknown as TestAgent).map((m) => encodeControl(m));
    const data = dataMessage(
      chunkOf(
        new Map([
          [1, blockBytes(random)],
          [2, null],
          [9, blockBytes(random)],
        ]),
      ),
      4,
    );
    for (let n = 0; n < DECODES; n++) {
      const source = between(random, 0, 3);
      const original = controls[between(random, 0, controls.length)] ?? data;
      const bytes =
        source === 0 ? randomBytes(random, between(random, 0, 64)) : damage(random, source === 1 ? original : data);
      const hex = `case ${n}: ${bytes.toString('hex').slice(0, 200)}`;
      only(['protocol'], () => decodeAgentMessage(bytes), hex);
      only(['protocol'], () => decodeReceiverMessage(bytes), hex);
      only(['protocol'], () => decodeDataHeader(bytes), hex);
      only(['chunk-checksum', 'chunk-malformed'], () => decodeChunkHeader(bytes.subarray(DATA_HEADER_BYTES)), hex);
      only(['chunk-malformed'], () => decodeChunkHeader(bytes.subarray(DATA_HEADER_BYTES), false), hex);
    }
  });
});
