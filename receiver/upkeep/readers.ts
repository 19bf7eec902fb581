/**
 * Whose plans GC has to spare: live pins, and copies of the machine that run or are being made, for as long as they last. Which manifest a copy's plan is of
 * is not recorded: it counts as older than any. A test copy reads the point that it began with. A failed-over machine's copy also looks into
 * the points that it has made since, so while it runs all layers stay; merging goes on. Pure.
 */
import type { Pin } from '../catalog/pins.js';
import type { Recovery } from '../catalog/recovery.js';

export type GcPins = readonly Pick<Pin, 'point' | 'manifest'>[];

const ANY_POINT = Number.MAX_SAFE_INTEGER;

export function readersOf(pins: readonly Pin[], recovery: Recovery | null): GcPins {
  if (recovery === null) return pins;
  const { failover, testFailover, job } = recovery;
  const points: number[] = [];
  if (failover !== null || job?.state === 'InProgress') points.push(ANY_POINT);
  if (testFailover.instance !== null) points.push(testFailover.instance.point);
  return [...pins, ...points.map((point) => ({ point, manifest: 0 }))];
}
