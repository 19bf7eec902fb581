/**
 * `afterimage machines`: what the store protects and how old its newest point is.
 */
import { listMachines, type MachineSummary } from '../catalog/machines.js';
import { openConfiguredStore, type CliIo, type GlobalOptions } from './context.js';
import { age, bytes, localIso, printJson, table } from './output.js';

const newestPoint = (machine: MachineSummary): { number: number; cutAtMs: number; consistency: string } | null =>
  machine.manifest?.tail.points.at(-1) ?? null;

const sizeOf = (machine: MachineSummary): number =>
  (machine.manifest?.disks ?? []).reduce((sum, disk) => sum + disk.sizeBytes, 0);

export async function machinesCommand(options: GlobalOptions, io: CliIo): Promise<void> {
  const store = await openConfiguredStore(options, io);
  const machines = await listMachines(store);
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
        problem: m.problem,
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
      m.problem ?? (newest === null ? 'no recovery point yet' : newest.consistency),
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
        { title: 'CONSISTENCY' },
      ],
      rows,
    ),
  );
}
