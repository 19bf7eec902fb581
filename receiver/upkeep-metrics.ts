/**
 * Metrics of upkeep in Prometheus' form, collected from its status when they are asked for.
 */
import { Gauge, type Registry } from 'prom-client';
import type { TaskResult } from './upkeep/machine-upkeep.js';
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
  { name: 'deleted_bytes', help: 'Bytes that its last run deleted', of: (r) => r.deletedBytes },
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
}
