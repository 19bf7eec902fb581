/** The time of each step of a last cut, from the messages that end them. */
import { describe, expect, it } from 'vitest';
import type { Clock } from '../../shared/clock.js';
import { StepTimes } from '../../receiver/failover/step-times.js';

describe('step times', () => {
  it('gives each message the time since the one before, and adds up what is repeated', () => {
    let nowMs = 1_000;
    const times = new StepTimes({ monotonicMs: () => nowMs } as Clock);
    const after = (ms: number, step: string): void => {
      nowMs += ms;
      times.note(step);
    };
    after(20, 'pre-shutdown hook');
    after(1_200, 'pre-shutdown hook');
    after(300, 'last cut');
    after(500, 'proof');
    after(100, 'last cut');
    after(500, 'proof');
    expect(times.data()).toEqual({
      'stepMs.pre-shutdown hook': 1_220,
      'stepMs.last cut': 400,
      'stepMs.proof': 1_000,
    });
    expect(times.text()).toBe('pre-shutdown hook 1.2 s, last cut 0.4 s, proof 1.0 s');
  });

  it('says nothing when no step was told', () => {
    expect(new StepTimes({ monotonicMs: () => 5 } as Clock).text()).toBe('');
  });
});
