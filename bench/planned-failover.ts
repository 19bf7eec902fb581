/**
 * How long a real guest is away in a planned failover and in the failback: from the last write that it acknowledged on one side to the first on the
 * other. Beside it, in the same run, a plain reboot of the same guest at home: power button, boot, first acknowledged write.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Job } from '../receiver/catalog/recovery.js';
import { STEP_KEY } from '../receiver/failover/step-times.js';
import { guestFiles } from '../receiver/failover/compute/qemu-arguments.js';
import { Drill } from '../test/drill/drill.js';
import { guestUnavailable } from '../test/guest/image.js';
import { type Bench, type BenchContext } from './bench.js';
import { figureOf, median } from './figures.js';

const LIMIT_MS = 180_000;
const LINES = 20;
/** As bootHome() looks at the console. */
const POLL_MS = 50;
/** Tasks during which the guest runs: they cost no downtime. */
const BESIDE: Readonly<Record<Direction, readonly string[]>> = {
  there: ['Prerequisites check'],
  back: ['Prerequisites check', 'Prepare home', 'Synchronize data'],
};

type Direction = 'there' | 'back';

export const plannedFailover: Bench = {
  name: 'planned-failover',
  promise: 'a planned switch costs little more downtime than a reboot, and loses nothing',
  run,
};

interface Switch {
  readonly downMs: number;
  /** Of it, after the job's last step before the boot: until the first acknowledged write. */
  readonly bootMs: number;
  readonly job: Job;
}

async function run(context: BenchContext): Promise<void> {
  const missing = guestUnavailable();
  if (missing !== null) throw new Error(missing);
  const drill = await Drill.open();
  const [there, back, reboots]: [Switch[], Switch[], number[]] = [[], [], []];
  try {
    await drill.bootHome();
    for (let round = 0; round < context.runs; round++) {
      const rebootMs = await reboot(drill);
      reboots.push(rebootMs);
      there.push(await goThere(drill));
      back.push(await goBack(drill));
      // Not in order: a request that was given up while the guest booted may be done late.
      const log = new Set((await drill.fetchFrom(drill.homePort, '/data.log')).split('\n').map(Number));
      const lost = drill.client.acknowledged.filter((line) => !log.has(line));
      if (lost.length > 0) throw new Error(`acknowledged and lost: ${lost.join(', ')}`);
      context.say(
        `reboot ${rebootMs} ms; there ${there.at(-1)?.downMs ?? NaN} ms, back ${back.at(-1)?.downMs ?? NaN} ms; nothing is lost`,
      );
    }
  } finally {
    await drill.cleanUp();
  }
  report(context, 'planned failover', 'there', there, reboots);
  report(context, 'failback', 'back', back, reboots);
}

/** Last write that was acknowledged before, and first after, `work` switches the guest. */
async function gap(drill: Drill, work: () => Promise<void>): Promise<{ lastMs: number; firstMs: number }> {
  const { client } = drill;
  await client.more(LINES);
  const from = client.timesMs.length - 1;
  await work();
  await client.more(LINES, LIMIT_MS);
  // The gap is the longest pause since.
  const times = client.timesMs.slice(from);
  let found = { lastMs: 0, firstMs: 0 };
  for (const [i, firstMs] of times.entries()) {
    const lastMs = times[i - 1] ?? firstMs;
    if (firstMs - lastMs >= found.firstMs - found.lastMs) found = { lastMs, firstMs };
  }
  return found;
}

async function reboot(drill: Drill): Promise<number> {
  const { lastMs, firstMs } = await gap(drill, async () => {
    await drill.powerDownHome();
    await drill.bootHome();
  });
  return firstMs - lastMs;
}

async function goThere(drill: Drill): Promise<Switch> {
  let job: Job | null = null;
  const { lastMs, firstMs } = await gap(drill, async () => {
    const operation = drill.operate('failover', '--planned', '--commit', '--yes');
    // The client asks as soon as the guest says READY, as at home, not when the job has ended.
    const watching = setInterval(() => {
      if (isReady(join(drill.lab.folder, 'v'))) drill.client.port = drill.recoveryPort;
    }, POLL_MS);
    job = await operation.finally(() => clearInterval(watching));
    drill.client.port = drill.recoveryPort;
  });
  return switchOf(job, lastMs, firstMs, 'Start virtual machine');
}

function isReady(folder: string): boolean {
  const instances = existsSync(folder) ? readdirSync(folder) : [];
  return instances
    .map((instance) => guestFiles(join(folder, instance, 'guest')).serial)
    .some((path) => existsSync(path) && readFileSync(path, 'latin1').includes('READY'));
}

async function goBack(drill: Drill): Promise<Switch> {
  let job: Job | null = null;
  const { lastMs, firstMs } = await gap(drill, async () => {
    job = await drill.operate('failback', '--yes');
    // The agent's hook boots the guest at home and sets the port.
    await drill.lab.untilProtected();
  });
  return switchOf(job, lastMs, firstMs, 'Give home the right back');
}

function switchOf(job: Job | null, lastMs: number, firstMs: number, lastStep: string): Switch {
  if (job === null) throw new Error('no job');
  const endedAtMs = job.tasks.find((t) => t.name === lastStep)?.endedAtMs ?? firstMs;
  return { downMs: firstMs - lastMs, bootMs: firstMs - endedAtMs, job };
}

function report(
  context: BenchContext,
  title: string,
  direction: Direction,
  switches: readonly Switch[],
  reboots: readonly number[],
): void {
  const seconds = (values: readonly number[]): number[] => values.map((ms) => ms / 1000);
  const down = switches.map((s) => s.downMs);
  context.report(
    figureOf(`${title}: from the last write to the first`, 's', seconds(down), {
      peer: { name: 'reboot', value: median(reboots) / 1000 },
    }),
  );
  for (const [i, task] of (switches[0]?.job.tasks ?? []).entries()) {
    if (task.state !== 'Succeeded') continue;
    const times = switches.map(({ job: { tasks } }) => (tasks[i]?.endedAtMs ?? 0) - (tasks[i]?.startedAtMs ?? 0));
    const note = BESIDE[direction].includes(task.name) ? ' (the guest runs)' : '';
    context.report(figureOf(`${title}: task ${task.name}${note}`, 's', seconds(times)));
  }
  for (const key of Object.keys(switches[0]?.job.data ?? {}).filter((k) => k.startsWith(STEP_KEY))) {
    const times = switches.map(({ job }) => Number(job.data[key] ?? NaN));
    context.report(figureOf(`${title}: step ${key.slice(STEP_KEY.length)} at home`, 's', seconds(times)));
  }
  context.report(figureOf(`${title}: boot until the first write`, 's', seconds(switches.map((s) => s.bootMs))));
}
