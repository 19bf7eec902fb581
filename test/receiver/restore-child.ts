/** Child of the kill tests: restores a point, recording after each unit. Arguments: store, point, target, journal, [force], [format], [composed]. */
import { openStore } from '../../receiver/store/open.js';
import { DISK, MACHINE } from '../helpers/layers.js';
import { planOf, restoreTo } from '../helpers/restore.js';

const [url = '', point = '1', path = '', journalPath = '', force, format, composed] = process.argv.slice(2);
const store = await openStore(url);
const planned = await planOf(store, MACHINE, DISK, Number(point));
const result = await restoreTo(planned, {
  path,
  journalPath,
  syncBytes: 1,
  force: force === 'force',
  format: format === 'qcow2' ? 'qcow2' : 'raw',
  ...(composed === 'composed' ? { composed: { runsMin: 0, runsPerTouch: 0, segments: 1 } } : {}),
});
process.stdout.write(`${JSON.stringify(result)}\n`);
