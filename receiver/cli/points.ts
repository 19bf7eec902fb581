/**
 * `afterimage points MACHINE`: the recovery points that can be restored, newest first.
 */
import { resolveMachine } from '../catalog/machines.js';
import type { RecoveryPoint } from '../catalog/manifest.js';
import { listChecks, type BootRecord } from '../catalog/recovery-records.js';
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
  const checks = await listChecks(store, machine.manifest.machine.id);
  const checksOf = (point: number): BootRecord[] => checks.filter((c) => c.point === point);
  if (options.json === true) {
    const { id, name } = machine.manifest.machine;
    printJson(io, { machine: { id, name }, points: points.map((p) => ({ ...p, bootChecks: checksOf(p.number) })) });
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
        { title: 'GENERATION', right: true },
        { title: 'CONSISTENCY' },
        { title: 'CHANGED', right: true },
        ...(checks.length === 0 ? [] : [{ title: 'BOOT CHECK' }]),
        { title: 'REASON' },
      ],
      points.map((p) => [
        String(p.number),
        localIso(p.cutAtMs),
        age(now, p.cutAtMs),
        String(p.generation),
        p.consistency,
        bytes(p.stats.changedBytes),
        ...(checks.length === 0 ? [] : [checkText(checksOf(p.number), now)]),
        p.reason,
      ]),
    ),
  );
}

/** The newest check counts; that others were made is said. */
function checkText(checks: readonly BootRecord[], nowMs: number): string {
  const newest = [...checks].sort((a, b) => b.result.atMs - a.result.atMs)[0];
  if (newest === undefined) return '-';
  const { passed, type, atMs } = newest.result;
  const more = checks.length === 1 ? '' : `, ${checks.length} checks`;
  return `${passed ? 'passed' : 'FAILED'} (${type}, ${age(nowMs, atMs)} ago${more})`;
}
