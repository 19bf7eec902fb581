/**
 * Whose plans GC has to spare: live pins, and copies of the machine that run or are being made, which read the point that they began with for as long
 * as they last. Which manifest a copy's plan is of is not recorded: it counts as older than any. Pure.
 */
import type { Pin } from '../catalog/pins.js';
import type { Recovery } from '../catalog/recovery.js';

export type GcPins = readonly Pick<Pin, 'point' | 'manifest'>[];

export function readersOf(pins: readonly Pin[], recovery: Recovery | null): GcPins {
  if (recovery === null) return pins;
  const { failover, testFailover, job } = recovery;
  const points = [failover?.point, testFailover.instance?.point];
  if (job?.state === 'InProgress') points.push(numberOf(job.data['point']), numberOf(job.data['finalPoint']));
  const copies = points.flatMap((point) => (typeof point === 'number' ? [{ point, manifest: 0 }] : []));
  return [...pins, ...copies];
}

const numberOf = (value: unknown): number | undefined => (typeof value === 'number' ? value : undefined);
