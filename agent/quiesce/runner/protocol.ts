/**
 * What the agent and the process that quiesces applications say to each other: one JSON line per message over the process' stdin and stdout.
 *
 * start → ready; prepare → prepared; hold → held; release → released; end → ended. Whatever fails, and whatever limit passes, the process undoes what it
 * did by itself and says `ended`; then it is over.
 */
import type { ApplicationsConfig } from '../config.js';
import type { Hook } from '../hooks/hook-files.js';
import type { HookCall } from '../hooks/run-hook.js';

export interface QuiesceTask {
  /** Of this point; hooks get it as a variable. */
  readonly id: string;
  /** For logs of databases. */
  readonly label: string;
  readonly applications: ApplicationsConfig;
  readonly hooks: readonly Hook[];
  /** Further variables for hooks. */
  readonly variables: Readonly<Record<string, string>>;
  /** From the first application that is touched until all run again. */
  readonly deadlineMs: number;
  /** Commits may be held back for so long. */
  readonly heldMs: number;
  /** What is frozen: `major:minor` of superblocks, and mount points. All files of the applications must lie there. */
  readonly frozen: { readonly devices: readonly string[]; readonly paths: readonly string[] };
  /** Removed when nothing is left to undo. */
  readonly notePath: string;
}

export type RunnerCommand =
  | { readonly do: 'start'; readonly task: QuiesceTask }
  /** Undo what an earlier process began: hooks are called with `abort`. */
  | { readonly do: 'undo'; readonly task: QuiesceTask; readonly hooks: readonly string[] }
  | { readonly do: 'prepare' }
  | { readonly do: 'hold' }
  | { readonly do: 'release' }
  /** `post`: the point was made with all of them quiesced. */
  | { readonly do: 'end'; readonly as: 'post' | 'abort' };

export interface ApplicationResult {
  readonly name: string;
  readonly detail: string;
}

export type EndCause = 'command' | 'failed' | 'deadline' | 'agent-gone' | 'signal';

export type RunnerReport =
  | { readonly is: 'ready' }
  /** This hook's `pre` is about to be called: whatever happens, it must get `post` or `abort`. */
  | { readonly is: 'begun'; readonly hook: string }
  | { readonly is: 'call'; readonly call: HookCall }
  | { readonly is: 'prepared'; readonly applications: readonly ApplicationResult[] }
  | { readonly is: 'held'; readonly applications: readonly ApplicationResult[] }
  /** `inTime`: every application was held back until this moment. */
  | { readonly is: 'released'; readonly inTime: boolean; readonly heldMs: number }
  | {
      readonly is: 'ended';
      readonly cause: EndCause;
      /** What failed; '' when nothing did. */
      readonly reason: string;
      /** Processes that `pre` had left behind and that had to be killed. */
      readonly killed: number;
    };
