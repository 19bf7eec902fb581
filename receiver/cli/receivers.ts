/**
 * `afterimage receivers`: who serves the store, which machines each has, and what is to move.
 */
import { lookAtFleet } from '../fleet/onlooker.js';
import { openConfiguredStore } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { age, localIso, printJson, table } from './output.js';

export async function receiversCommand(options: GlobalOptions, io: CliIo): Promise<void> {
  const store = await openConfiguredStore(options, io);
  const nowMs = io.clock.nowMs();
  const { receivers, moves, problems } = await lookAtFleet(store, nowMs);
  if (options.json === true) {
    printJson(io, {
      receivers: receivers.map(({ record: { version: _version, ...record }, state, owns }) => ({
        ...{ ...record, state, machines: owns },
      })),
      moves,
      problems,
    });
    return;
  }
  for (const problem of problems) io.err.write(`afterimage: ${problem}\n`);
  if (receivers.length === 0) {
    io.err.write(`No receiver has served ${store.url} yet.\n`);
    return;
  }
  const columns = [
    ...[{ title: 'RECEIVER' }, { title: 'ID' }, { title: 'ADDRESS' }, { title: 'STATE' }, { title: 'LAST SEEN' }],
    ...[{ title: 'STARTED' }, { title: 'MACHINES', right: true }],
  ];
  const rows = receivers.map(({ record, state, owns }) => [
    ...[record.name, record.id, record.addresses.join(','), state, `${age(nowMs, record.writtenAtMs)} ago`],
    ...[localIso(record.startedAtMs), String(owns.length)],
  ]);
  io.out.write(table(columns, rows));
  if (moves.length === 0) return;
  const moving = moves.map(({ name, from, to, reason }) => [name, from ?? '-', to, reason]);
  const titles = [{ title: 'TO MOVE' }, { title: 'FROM' }, { title: 'TO' }, { title: 'WHY' }];
  io.out.write(`\n${table(titles, moving)}`);
}
