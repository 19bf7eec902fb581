/** Waiting, as everything here does it. */
import { expect, it, vi } from 'vitest';
import { systemClock } from '../../shared/clock.js';

it('any number may wait for one signal, and nobody is told of a leak', async () => {
  const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined);
  try {
    const end = new AbortController();
    const sleeps = Array.from({ length: 40 }, () => systemClock.sleep(60_000, end.signal));
    end.abort();
    await Promise.all(sleeps);
    expect(warned).not.toHaveBeenCalled();
  } finally {
    warned.mockRestore();
  }
});
