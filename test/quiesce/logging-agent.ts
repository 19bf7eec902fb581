/**
 * A stand-in for an agent whose log is a file on the filesystem that it freezes. Arguments: guard program, mount point. Tells its outcome on stderr.
 */
import { readMounts } from '../../agent/quiesce/mountinfo.js';
import { withFrozen } from '../../agent/quiesce/freeze.js';
import { systemClock } from '../../shared/clock.js';
import { createLogger } from '../../shared/log.js';

const [guardProgram = '', path] = process.argv.slice(2);
const mount = readMounts().find((entry) => entry.path === path);
if (mount === undefined) throw new Error(`nothing is mounted at ${path}`);
const log = createLogger('stand-in');
log.info('before');
const options = { deadlineMs: 2000, clock: systemClock, log, guardProgram };
const outcome = await withFrozen([{ ...mount, mounts: [mount], depth: 0 }], options, async () => {
  for (let i = 0; i < 20; i++) {
    log.info({ i }, 'while frozen');
    await systemClock.sleep(5);
  }
});
log.info('after');
process.stderr.write(`${JSON.stringify(outcome)}\n`);
