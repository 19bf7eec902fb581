/** What is done to a machine, undisturbed or with a process that dies, and how it ends. */
import type { OperationInput } from '../../receiver/failover/operations.js';
import { operationRequestSchema } from '../../receiver/failover/operations.js';
import { copiesFolder, copiesIn, MACHINE, Process, World, type ProcessOptions } from './fakes.js';

export interface Scenario {
  readonly name: string;
  readonly before: readonly OperationInput[];
  readonly request: OperationInput;
  readonly world?: (world: World) => void;
  /** Between what comes before and the operation. */
  readonly then?: (world: World) => unknown;
}

const failover: OperationInput = { operation: 'failover' };
const bootCheck = { type: 'serial' as const, text: 'login:', timeoutMs: 1000 };

export const SCENARIOS: readonly Scenario[] = [
  { name: 'failover', before: [], request: { ...failover, bootCheck } },
  { name: 'failover to an older point', before: [], request: { ...failover, point: '2' } },
  { name: 'failover with shutdown and commit', before: [], request: { ...failover, shutdown: true, commit: true } },
  { name: 'planned failover', before: [], request: { operation: 'planned-failover' } },
  { name: 'test failover', before: [], request: { operation: 'test-failover', bootCheck } },
  { name: 'cleanup', before: [{ operation: 'test-failover' }], request: { operation: 'cleanup', notes: 'fine' } },
  { name: 'commit', before: [failover], request: { operation: 'commit' } },
  { name: 'change of the point', before: [failover], request: { operation: 'change-point', point: '1' } },
  { name: 'cancel', before: [failover], request: { operation: 'cancel' } },
  {
    name: 'reprotect',
    before: [failover, { operation: 'commit' }],
    request: { operation: 'reprotect' },
    then: (world) => (world.home.state = 'restoring'),
  },
  {
    name: 'failback',
    before: [failover, { operation: 'commit' }],
    request: { operation: 'failback' },
    then: (world) => (world.home.state = 'restoring'),
  },
  {
    name: 'failback of a planned failover',
    before: [{ operation: 'planned-failover' }],
    request: { operation: 'failback' },
    then: (world) => (world.home.state = 'restoring'),
  },
  {
    name: 'failover whose guest does not start',
    before: [],
    request: failover,
    then: (world) => (world.startFails = 1000),
  },
  {
    name: 'failback whose last restore fails',
    before: [failover, { operation: 'commit' }, { operation: 'reprotect' }],
    request: { operation: 'failback' },
    world: (world) => (world.home.state = 'restoring'),
    then: (world) => (world.home.restoreFails = 1000),
  },
  {
    name: 'reprotect while a disk at home is away',
    before: [failover, { operation: 'commit' }],
    request: { operation: 'reprotect' },
    then: (world) => Object.assign(world.home, { state: 'restoring', isDiskAway: true }),
  },
  {
    name: 'failback while a disk at home is away',
    before: [failover, { operation: 'commit' }],
    request: { operation: 'failback' },
    then: (world) => Object.assign(world.home, { state: 'restoring', isDiskAway: true }),
  },
  {
    name: 'planned failover while something is damaged',
    before: [],
    request: { operation: 'planned-failover' },
    then: (world) => world.damage(2),
  },
  {
    name: 'planned failover without a last cut',
    before: [],
    request: { operation: 'planned-failover' },
    world: (world) => (world.home.finalCutFails = true),
  },
];

export interface Run {
  readonly world: World;
  readonly folder: string;
  readonly end: Readonly<Record<string, unknown>>;
  /** Steps of the process that was disturbed. */
  readonly steps: number;
  readonly log: readonly string[];
  /** Numbers of the steps that changed something. */
  readonly changes: readonly number[];
}

export async function perform(process: Process, request: OperationInput): Promise<void> {
  await process.engine.begin(MACHINE, operationRequestSchema.parse(request));
  await process.engine.settled(MACHINE);
}

const READS = /^(get|list|folders|head|read|content|problems|state|boot check)\b/;
/** Steps that changed something: being killed at one that only read is being killed after the change before. */
export const changesOf = (log: readonly string[]): number[] =>
  log.flatMap((what, step) => (READS.test(what) ? [] : [step]));

async function endOf(world: World, folder: string): Promise<Run['end']> {
  const recovery = await world.recovery();
  const manifest = await world.manifest();
  const running = [...world.guests.values()].filter((g) => g.running);
  return {
    state: recovery?.state,
    location: recovery?.activeLocation,
    home: recovery?.home.mode,
    homeGeneration: recovery?.home.mode === 'replicate' && recovery.home.generation === manifest.generation,
    test: recovery?.testFailover.state,
    failover: recovery?.failover !== null,
    point: recovery?.failover?.point,
    testCopy: recovery?.testFailover.instance !== null,
    guests: running.filter((g) => !g.test).length,
    tests: running.filter((g) => g.test).length,
    copies: copiesIn(folder).length,
    generation: manifest.generation,
    series: manifest.disks[0]?.series ?? null,
    job: recovery?.jobs[0]?.operation,
    jobState: recovery?.jobs[0]?.state,
    sourceUp: world.home.sourceUp,
    jobRunning: recovery?.job?.operation ?? null,
    checks: [...world.store.objects.keys()].filter((n) => n.includes('/checks/') && !n.includes('/copies/')).length,
  };
}

/** Runs a scenario; its last operation by a process with these options, then by one that nothing happens to. */
export async function run(
  scenario: Scenario,
  disturbed: Omit<ProcessOptions, 'folder'> = {},
  request = scenario.request,
): Promise<Run> {
  const world = new World();
  const folder = copiesFolder();
  await world.begin();
  scenario.world?.(world);
  const first = new Process(world, { folder });
  await first.engine.start();
  for (const request of scenario.before) await perform(first, request);
  await first.engine.stop();
  await scenario.then?.(world);
  world.effects.length = 0;
  const process = new Process(world, { folder, ...disturbed });
  const jobsBefore = (await world.recovery())?.jobs.length ?? 0;
  const life = (async () => {
    await process.engine.start();
    await perform(process, request);
  })();
  await Promise.race([life, process.died]).catch(() => undefined);
  // What the dead one still does in memory has no effect; let it end.
  await life.catch(() => undefined);
  // What the stop of the process adds is not part of it.
  const { steps } = process;
  const log = process.log.slice(0, steps);
  if (process.isDead) {
    const second = new Process(world, { folder });
    await second.engine.start();
    await second.engine.settled(MACHINE);
    const recovery = await world.recovery();
    // It died before anything was recorded: the operator asks again.
    if ((recovery?.jobs.length ?? 0) === jobsBefore && recovery?.job == null) await perform(second, scenario.request);
    const end = await endOf(world, folder);
    await second.engine.stop();
    return { world, folder, end, steps, log, changes: changesOf(log) };
  }
  const end = await endOf(world, folder);
  await process.engine.stop();
  return { world, folder, end, steps, log, changes: changesOf(log) };
}
