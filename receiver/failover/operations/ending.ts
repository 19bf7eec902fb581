/**
 * Ending copies: guests, volumes and what this host has of them.
 */
import { MachineReader } from '../../catalog/reader.js';
import type { TaskContext } from '../task.js';

/** Ends the copies whose ids the job recorded under these keys, and takes them out of the record. */
export async function discardCopies(context: TaskContext, keys: readonly string[]): Promise<void> {
  const ids = keys.map((key) => context.job.data[key]).filter((id) => typeof id === 'string');
  for (const id of ids) await context.copies.discard(id, context);
  const { failover, testFailover } = context.content;
  const isFailover = failover !== null && ids.includes(failover.id);
  const isTest = testFailover.instance !== null && ids.includes(testFailover.instance.id);
  if (!isFailover && !isTest) return;
  await context.update((content) => ({
    ...content,
    failover: isFailover ? null : content.failover,
    testFailover: isTest ? { ...content.testFailover, instance: null } : content.testFailover,
  }));
}

/** The generation that this job may raise from: as found when it came to it, however often it is resumed. */
export async function expectedGeneration(context: TaskContext): Promise<number> {
  const found = context.job.data['expectedGeneration'];
  if (typeof found === 'number') return found;
  const { manifest } = await MachineReader.open(context.parts.store, context.machine);
  await context.set({ expectedGeneration: manifest.generation });
  return manifest.generation;
}
