/** Steps that follow each other, the same for the same seed in any process. */
import { emptyModel, randomStep, type Step } from './model.js';
import { Random } from './random.js';

export function* planOf(seed: number): Generator<Step> {
  const random = new Random(seed);
  let model = emptyModel;
  for (;;) {
    const step = randomStep(model, random);
    yield step;
    model = step.after;
  }
}

export function firstSteps(seed: number, count: number): Step[] {
  const steps: Step[] = [];
  for (const step of planOf(seed)) if (steps.push(step) === count) break;
  return steps;
}
