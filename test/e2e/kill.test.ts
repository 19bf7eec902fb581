/**
 * `kill -9` of agent and receiver at every named place (shared/failpoints.ts), while something writes to the disks. After a restart replication goes
 * on from what was durable, never with a full copy; every listed point restores to its digest; the last one equals the disks.
 */
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { AgentSnapshot } from '../../agent/status.js';
import { listMachines } from '../../receiver/catalog/machines.js';
import { FileStore } from '../../receiver/store/file-store.js';
import { SEGMENT_BYTES, SWEEP_SEGMENTS_IN_FLIGHT } from '../../shared/limits.js';
import { MIB, SECTOR_BYTES } from '../../shared/units.js';
import { canRunLab, Lab, sleep, WHY_NO_LAB } from './lab.js';
import type { Daemon } from './program.js';
import { fillRandomly, Scribbler } from './scribbler.js';

/** One segment more than are on their way at once, a part of each filled, and a disk that is a part of each point as well. */
const SEGMENTS = SWEEP_SEGMENTS_IN_FLIGHT + 1;
const DISKS = [SEGMENTS * SEGMENT_BYTES, 8 * MIB] as const;
const SEGMENT_FILL = 12 * MIB;
const FULL_COPY_BYTES = SEGMENTS * SEGMENT_FILL;
/** What goes over the wire after a restart that isn't a full copy: the segment at hand, twice, and what the scribbler wrote. */
const RESUMED_BYTES_MAX = FULL_COPY_BYTES / 4;
const REACH_LIMIT_MS = 45_000;

/** Kills never end in anything worse than these lines. */
const EXPECTED_NOISE = [
  /not connected to the receiver/,
  /session given up/,
  /a segment or commit was cut off/,
  /change tracking is in doubt/,
  /agent refused: already connected/,
  /recovery point skipped/,
];

const AGENT_CYCLE = [
  'agent.cycle.taken',
  'agent.cycle.streamed',
  'agent.cycle.cut',
  'agent.cycle.journaled',
  'agent.cycle.commit-sent',
  'agent.cycle.committed',
  'agent.cycle.applied',
] as const;
const AGENT_SWEEP = ['agent.sweep.segment-read', 'agent.sweep.segment-sent', 'agent.sweep.segment-staged'] as const;
const RECEIVER_CYCLE = [
  'receiver.ingest.chunk',
  'receiver.ingest.layer-open',
  'receiver.ingest.layer-finished',
  'receiver.commit.layers-durable',
  'receiver.commit.manifest-written',
  'receiver.commit.before-ack',
  'receiver.catalog.takeover',
] as const;
const RECEIVER_SWEEP = [
  'receiver.ingest.chunk',
  'receiver.ingest.layer-open',
  'receiver.ingest.layer-finished',
  'receiver.ingest.segment-staged',
  'receiver.catalog.takeover',
] as const;

/** Waits for a process to die at its fail point; one that isn't reached is an error of the test. */
async function untilKilled(daemon: Daemon, name: string): Promise<void> {
  const ended = await Promise.race([daemon.ended, sleep(REACH_LIMIT_MS)]);
  expect(ended, `${name} was not reached`).toMatchObject({ signal: 'SIGKILL' });
}

const sentBytes = (s: AgentSnapshot): number => s.disks.reduce((sum, d) => sum + d.counters.sentBytes, 0);

interface LogEntry {
  readonly pid: number;
  readonly msg: string;
  readonly disk?: string;
  readonly verdict?: string;
}

/** Log lines of one agent process. */
function linesOf(lab: Lab, daemon: Daemon | null): LogEntry[] {
  return readFileSync(lab.agentLog, 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as LogEntry)
    .filter((entry) => entry.pid === daemon?.pid);
}

/** Verdicts that this agent process got for a disk, in order. */
const verdictsOf = (lab: Lab, daemon: Daemon | null, disk = 0): string[] =>
  linesOf(lab, daemon)
    .filter((e) => e.msg.startsWith("receiver's verdict"))
    .filter((e) => e.disk === lab.diskIds[disk])
    .map((e) => e.msg.replace(/^.*: /, ''));

const trackingWentOn = (lab: Lab, daemon: Daemon | null): boolean =>
  linesOf(lab, daemon).filter((e) => e.msg === 'change tracking goes on').length === DISKS.length;

/** Connected, protected, and with a point after `point`. */
const untilPointAfter = (lab: Lab, point: number): Promise<AgentSnapshot> =>
  lab.until(
    `a point after ${point}`,
    (s) => s.receiver.connected && s.state === 'Protected' && (s.lastPoint?.number ?? 0) > point,
    60_000,
  );

/** As the store has it; asked after each kill, so without a program of ours that would take as long as a restart. */
async function lastPointOf(lab: Lab): Promise<number> {
  const store = await FileStore.open(lab.storeFolder);
  const [machine] = await listMachines(store);
  await store.close();
  if (machine === undefined || machine.problem !== null)
    throw new Error(machine?.problem ?? 'the store has no machine');
  return machine.manifest?.lastPoint ?? 0;
}

/** The last point equals the disks, and all points are restorable. */
async function expectWhole(lab: Lab, scribbler: Scribbler): Promise<void> {
  scribbler.pause();
  const { point } = await lab.syncNow();
  await lab.restore(point);
  for (const i of DISKS.keys()) expect(lab.differences(i), `disk ${i} at point ${point}`).toEqual([]);
  const verdicts = await lab.verifyAll();
  expect(verdicts.length).toBe(point);
  expect(verdicts.filter((v) => !v.restorable)).toEqual([]);
  expect(lab.unexpectedLines(EXPECTED_NOISE)).toEqual([]);
}

async function newLab(): Promise<{ lab: Lab; scribbler: Scribbler }> {
  const lab = await Lab.open({ disks: DISKS });
  const [disk] = lab.disks;
  if (disk === undefined) throw new Error('no disk');
  for (let segment = 0; segment < SEGMENTS; segment++)
    fillRandomly(disk, segment * SEGMENT_BYTES + 8 * MIB, SEGMENT_FILL);
  const scribbler = new Scribbler(disk);
  lab.undo(() => scribbler.close());
  return { lab, scribbler };
}

const armed = (name: string, pass = 1): { AFTERIMAGE_FAILPOINT: string } => ({
  AFTERIMAGE_FAILPOINT: `${name}:${pass}`,
});

it('every fail point is killed at, here or in the tests of its part', () => {
  const source = readFileSync(new URL('../../shared/failpoints.ts', import.meta.url), 'utf8');
  const named = [...source.matchAll(/^ {2}\| '([a-z.-]+)'/gm)].map((m) => m[1] ?? '');
  const tests = new URL('..', import.meta.url);
  const texts = readdirSync(tests, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ts'))
    .map((path) => readFileSync(new URL(path, tests), 'utf8'));
  expect(named.length).toBeGreaterThan(30);
  expect(named.filter((name) => !texts.some((text) => new RegExp(`['\`]${name}['\`:]`).test(text)))).toEqual([]);
});

describe.skipIf(!canRunLab)(`killed in a cycle or comparison (${WHY_NO_LAB})`, () => {
  let lab: Lab;
  let scribbler: Scribbler;
  beforeAll(async () => {
    ({ lab, scribbler } = await newLab());
    await lab.setUp();
    scribbler.start();
  }, 120_000);
  afterAll(() => lab?.cleanUp(), 60_000);

  it.each(AGENT_CYCLE)('agent at %s', { timeout: 120_000 }, async (name) => {
    await lab.agent?.stop();
    await untilKilled(await lab.startAgent(armed(name)), name);
    const point = await lastPointOf(lab);
    await sleep(100);
    const agent = await lab.startAgent();
    const status = await untilPointAfter(lab, point);
    expect(trackingWentOn(lab, agent)).toBe(true);
    expect(verdictsOf(lab, agent)[0]).toMatch(/^(delta|nothing)$/);
    expect(sentBytes(status)).toBeLessThan(RESUMED_BYTES_MAX);
  });

  it.each(RECEIVER_CYCLE)('receiver at %s', { timeout: 120_000 }, async (name) => {
    await lab.receiver?.stop();
    const before = await lab.status();
    await untilKilled(await lab.startReceiver(armed(name)), name);
    const point = await lastPointOf(lab);
    await sleep(100);
    await lab.startReceiver();
    const status = await untilPointAfter(lab, point);
    expect(new Set(verdictsOf(lab, lab.agent))).not.toContain('full');
    expect(new Set(verdictsOf(lab, lab.agent))).not.toContain('compare');
    expect(sentBytes(status) - sentBytes(before)).toBeLessThan(RESUMED_BYTES_MAX);
  });

  /** Tracking is lost (as at a reboot) and things were written: a comparison is due. */
  const loseTracking = async (): Promise<void> => {
    await lab.agent?.stop();
    rmSync(lab.pinDirectory, { recursive: true, force: true });
    expect(existsSync(lab.pinDirectory)).toBe(false);
    await sleep(200);
  };

  it.each(AGENT_SWEEP)('agent in a comparison at %s', { timeout: 120_000 }, async (name) => {
    await loseTracking();
    await untilKilled(await lab.startAgent(armed(name, 2)), name);
    const point = await lastPointOf(lab);
    const agent = await lab.startAgent();
    const status = await untilPointAfter(lab, point);
    expect(trackingWentOn(lab, agent)).toBe(true);
    expect(verdictsOf(lab, agent)[0]).toBe('resume');
    expect(sentBytes(status)).toBeLessThan(RESUMED_BYTES_MAX);
  });

  it.each(RECEIVER_SWEEP)('receiver in a comparison at %s', { timeout: 120_000 }, async (name) => {
    await loseTracking();
    await lab.receiver?.stop();
    await lab.startReceiver(armed(name));
    const agent = await lab.startAgent();
    if (lab.receiver !== null) await untilKilled(lab.receiver, name);
    const point = await lastPointOf(lab);
    await lab.startReceiver();
    const status = await untilPointAfter(lab, point);
    expect(verdictsOf(lab, agent)).not.toContain('full');
    expect(sentBytes(status)).toBeLessThan(RESUMED_BYTES_MAX);
  });

  it('tracking lost again in the middle of a comparison begins it anew', { timeout: 120_000 }, async () => {
    await loseTracking();
    const name = 'agent.sweep.segment-staged';
    await untilKilled(await lab.startAgent(armed(name, 2)), name);
    rmSync(lab.pinDirectory, { recursive: true, force: true });
    // Into a segment that was compared already, unseen.
    const [disk] = lab.disks;
    if (disk !== undefined) fillRandomly(disk, 4 * MIB, 64 * SECTOR_BYTES);
    const point = await lastPointOf(lab);
    const agent = await lab.startAgent();
    await untilPointAfter(lab, point);
    expect(trackingWentOn(lab, agent)).toBe(false);
  });

  it('and after all that, every point restores and the last equals the disks', { timeout: 120_000 }, async () => {
    await expectWhole(lab, scribbler);
  });
});

describe.skipIf(!canRunLab)(`killed in the first copy (${WHY_NO_LAB})`, () => {
  let lab: Lab | undefined;
  let scribbler: Scribbler;
  const prepare = async (): Promise<Lab> => {
    const made = await newLab();
    lab = made.lab;
    scribbler = made.scribbler;
    scribbler.start();
    return lab;
  };
  const cleanUp = async (): Promise<void> => {
    await lab?.cleanUp();
    lab = undefined;
  };

  /** Enrolled and protected, nothing copied yet. */
  const enrolled = async (): Promise<Lab> => {
    const it = await prepare();
    await it.startReceiver();
    await it.enrol();
    await it.protect();
    return it;
  };

  // The pass by which the first segment is staged, so that something is to be resumed: of reads and sends the last, as others are on their way before it.
  it.each([
    ['agent', 'agent.sweep.segment-read', SEGMENTS],
    ['agent', 'agent.sweep.segment-sent', SEGMENTS],
    ['agent', 'agent.sweep.segment-staged', 3],
    ['receiver', 'receiver.ingest.segment-staged', 3],
    ['receiver', 'receiver.ingest.layer-finished', 3],
  ] as const)('%s at %s', { timeout: 120_000 }, async (who, name, pass) => {
    try {
      const lab = await enrolled();
      if (who === 'receiver') {
        await lab.receiver?.stop();
        await lab.startReceiver(armed(name, pass));
        await lab.startAgent();
        if (lab.receiver !== null) await untilKilled(lab.receiver, name);
        await lab.startReceiver();
      } else {
        await untilKilled(await lab.startAgent(armed(name, pass)), name);
        await lab.startAgent();
      }
      const status = await untilPointAfter(lab, 0);
      const verdicts = verdictsOf(lab, lab.agent);
      expect(verdicts.at(-1)).toBe('resume');
      // One segment at least was staged and not sent again.
      const copies = who === 'receiver' ? 2 : 1;
      expect(sentBytes(status)).toBeLessThan(FULL_COPY_BYTES * copies - SEGMENT_FILL / 2);
      await expectWhole(lab, scribbler);
    } finally {
      await cleanUp();
    }
  });

  it.each(['first copy at its second segment', 'first copy done, its point not made'] as const)(
    'tracking lost after the kill: %s',
    { timeout: 120_000 },
    async (when) => {
      try {
        const lab = await enrolled();
        const name =
          when === 'first copy done, its point not made' ? 'agent.cycle.taken' : 'agent.sweep.segment-staged';
        await untilKilled(await lab.startAgent(armed(name)), name);
        rmSync(lab.pinDirectory, { recursive: true, force: true });
        const [disk] = lab.disks;
        // Into what was copied already, while nobody tracks.
        if (disk !== undefined) fillRandomly(disk, 10 * MIB, 64 * SECTOR_BYTES);
        await lab.startAgent();
        await untilPointAfter(lab, 0);
        await expectWhole(lab, scribbler);
      } finally {
        await cleanUp();
      }
    },
  );
});
