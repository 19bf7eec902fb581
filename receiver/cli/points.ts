/**
 * `afterimage points MACHINE`: the recovery points that can be restored, newest first.
 */
import { AfterimageError } from '../../shared/errors.js';
import { damageOf, type DamageItem } from '../catalog/damage.js';
import { loadDamage } from '../catalog/damage-io.js';
import { resolveMachine } from '../catalog/machines.js';
import type { RecoveryPoint } from '../catalog/manifest.js';
import { listChecks, type BootRecord } from '../catalog/recovery-records.js';
import { MachineReader } from '../catalog/reader.js';
import { openConfiguredStore } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { keptPoints, type KeptAs } from './kept-points.js';
import { age, bytes, localIso, printJson, table, tellConcerns } from './output.js';

export interface PointsOptions extends GlobalOptions {
  readonly limit?: number;
}

export async function pointsCommand(machineWord: string, options: PointsOptions, io: CliIo): Promise<void> {
  const store = await openConfiguredStore(options, io);
  const machine = await MachineReader.openReadable(store, await resolveMachine(store, machineWord));
  const { points, problem } = await readable(machine, options.limit);
  const damage = await loadDamage(store, machine.manifest.machine.id).catch((error: unknown) => {
    if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') throw error;
    machine.concerns.push(`what is known to be damaged can not be read: ${error.message}`);
    return null;
  });
  const damageAt = (point: number): DamageItem | undefined => damageOf(damage?.items ?? [], point);
  const { byPoint, holds } = await keptPoints(store, machine, options, io);
  const checks = await listChecks(store, machine.manifest.machine.id);
  const checksOf = (point: number): BootRecord[] => checks.filter((c) => c.point === point);
  if (options.json === true) {
    const { id, name } = machine.manifest.machine;
    printJson(io, {
      machine: { id, name },
      points: points.map((p) => ({
        ...p,
        bootChecks: checksOf(p.number),
        damage: damageAt(p.number)?.what ?? null,
        retention: retentionOf(byPoint.get(p.number)),
      })),
      holds,
      concerns: machine.concerns,
    });
    if (problem !== null) throw problem;
    return;
  }
  tellConcerns(io, machine.concerns);
  const hasLabels = points.some((p) => p.label !== undefined);
  const wasFrozen = points.some((p) => p.stats.freezeMs > 0);
  const isDamaged = points.some((p) => damageAt(p.number) !== undefined);
  if (points.length === 0 && problem === null) {
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
        ...(hasLabels ? [{ title: 'LABEL' }] : []),
        { title: 'CHANGED', right: true },
        ...(wasFrozen ? [{ title: 'FROZEN', right: true }] : []),
        ...(checks.length === 0 ? [] : [{ title: 'BOOT CHECK' }]),
        ...(isDamaged ? [{ title: 'DAMAGE' }] : []),
        ...(byPoint.size === 0 ? [] : [{ title: 'KEPT' }]),
        { title: 'REASON' },
      ],
      points.map((p) => [
        String(p.number),
        localIso(p.cutAtMs),
        age(now, p.cutAtMs),
        String(p.generation),
        p.consistency,
        ...(hasLabels ? [p.label ?? '-'] : []),
        bytes(p.stats.changedBytes),
        ...(wasFrozen ? [p.stats.freezeMs > 0 ? `${p.stats.freezeMs.toFixed(0)} ms` : '-'] : []),
        ...(checks.length === 0 ? [] : [checkText(checksOf(p.number), now)]),
        ...(isDamaged ? [damageAt(p.number)?.code ?? '-'] : []),
        ...(byPoint.size === 0 ? [] : [byPoint.get(p.number)?.short ?? '-']),
        p.reason,
      ]),
    ),
  );
  // What could be read is shown; that there is more is an error, so that no program takes this for the whole list.
  if (problem !== null) throw problem;
}

const retentionOf = (as: KeptAs | undefined): Omit<KeptAs, 'short'> | null =>
  as === undefined ? null : { kept: as.kept, code: as.code, reason: as.reason };

/** Points as far as they can be read, newest first, and why no further. */
async function readable(
  machine: MachineReader,
  limit: number | undefined,
): Promise<{ readonly points: RecoveryPoint[]; readonly problem: AfterimageError | null }> {
  const points: RecoveryPoint[] = [];
  try {
    for await (const point of machine.pointsNewestFirst()) {
      if (limit !== undefined && points.length >= limit) break;
      points.push(point);
    }
    return { points, problem: null };
  } catch (error) {
    if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') throw error;
    return { points, problem: error };
  }
}

/** The newest check counts; that others were made is said. */
function checkText(checks: readonly BootRecord[], nowMs: number): string {
  const newest = [...checks].sort((a, b) => b.result.atMs - a.result.atMs)[0];
  if (newest === undefined) return '-';
  const { passed, type, atMs } = newest.result;
  const more = checks.length === 1 ? '' : `, ${checks.length} checks`;
  return `${passed ? 'passed' : 'FAILED'} (${type}, ${age(nowMs, atMs)} ago${more})`;
}
