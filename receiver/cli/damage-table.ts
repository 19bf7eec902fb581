/** The list of what is damaged, for people. */
import { describePoints, type DamageItem } from '../catalog/damage.js';
import { localIso, table } from './output.js';

export function damageTable(items: readonly DamageItem[]): string {
  return table(
    [{ title: 'STATE' }, { title: 'FOUND' }, { title: 'POINTS' }, { title: 'BLOCKS' }, { title: 'WHAT' }],
    items.map((item) => [
      item.state,
      localIso(item.foundAtMs),
      pointsText(item),
      blocksText(item),
      item.reason === '' ? item.what : `${item.what}; ${item.reason}`,
    ]),
  );
}

function pointsText(item: DamageItem): string {
  const [range] = item.points;
  if (range === undefined) return 'none';
  const times = [range.firstCutAtMs, range.lastCutAtMs].map((ms) => (ms === null ? '' : localIso(ms)));
  const when = times.some((text) => text !== '')
    ? ` (${[...new Set(times)].filter((t) => t !== '').join(' to ')})`
    : '';
  return `${describePoints(item.points)}${when}`;
}

function blocksText(item: DamageItem): string {
  if (item.kind !== 'layer') return '-';
  if (item.extents === null) return 'not known';
  const blocks = item.extents.reduce((sum, [, length]) => sum + length, 0);
  return `${blocks} of disk ${item.disk ?? '?'}`;
}
