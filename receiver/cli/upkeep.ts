/**
 * `afterimage upkeep MACHINE`: what upkeep would do and why, from the store alone; or done: by the running receiver, else by this command, which then takes the
 * machine over. It refuses where somebody may have it: a manifest was written lately, or a copy runs.
 */
import { AfterimageError } from '../../shared/errors.js';
import { PLAN_LINES_MAX, UPKEEP_BYTES_PER_SECOND, DELETION_DELAY_MS } from '../../shared/limits-upkeep.js';
import { silentLogger } from '../../shared/log.js';
import { formatBytes, type MachineId } from '../../shared/units.js';
import { resolveMachine } from '../catalog/machines.js';
import { loadPolicy } from '../catalog/policy-io.js';
import { MachineReader } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import { MachineUpkeep, type DryRun } from '../upkeep/machine-upkeep.js';
import { Pace } from '../upkeep/pace.js';
import { UPKEEP_TASKS, type TaskResult, type UpkeepTask } from '../upkeep/task-result.js';
import { configuredPolicy, configuredSocket, openConfiguredStore } from './context.js';
import type { CliIo } from './io.js';
import { askUpkeep, NO_DAEMON } from './control-client.js';
import { printJson } from './output.js';
import { takeMachine } from './take-machine.js';
import type { UpkeepOptions } from './upkeep-options.js';

export async function upkeepCommand(machineWord: string, options: UpkeepOptions, io: CliIo): Promise<void> {
  const store = await openConfiguredStore(options, io);
  const machine = await resolveMachine(store, machineWord);
  const tasks = options.task === undefined ? UPKEEP_TASKS : [options.task];
  if (options.dryRun === true) {
    const { manifest } = await MachineReader.open(store, machine);
    const plan = await upkeepOf(store, options, io).dryRun(manifest);
    if (options.json === true) printJson(io, { machine, ...dryRunJson(plan, tasks) });
    else io.out.write(`${dryRunLines(plan, tasks).join('\n')}\n`);
    return;
  }
  const results = await runSomewhere(store, machine, tasks, options, io);
  if (options.json === true) printJson(io, { machine, tasks: results });
  else for (const result of results) io.out.write(`${resultLines(result).join('\n')}\n`);
  const failed = results.find((result) => result.problem !== null);
  if (failed !== undefined) {
    throw new AfterimageError(`${failed.task} failed: ${failed.problem ?? ''}`, { code: 'upkeep-failed', kind: 'io' });
  }
}

function upkeepOf(store: ObjectStore, options: UpkeepOptions, io: CliIo): MachineUpkeep {
  return new MachineUpkeep({
    store,
    clock: io.clock,
    log: silentLogger(),
    pace: new Pace(io.clock, UPKEEP_BYTES_PER_SECOND, io.signal),
    deletionDelayMs: DELETION_DELAY_MS,
    policyOf: async ({ machine }) =>
      ((await loadPolicy(store, machine.id))?.policy ?? (await configuredPolicy(options))).retention,
  });
}

async function runSomewhere(
  store: ObjectStore,
  machine: MachineId,
  tasks: readonly UpkeepTask[],
  options: UpkeepOptions,
  io: CliIo,
): Promise<TaskResult[]> {
  try {
    return await askUpkeep(await configuredSocket(options), io.signal, machine, tasks);
  } catch (error) {
    if (!(error instanceof AfterimageError) || error.code !== NO_DAEMON) throw error;
  }
  const owned = await takeMachine(store, machine, io);
  return upkeepOf(store, options, io).run(owned, io.signal, tasks);
}

function dryRunJson(
  { blockers, points, merges, shortcuts, bases, gc, reads }: DryRun,
  tasks: readonly UpkeepTask[],
): object {
  const all = {
    retention: {
      keep: points.keep.length,
      drop: points.drop.map(({ point, code, reason }) => ({ point: point.number, code, reason })),
      doubts: points.doubts,
    },
    merge: {
      steps: merges.steps.map(({ disk, inputs, firstPoint, lastPoint, reason }) => ({
        ...{ disk, firstPoint, lastPoint, reason, layers: inputs.length },
        bytes: inputs.reduce((sum, layer) => sum + layer.sizeBytes, 0),
      })),
      waiting: merges.waiting,
    },
    shortcuts: shortcuts.map(({ disk, inputs, firstPoint, lastPoint, reason }) => ({
      ...{ disk, firstPoint, lastPoint, reason, layers: inputs.length },
    })),
    bases,
    gc: {
      deletable: gc.deletable,
      objects: Object.fromEntries(gc.kept),
      unknown: gc.unknown,
      missing: gc.missing,
    },
  };
  return {
    blockers,
    reads,
    ...Object.fromEntries(Object.entries(all).filter(([task]) => tasks.includes(task as UpkeepTask))),
  };
}

/** The first of many lines, and how many more there are. */
const some = (lines: readonly string[]): string[] => [
  ...lines.slice(0, PLAN_LINES_MAX).map((line) => `  ${line}`),
  ...(lines.length > PLAN_LINES_MAX ? [`  and ${lines.length - PLAN_LINES_MAX} more`] : []),
];

function dryRunLines(
  { blockers, points, merges, shortcuts, bases, gc, reads }: DryRun,
  tasks: readonly UpkeepTask[],
): string[] {
  const lines = blockers.map((blocker) => `Nothing would be dropped or deleted: ${blocker}`);
  for (const { disk, layers, readBytes, freshBytes } of reads) {
    const times = (readBytes / Math.max(1, freshBytes)).toFixed(2);
    lines.push(
      `${disk}: a restore of the newest point reads about ${formatBytes(readBytes)}, ${times} times what fresh bases have, and ${layers} layers over them`,
    );
  }
  if (tasks.includes('retention')) {
    lines.push(`retention: ${points.drop.length} points would be dropped, ${points.keep.length} kept`);
    lines.push(
      ...some([...points.doubts, ...points.drop.map(({ point, reason }) => `point ${point.number}: ${reason}`)]),
    );
  }
  if (tasks.includes('merge')) {
    lines.push(`merge: ${merges.steps.length} merges`);
    lines.push(
      ...some(merges.steps.map(({ disk, inputs, reason }) => `${disk}: ${inputs.length} layers become one, ${reason}`)),
    );
    lines.push(...some(merges.waiting.map((why) => `waiting: ${why}`)));
  }
  if (tasks.includes('shortcuts')) {
    lines.push(`shortcuts: ${shortcuts.length} would be built`);
    lines.push(...some(shortcuts.map(({ disk, reason }) => `${disk}: ${reason}`)));
  }
  if (tasks.includes('bases')) {
    lines.push(`bases: ${bases.length} would be built`);
    lines.push(
      ...some(
        bases.map(({ disk, segment, point, reason }) => `${disk}, segment ${segment} at point ${point}: ${reason}`),
      ),
    );
  }
  if (tasks.includes('gc')) {
    lines.push(`gc: ${gc.deletable.length} objects would be deleted`);
    lines.push(...some(gc.deletable.map(({ name, reason }) => `${name}: ${reason}`)));
    for (const [why, { objects, bytes }] of gc.kept)
      lines.push(`  ${objects} objects (${formatBytes(bytes)}) stay: ${why}`);
    lines.push(
      ...some([...gc.unknown.map((n) => `unknown name: ${n}`), ...gc.missing.map((n) => `named and not there: ${n}`)]),
    );
  }
  return lines;
}

function resultLines({ task, reasons, problem, endedAtMs: _, ...figures }: TaskResult): string[] {
  const done = Object.entries(figures).filter(([, value]) => value > 0);
  const text = done.map(([what, value]) => `${what} ${what.endsWith('Bytes') ? formatBytes(value) : value}`).join(', ');
  return [`${task}: ${problem ?? (text === '' ? 'nothing to do' : text)}`, ...some(reasons)];
}
