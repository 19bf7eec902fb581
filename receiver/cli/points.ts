/**
 * `afterimage points MACHINE`: the recovery points that can be restored, newest first.
 */
import { resolveMachine } from '../catalog/machines.js';
import type { RecoveryPoint } from '../catalog/manifest.js';
import { MachineReader } from '../catalog/reader.js';
import { openConfiguredStore, type CliIo, type GlobalOptions } from './context.js';
import { age, bytes, localIso, printJson, table } from './output.js';

export interface PointsOptions extends GlobalOptions {
  readonly limit?: number;
}

export async function pointsCommand(machineWord: string, options: PointsOptions, io: CliIo): Promise<void> {
  const store = await openConfiguredStore(options, io);
  const machine = await MachineReader.open(store, await resolveMachine(store, machineWord));
  const points: RecoveryPoint[] = [];
  for await (const point of machine.pointsNewestFirst()) {
    if (options.limit !== undefined && points.length >= options.limit) break;
    points.push(point);
  }
  if (options.json === true) {
    printJson(io, { machine: { id: machine.manifest.machine.id, name: machine.manifest.machine.name }, points });
    return;
  }
  if (points.length === 0) {
    io.err.write(`Machine ${machine.manifest.machine.name} has no recovery point yet.\n`);
    return;
  }
  const now = io.clock.nowMs();
  io.out.write(
    table(
      [
        { title: 'POINT', right: true },
        { title: 'CUT' },
        { title: 'AGE' },
        { title: 'CONSISTENCY' },
        { title: 'CHANGED', right: true },
        { title: 'REASON' },
      ],
      points.map((p) => [
        String(p.number),
        localIso(p.cutAtMs),
        age(now, p.cutAtMs),
        p.consistency,
        bytes(p.stats.changedBytes),
        p.reason,
      ]),
    ),
  );
}
