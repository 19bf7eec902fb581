/** Child of the kill test: goes on with a plan from step `next`; says after each step that it is done. Arguments: folder, seed, next. */
import { writeSync } from 'node:fs';
import { openStore } from './model.js';
import { planOf } from './plan.js';

const [folder = '', seed = '', next = ''] = process.argv.slice(2);
const { store } = await openStore(folder, 'boot');
writeSync(1, 'open\n');
let done = 0;
for (const step of planOf(Number(seed))) {
  if (done >= Number(next)) {
    await step.run(store);
    writeSync(1, `${done + 1}\n`);
  }
  done++;
}
