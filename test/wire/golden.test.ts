/**
 * Golden messages: bytes of protocol version 2, checked in. Today's code must read them, and write the same bytes.
 * To make them anew after a deliberate change of the version: AFTERIMAGE_WRITE_GOLDEN=1.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { asDiskId, asMachineId, asSeriesId } from '../../shared/units.js';
import { CLOSE } from '../../shared/wire/close-codes.js';
import {
  DATA_HEADER_BYTES,
  decodeAgentMessage,
  decodeDataHeader,
  decodeReceiverMessage,
  encodeControl,
  encodeDataHeader,
  PROTOCOL_VERSION,
  type AgentMessage,
  type DataHeader,
  type ReceiverMessage,
} from '../../shared/wire/messages.js';

const FOLDER = new URL('../golden/', import.meta.url);
const MACHINE = asMachineId('11111111-2222-4333-8444-555555555555');
const CYCLE = '22222222-2222-4333-8444-555555555555';
const SERIES = asSeriesId('aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeee1');
const DISK = asDiskId('naa.600508b1001c-p2048');

async function golden(name: string, bytes: Buffer): Promise<Buffer> {
  const file = new URL(name, FOLDER);
  if (process.env['AFTERIMAGE_WRITE_GOLDEN'] === '1') {
    await mkdir(FOLDER, { recursive: true });
    await writeFile(file, bytes);
  }
  return readFile(file);
}

const AGENT: readonly AgentMessage[] = [
  {
    type: 'hello',
    protocol: PROTOCOL_VERSION,
    program: 'afterimage-agent 0.1.0',
    machine: MACHINE,
    generation: 2,
    hardwareId: 'ab'.repeat(32),
    session: CYCLE,
    description: {
      hostname: 'web1',
      os: 'Debian GNU/Linux 13 (trixie) – für Tests',
      cpus: 64,
      memoryBytes: 2 ** 40,
      firmware: 'uefi',
      nics: [{ name: 'eth0', mac: '02:00:00:00:00:01', addresses: ['192.0.2.7/24', '2001:db8::7/64'] }],
    },
    inDoubtCycle: CYCLE,
    disks: [
      {
        id: DISK,
        device: '/dev/sda1',
        sizeBytes: 2 ** 45,
        blockBytes: 65_536,
        series: SERIES,
        tracker: 'ebpf',
        committedPoint: 4_294_967_296,
        committedSeries: SERIES,
        changedBlocks: 123_456,
        hashStore: 'valid',
        sweep: { kind: 'comparison', nextSegment: 70_000, stagedLayers: 12 },
      },
      {
        id: asDiskId('d'),
        device: '/images/a.raw',
        sizeBytes: 2 ** 20,
        blockBytes: 4096,
        series: null,
        tracker: 'scan',
        committedPoint: 0,
        committedSeries: null,
        changedBlocks: 0,
        hashStore: 'none',
        sweep: null,
      },
    ],
  },
  { type: 'cycle-begin', cycle: CYCLE },
  { type: 'segment-end', disk: DISK, segment: 65_535, target: 'sweep-delta', sequence: 2 ** 33 },
  {
    type: 'commit',
    cycle: CYCLE,
    cutAtMs: 1_772_000_000_123,
    consistency: 'filesystem',
    reason: 'cut not reached without a pause in 2000 ms: filesystems frozen for 12 ms',
    disks: [{ disk: DISK, series: SERIES, digest: '0123456789abcdef' }],
    lastSequence: 17,
    stats: { passes: 3, cutMs: 1.25, freezeMs: 12.5, changedBytes: 40_960 },
  },
  { type: 'hashes-request', disk: DISK, segment: 3 },
  {
    type: 'progress',
    disks: [{ disk: DISK, state: 'Protected', percent: 99.5, dataAtRiskBytes: 2 ** 40, dataAtRiskMs: 4711 }],
  },
  { type: 'bye', reason: 'the agent is stopping' },
  { type: 'final-cut-step', request: 1, step: 'last cut', detail: 'point 4712' },
  { type: 'final-cut-done', request: 1, ok: false, point: 0, reason: 'the disks are still being written' },
  { type: 'home-resumed', request: 2 },
  {
    type: 'changed-segments',
    request: 3,
    disk: DISK,
    point: 4720,
    base: { point: 4711, digest: 'fedcba9876543210' },
  },
  {
    type: 'differences',
    request: 4,
    disk: DISK,
    point: 4720,
    base: null,
    segment: 7,
    also: new Uint8Array([1, 128]),
    digest: '0123456789abcdef',
  },
  { type: 'blocks-request', request: 5, disk: DISK, point: 4720, segment: 7, blocks: new Uint8Array([0, 3]) },
  { type: 'restore-step', goal: 6, step: 'pulling', detail: '/dev/sda: segment 1 of 9', percent: 11.1 },
  {
    type: 'restored',
    goal: 6,
    point: 4720,
    disks: [
      {
        disk: DISK,
        digest: '0123456789abcdef',
        series: SERIES,
        reason: 'tracked since point 4711',
        readBytes: 4096,
        writtenBytes: 8192,
      },
    ],
  },
  { type: 'resent', request: 7, point: 4721 },
  { type: 'group-reached', request: 8, step: 'frozen' },
  { type: 'group-failed', request: 8, reason: 'hook 20-bad: exit code 7' },
  { type: 'restore-failed', goal: 6, code: 'disk-in-use', reason: '/dev/sda is mounted on /srv', hint: 'Unmount it.' },
];

/** What was added to messages later and may be absent: with a name of its own. */
const AGENT_WITH_MORE: Readonly<Record<string, AgentMessage>> = {
  'commit-application': {
    type: 'commit',
    cycle: CYCLE,
    cutAtMs: 1_772_000_000_123,
    consistency: 'filesystem',
    reason: 'not application-consistent: hook 20-web: exit code 7; filesystems frozen for 12 ms',
    label: 'before the move – für alle',
    quiesce: {
      asked: 'application',
      weaker: 'not application-consistent: hook 20-web: exit code 7',
      totalMs: 1011,
      heldMs: 227,
      filesystems: ['/srv/data', '/'],
      applications: [
        { name: 'main', detail: 'PostgreSQL 15.18: checkpoint at 0/17D14B0; restore point "x" at 0/17F9968' },
      ],
      hooks: [
        { name: '10-app', phase: 'pre', failure: null, tookMs: 12, output: ['flushed'] },
        { name: '20-web', phase: 'pre', failure: 'exit code 7', tookMs: 3, output: [] },
        { name: '10-app', phase: 'abort', failure: null, tookMs: 1.5, output: [] },
      ],
      omitted: '3 hooks, applications or filesystems; the log has all',
    },
    disks: [{ disk: DISK, series: SERIES, digest: '0123456789abcdef' }],
    lastSequence: 17,
    stats: { passes: 3, cutMs: 1.25, freezeMs: 12.5, changedBytes: 40_960 },
  },
};

const RECEIVER: readonly ReceiverMessage[] = [
  {
    type: 'welcome',
    protocol: PROTOCOL_VERSION,
    program: 'afterimage-receiver 0.1.0',
    mode: 'replicate',
    generation: 3,
    holdWorkload: false,
    epoch: 9,
    windowBytes: 16 * 2 ** 20,
    lastPoint: 4711,
    lastCycle: CYCLE,
    disks: [
      {
        disk: DISK,
        verdict: 'delta',
        reason: 'changes since point 4711 are tracked',
        committedPoint: 4711,
        digest: 'fedcba9876543210',
        stagedLayers: 0,
      },
    ],
  },
  {
    type: 'redirect',
    to: { id: CYCLE, name: 'dr2', addresses: ['dr2.example.com:7443', '[2001:db8::7]:7443'] },
    reason: 'its share of 2 receivers',
  },
  {
    type: 'fleet',
    self: CYCLE,
    receivers: [{ id: CYCLE, name: 'dr2', addresses: ['dr2.example.com:7443'] }],
  },
  {
    type: 'refused',
    code: CLOSE.clone.code,
    reason: 'this identity was enrolled on other hardware',
    hint: CLOSE.clone.hint,
  },
  { type: 'ack', receivedBytes: 2 ** 41, stagedSequence: 12, committedPoint: 4711 },
  { type: 'committed', cycle: CYCLE, point: 4712, storedBytes: 8192 },
  { type: 'policy', intervalMs: 30_000, applicationIntervalMs: null },
  { type: 'hashes', disk: DISK, segment: 3, hashes: new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8]) },
  { type: 'final-cut', request: 1, hookTimeoutMs: 300_000 },
  { type: 'final-cut-resume', request: 2 },
  {
    type: 'restore-goal',
    goal: 6,
    point: 4720,
    final: true,
    disks: [{ disk: DISK, sizeBytes: 2 ** 45, blockBytes: 65_536, digest: '0123456789abcdef' }],
  },
  { type: 'restore-stop', goal: 6 },
  { type: 'changed-segments', request: 3, segments: null, reason: 'point 4711 is not listed any more' },
  { type: 'differences', request: 4, candidates: new Uint8Array([1]), hashes: new Uint8Array(8) },
  { type: 'blocks-end', request: 5 },
  {
    type: 'resend',
    request: 7,
    disk: DISK,
    extents: [
      [0, 1],
      [4_711, 300],
    ],
  },
  { type: 'group-point', request: 8, name: 'shop', consistency: 'application', label: 'vor dem Umzug – für Tests' },
  { type: 'group-go', request: 8, step: 'freeze' },
  {
    type: 'group-thaw',
    request: 8,
    record: {
      point: CYCLE,
      group: '33333333-2222-4333-8444-555555555555',
      name: 'shop',
      members: [MACHINE, asMachineId('99999999-2222-4333-8444-555555555555')],
      cutFromMs: 1_772_000_000_123,
      cutToMs: 1_772_000_000_150,
      skewMs: 27,
      frozenMs: 80.5,
    },
  },
  { type: 'group-abort', request: 8, reason: 'db was not frozen within 12 s' },
];

const HEADERS: readonly DataHeader[] = [
  { diskIndex: 0, target: 'cycle', segment: null, sequence: 1 },
  { diskIndex: 63, target: 'sweep-base', segment: 524_287, sequence: 2 ** 40 },
  { diskIndex: 7, target: 'sweep-delta', segment: 0, sequence: Number.MAX_SAFE_INTEGER },
  { diskIndex: 1, target: 'restore', segment: 12, sequence: 5 },
];

/** Bytes come back as a Buffer: the same bytes. */
const plain = (message: object): object =>
  Object.fromEntries(Object.entries(message).map(([k, v]) => [k, v instanceof Uint8Array ? [...v] : (v as unknown)]));

describe('golden messages, version 2', () => {
  it.each(AGENT)('agent: $type', async (message) => {
    const bytes = encodeControl(message);
    const kept = await golden(`wire-v2-agent-${message.type}.bin`, bytes);
    expect(plain(decodeAgentMessage(kept))).toEqual(plain(message));
    expect(bytes.equals(kept)).toBe(true);
    expect(() => decodeReceiverMessage(kept)).toThrow('protocol error');
  });

  it.each(Object.entries(AGENT_WITH_MORE))('agent: %s', async (name, message) => {
    const bytes = encodeControl(message);
    const kept = await golden(`wire-v2-agent-${name}.bin`, bytes);
    expect(decodeAgentMessage(kept)).toEqual(message);
    expect(bytes.equals(kept)).toBe(true);
  });

  it.each(RECEIVER)('receiver: $type', async (message) => {
    const bytes = encodeControl(message);
    const kept = await golden(`wire-v2-receiver-${message.type}.bin`, bytes);
    expect(plain(decodeReceiverMessage(kept))).toEqual(plain(message));
    expect(bytes.equals(kept)).toBe(true);
    expect(() => decodeAgentMessage(kept)).toThrow('protocol error');
  });

  it('a hello of an agent that was redirected says so, and one that was not is as it ever was', () => {
    const [hello] = AGENT;
    if (hello?.type !== 'hello') throw new Error('no hello');
    const route = { redirects: 1, unreachable: [CYCLE] };
    expect(decodeAgentMessage(encodeControl({ ...hello, route }))).toEqual({ ...hello, route });
    const bad = { redirects: -1, unreachable: [] };
    expect(() => decodeAgentMessage(encodeControl({ ...hello, route: bad }))).toThrow('protocol error');
  });

  it('data headers', async () => {
    const bytes = Buffer.alloc(HEADERS.length * DATA_HEADER_BYTES);
    HEADERS.forEach((header, i) => encodeDataHeader(bytes.subarray(i * DATA_HEADER_BYTES), header));
    const kept = await golden('wire-v2-data-headers.bin', bytes);
    expect(bytes.equals(kept)).toBe(true);
    HEADERS.forEach((header, i) => {
      const one = kept.subarray(i * DATA_HEADER_BYTES, (i + 1) * DATA_HEADER_BYTES);
      // A header alone is no message: a chunk follows.
      expect(() => decodeDataHeader(one)).toThrow('data message of 16 bytes');
      expect(decodeDataHeader(Buffer.concat([one, Buffer.from([0])]))).toEqual(header);
    });
  });

  it('every close code is of the private range or 1001, has one name and says what to do', () => {
    const all = Object.values(CLOSE);
    expect(new Set(all.map((c) => c.code)).size).toBe(all.length);
    expect(new Set(all.map((c) => c.name)).size).toBe(all.length);
    for (const { code, name, hint } of all) {
      expect(code === 1001 || (code >= 4000 && code <= 4999)).toBe(true);
      expect(name.length).toBeLessThan(60);
      expect(hint.length).toBeGreaterThan(10);
    }
  });
});
