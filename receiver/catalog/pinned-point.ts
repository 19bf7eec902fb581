/**
 * A recovery point that is going to be read: found, pinned, and seen again in the head that was read after the pin stood. What is planned from that view
 * stays readable until release(). A store that takes no pin (read-only credentials, no space) is read without one, with a warning.
 */
import { AfterimageError, messageOf } from '../../shared/errors.js';
import type { MachineId } from '../../shared/units.js';
import type { RecoveryPoint } from './manifest.js';
import { PinHolder, type PinDeps } from './pin-holder.js';
import type { PointSelector } from './point-selector.js';
import { MachineReader } from './reader.js';
import type { ObjectStore } from '../store/store.js';

export interface PinnedPoint {
  readonly view: MachineReader;
  readonly point: RecoveryPoint;
  /** Aborted once the pin is lost; never without one. */
  readonly lost: AbortSignal;
  /** Why there is no pin, and what that risks; null when there is one. */
  readonly warning: string | null;
  release(): Promise<void>;
}

/** How the machine is looked up: MachineReader's open, or openReadable. */
export type OpenView = (store: ObjectStore, machine: MachineId) => Promise<MachineReader>;

/** Retention may drop a point between the first look and the second: look again so many times. */
const TRIES = 5;

export async function openPinned(
  deps: PinDeps,
  machine: MachineId,
  selector: PointSelector,
  holder: string,
  open: OpenView = (store, id) => MachineReader.open(store, id),
): Promise<PinnedPoint> {
  for (let i = 0; i < TRIES; i++) {
    const before = await open(deps.store, machine);
    const { number } = await before.findPoint(selector);
    const wish = { point: number, manifest: before.manifest.number, holder };
    const pin = await PinHolder.acquire(deps, machine, wish).catch((error: unknown) => messageOf(error));
    if (typeof pin === 'string') return unpinned(before, await before.findPoint({ by: 'number', number }), pin);
    try {
      const view = await open(deps.store, machine);
      if (await view.hasPoint(number)) {
        const point = await view.findPoint({ by: 'number', number });
        // What was said of the choice was said to the first look.
        view.concerns.push(...before.concerns.filter((concern) => !view.concerns.includes(concern)));
        return { view, point, lost: pin.lost, warning: null, release: () => pin.release() };
      }
    } catch (error) {
      await pin.release();
      throw error;
    }
    await pin.release();
  }
  throw new AfterimageError(`the points of machine ${machine} are dropped faster than they can be pinned`, {
    code: 'point-moving',
    kind: 'io',
    hint: 'Try again.',
  });
}

const unpinned = (view: MachineReader, point: RecoveryPoint, why: string): PinnedPoint => ({
  view,
  point,
  lost: new AbortController().signal,
  warning:
    `point ${point.number} is read without a pin (${why}): retention may drop it meanwhile, and what it needs be deleted after the deletion delay. ` +
    'Then this fails, it never reads wrong bytes. Hold the point first (`afterimage hold`) if it takes longer.',
  release: () => Promise.resolve(),
});
