/**
 * A stand-in for the agent, to be killed or stopped while filesystems are frozen.
 * Arguments: guard program, deadline in ms, time to hold in ms, mount points in the order of freezing. Says `frozen` and, at the end, its outcome.
 */
import { readMounts } from '../../agent/quiesce/mountinfo.js';
import { withFrozen } from '../../agent/quiesce/freeze.js';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';

const [guardProgram = '', deadlineMs, holdMs, ...paths] = process.argv.slice(2);
const mounts = readMounts();
const filesystems = paths.map((path) => {
  const mount = mounts.find((entry) => entry.path === path);
  if (mount === undefined) throw new Error(`nothing is mounted at ${path}`);
  return { ...mount, mounts: [mount], depth: 0 };
});
const options = { deadlineMs: Number(deadlineMs), clock: systemClock, log: silentLogger(), guardProgram };
const outcome = await withFrozen(filesystems, options, async (deadline) => {
  process.stdout.write('frozen\n');
  await systemClock.sleep(Number(holdMs), deadline);
});
process.stdout.write(`${JSON.stringify(outcome)}\n`);
