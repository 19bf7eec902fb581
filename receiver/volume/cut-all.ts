/**
 * One instant for all volumes of a machine: all are held, all are cut in one stretch without a turn of the event loop, all go on.
 * Whatever fails, every volume goes on and no cut stays open. Writes wait for at most CUT_HOLD_DEADLINE_MS.
 */
import type { Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import { CUT_HOLD_DEADLINE_MS } from '../../shared/limits.js';
import type { CutSource, VolumeCut } from './cut.js';

export interface MachineCut {
  /** In the order of the sources. */
  readonly cuts: readonly VolumeCut[];
  /** Wall time of the instant. */
  readonly cutAtMs: number;
  /** How long writes waited. */
  readonly heldMs: number;
}

export async function cutAll(sources: readonly CutSource[], clock: Clock): Promise<MachineCut> {
  const fromMs = clock.monotonicMs();
  const cuts: VolumeCut[] = [];
  try {
    await holdAll(sources, clock);
    const cutAtMs = clock.nowMs();
    for (const source of sources) cuts.push(source.cut());
    return { cuts, cutAtMs, heldMs: clock.monotonicMs() - fromMs };
  } catch (error) {
    for (const cut of cuts) cut.end('given-up');
    throw error;
  } finally {
    for (const source of sources) source.resume();
  }
}

async function holdAll(sources: readonly CutSource[], clock: Clock): Promise<void> {
  const held = Promise.all(sources.map((source) => source.hold()));
  // It may fail after the deadline, when nobody waits for it any more.
  held.catch(() => undefined);
  const waiting = new AbortController();
  const late = clock.sleep(CUT_HOLD_DEADLINE_MS, waiting.signal).then((): 'late' => 'late');
  try {
    if ((await Promise.race([held, late])) === 'late') throw holdTimeout();
  } finally {
    waiting.abort();
  }
}

const holdTimeout = (): AfterimageError =>
  new AfterimageError(`writes that were under way did not end within ${CUT_HOLD_DEADLINE_MS} ms, so no cut was taken`, {
    code: 'cut-hold-timeout',
    kind: 'io',
    hint: 'The disks that hold the local images are slow or stuck. The point is tried again by itself.',
  });
