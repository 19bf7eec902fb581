/**
 * Metrics of upkeep in Prometheus' form, collected from its status when they are asked for.
 */
import { Gauge, type Registry } from 'prom-client';
import type { DiskRead } from './upkeep/disk-loads.js';
import type { TaskResult } from './upkeep/task-result.js';
import type { MachineUpkeepStatus } from './upkeep/upkeep-status.js';

interface TaskMetric {
  readonly name: string;
  readonly help: string;
  readonly of: (result: TaskResult) => number;
}

const TASK_METRICS: readonly TaskMetric[] = [
  { name: 'last_run_timestamp_seconds', help: 'Wall time of its last run', of: (r) => r.endedAtMs / 1000 },
  { name: 'failed', help: '1 when its last run met a problem', of: (r) => (r.problem === null ? 0 : 1) },
  { name: 'read_bytes', help: 'Bytes that its last run read', of: (r) => r.readBytes },
  { name: 'written_bytes', help: 'Bytes that its last run wrote', of: (r) => r.writtenBytes },
  { name: 'dropped_points', help: 'Recovery points that its last run dropped', of: (r) => r.droppedPoints },
  { name: 'merged_layers', help: 'Layers that its last run merged away', of: (r) => r.mergedLayers },
  { name: 'built_bases', help: 'Base layers that its last run built', of: (r) => r.builtBases },
  { name: 'built_shortcuts', help: 'Shortcuts that its last run built', of: (r) => r.builtShortcuts },
  { name: 'deleted_bytes', help: 'Bytes that its last run deleted', of: (r) => r.deletedBytes },
];

const READ_METRICS: readonly {
  readonly name: string;
  readonly help: string;
  readonly of: (read: DiskRead) => number;
}[] = [
  {
    name: 'read_amplification',
    help: 'Stored bytes that a restore of the newest point reads, against fresh bases (estimated)',
    of: ({ readBytes, freshBytes }) => readBytes / Math.max(1, freshBytes),
  },
  { name: 'read_layers', help: 'Layers over the bases that a restore of the newest point reads', of: (r) => r.layers },
];

export function upkeepMetrics(registry: Registry, status: () => readonly MachineUpkeepStatus[]): void {
  for (const metric of TASK_METRICS) {
    new Gauge({
      name: `afterimage_receiver_upkeep_${metric.name}`,
      help: metric.help,
      labelNames: ['machine', 'name', 'task'],
      registers: [registry],
      collect() {
        this.reset();
        for (const { machine, name, tasks } of status())
          for (const result of tasks) this.set({ machine, name, task: result.task }, metric.of(result));
      },
    });
  }
  for (const [unit, help] of [
    ['objects', 'Objects of layers, pages and lists, by why they are there'],
    ['bytes', 'Bytes of layers, pages and lists, by why they are there'],
  ] as const) {
    new Gauge({
      name: `afterimage_receiver_stored_${unit}_by_state`,
      help,
      labelNames: ['machine', 'name', 'state'],
      registers: [registry],
      collect() {
        this.reset();
        for (const { machine, name, objects } of status())
          for (const [state, count] of Object.entries(objects ?? {})) this.set({ machine, name, state }, count[unit]);
      },
    });
  }
  new Gauge({
    name: 'afterimage_receiver_upkeep_staged_set_aside',
    help: 'Staged objects that were damaged when the machine was taken over, since the start; their agents send them again',
    labelNames: ['machine', 'name'],
    registers: [registry],
    collect() {
      this.reset();
      for (const { machine, name, setAside } of status()) this.set({ machine, name }, setAside.count);
    },
  });
  for (const { name, help, of } of READ_METRICS) {
    new Gauge({
      name: `afterimage_receiver_${name}`,
      help,
      labelNames: ['machine', 'name', 'disk'],
      registers: [registry],
      collect() {
        this.reset();
        for (const { machine, name: machineName, reads } of status())
          for (const read of reads) this.set({ machine, name: machineName, disk: read.disk }, of(read));
      },
    });
  }
}
