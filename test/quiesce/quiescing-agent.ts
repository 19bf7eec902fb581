/**
 * A stand-in for the agent, to be killed or stopped while applications are quiesced. Arguments: program, task as JSON. Says `prepared`, then waits.
 */
import { QuiesceRunner } from '../../agent/quiesce/runner/runner.js';
import type { QuiesceTask } from '../../agent/quiesce/runner/protocol.js';
import { systemClock } from '../../shared/clock.js';

const [program = '', task = ''] = process.argv.slice(2);
const runner = await QuiesceRunner.start(JSON.parse(task) as QuiesceTask, { clock: systemClock, program });
const prepared = await runner.prepare();
if (prepared.is === 'prepared') await runner.hold();
process.stdout.write(`${prepared.is}\n`);
const end = await runner.ended;
process.stdout.write(`${JSON.stringify(end)}\n`);
