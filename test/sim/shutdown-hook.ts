/**
 * What a planned failover has at a simulated home beside the disks: the note that the workload was shut down, and the operator's commands that stop and
 * start it. Commands go on when the agent that ran them is gone; a power cut ends them.
 */
import type { FinalCutGround } from '../../agent/final-cut-ground.js';
import type { HookResult } from '../../agent/hook.js';
import type { SimMachine } from './machine.js';
import type { SimProcess } from './process.js';
import type { Rng } from './rng.js';
import type { Scheduler } from './scheduler.js';

export const STOP = 'stop the workload';
export const START = 'start the workload';

const HOOK_MS = 800;
const FILE_MS = 2;
const CHANCE_OF_A_FAILURE = 0.1;

export function groundOf(scheduler: Scheduler, machine: SimMachine, process: SimProcess, rng: Rng): FinalCutGround {
  const call = (what: string): Promise<void> => process.after(rng.between(0, FILE_MS), what);
  return {
    note: {
      path: 'final-cut.json',
      load: () => Promise.resolve(machine.finalCutNote),
      keep: async (text) => {
        await call('keeps the note of a final cut');
        machine.finalCutNote = text;
      },
      remove: async () => {
        await call('removes the note of a final cut');
        machine.finalCutNote = null;
      },
    },
    runHook: ([command], _timeoutMs, signal) =>
      new Promise<HookResult>((resolve) => {
        const { boots } = machine;
        const end = (result: HookResult): void => {
          signal.removeEventListener('abort', onAbort);
          process.deliver(() => resolve(result));
        };
        const fail = (reason: string): void => end({ ok: false, reason, output: [] });
        let running: { cancel(): void } | null = null;
        const onAbort = (): void => {
          running?.cancel();
          fail('interrupted');
        };
        const onceStill = (): void => {
          if (machine.boots !== boots) return;
          if (machine.disks.every(({ inFlight }) => inFlight.length === 0)) end({ ok: true, output: [] });
          else running = scheduler.after(1, 'the workload ends', onceStill);
        };
        const run = (): void => {
          if (machine.boots !== boots) return;
          if (command === START) {
            machine.letRun('hook');
            end({ ok: true, output: [] });
          } else if (rng.chance(CHANCE_OF_A_FAILURE)) {
            if (rng.chance(0.5)) machine.shutDown('hook');
            fail('exit code 1');
          } else {
            machine.shutDown('hook');
            onceStill();
          }
        };
        process.act(() => {
          if (signal.aborted) return fail('interrupted');
          signal.addEventListener('abort', onAbort, { once: true });
          running = scheduler.after(rng.between(0, HOOK_MS), `${machine.name} ${command ?? ''}`, run);
        });
      }),
  };
}
