/**
 * `afterimage machines`: what the store protects and how old its newest point is.
 */
import { AfterimageError } from '../../shared/errors.js';
import type { MachineId } from '../../shared/units.js';
import { describePoints, isOpen } from '../catalog/damage.js';
import { loadDamage } from '../catalog/damage-io.js';
import { listMachines, type MachineSummary } from '../catalog/machines.js';
import type { ObjectStore } from '../store/store.js';
import { openConfiguredStore } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { age, bytes, localIso, printJson, table } from './output.js';

const newestPoint = (machine: MachineSummary): { number: number; cutAtMs: number; consistency: string } | null =>
  machine.manifest?.tail.points.at(-1) ?? null;

const sizeOf = (machine: MachineSummary): number =>
  (machine.manifest?.disks ?? []).reduce((sum, disk) => sum + disk.sizeBytes, 0);

/** What is open of a machine's damage, in a few words; empty when nothing is known. */
async function damageText(store: ObjectStore, machine: MachineId): Promise<string> {
  try {
    const open = ((await loadDamage(store, machine))?.items ?? []).filter(isOpen);
    return open.length === 0
      ? ''
      : `${open.length} damaged objects, points ${describePoints(open.flatMap((i) => i.points))}`;
  } catch (error) {
    if (!(error instanceof AfterimageError)) throw error;
    return `what is damaged can not be read: ${error.message}`;
  }
}

export async function machinesCommand(options: GlobalOptions, io: CliIo): Promise<void> {
  const store = await openConfiguredStore(options, io);
  const machines = await listMachines(store);
  const damaged = new Map<string, string>();
  for (const { id } of machines) damaged.set(id, await damageText(store, id));
  if (options.json === true) {
    printJson(io, {
      machines: machines.map((m) => ({
        id: m.id,
        name: m.name,
        disks: (m.manifest?.disks ?? []).map(({ id, device, sizeBytes, lastPoint }) => ({
          id,
          device,
          sizeBytes,
          lastPoint,
        })),
        lastPoint: m.manifest?.lastPoint ?? 0,
        newestPoint: newestPoint(m),
        owner: m.manifest?.owner ?? null,
        problem: m.problem,
        damage: damaged.get(m.id) === '' ? null : damaged.get(m.id),
      })),
    });
    return;
  }
  if (machines.length === 0) {
    io.err.write(`No machines in ${store.url}.\n`);
    return;
  }
  const now = io.clock.nowMs();
  const rows = machines.map((m) => {
    const newest = newestPoint(m);
    return [
      m.name,
      m.id,
      String(m.manifest?.disks.length ?? 0),
      bytes(sizeOf(m)),
      newest === null ? '-' : String(newest.number),
      newest === null ? '-' : localIso(newest.cutAtMs),
      newest === null ? '-' : age(now, newest.cutAtMs),
      m.manifest?.owner?.name ?? '-',
      [m.problem ?? (newest === null ? 'no recovery point yet' : newest.consistency), damaged.get(m.id) ?? '']
        .filter((text) => text !== '')
        .join('; '),
    ];
  });
  io.out.write(
    table(
      [
        { title: 'MACHINE' },
        { title: 'ID' },
        { title: 'DISKS', right: true },
        { title: 'SIZE', right: true },
        { title: 'POINT', right: true },
        { title: 'CUT' },
        { title: 'AGE' },
        { title: 'RECEIVER' },
        { title: 'CONSISTENCY' },
      ],
      rows,
    ),
  );
}
