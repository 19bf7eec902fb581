/**
 * What agent and guard say to each other: one JSON line per message over the guard's stdin and stdout. The guard says `ready` once,
 * answers a freeze with `frozen` or `failed`, and ends after `thawed` or `failed`.
 */
export type GuardCommand = { readonly do: 'freeze'; readonly deadlineMs: number } | { readonly do: 'thaw' };

export type ThawCause = 'command' | 'deadline' | 'agent-gone' | 'signal' | 'crash';

export type GuardReport =
  | { readonly is: 'ready' }
  | { readonly is: 'frozen'; readonly tookMs: number; readonly memoryLocked: boolean }
  /** Nothing is frozen any more. `index`: which filesystem refused. */
  | { readonly is: 'failed'; readonly index: number; readonly errno: number; readonly frozenMs: number }
  /** `held`: every filesystem was still frozen when we thawed it. `stuck`: these could not be thawed. */
  | {
      readonly is: 'thawed';
      readonly cause: ThawCause;
      readonly held: boolean;
      readonly stuck: readonly number[];
      readonly frozenMs: number;
    };

/** Calls back with each whole line of a stream of bytes. */
export function lineSplitter(onLine: (line: string) => void): (bytes: Buffer) => void {
  let rest = '';
  return (bytes) => {
    const lines = (rest + bytes.toString('utf8')).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) onLine(line);
  };
}
