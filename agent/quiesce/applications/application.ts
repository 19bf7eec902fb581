/**
 * What a database does for a point, seen from the one who quiesces. Steps come in this order, each at most once: `prepare`, `hold`, `release`; `close`
 * ends it at any time. A session that is lost gives everything back by itself: no lock outlives the process that took it.
 */
import type { Clock } from '../../../shared/clock.js';
import { AfterimageError } from '../../../shared/errors.js';
import type { ApplicationKind } from '../plan/applications.js';

export interface ApplicationContext {
  readonly clock: Clock;
  /** Name of the point for logs of the database, 63 bytes at most. */
  readonly label: string;
  /** From the first application that is touched until all run again (ms). */
  readonly deadlineMs: number;
  /** For how long writes may be held back (ms): the server ends our session a little later by itself. */
  readonly heldMs: number;
  /** Ends whatever is under way. */
  readonly signal: AbortSignal;
}

export interface Prepared {
  /** For the point: what was done, with what proves it. */
  readonly detail: string;
  /** Folders of its files, as the server tells them. */
  readonly dataDirs: readonly string[];
}

export interface Application {
  readonly kind: ApplicationKind;
  readonly name: string;
  /** Connects and finds out where the files lie; nothing of the workload is touched. */
  locate(context: ApplicationContext): Promise<readonly string[]>;
  /** What may take a while and holds nobody back: a checkpoint, a save. */
  prepare(context: ApplicationContext): Promise<string>;
  /** What comes just before the freeze and is quick; holds commits back where that is needed. */
  hold(context: ApplicationContext): Promise<string>;
  /** Whether what was held is held until now; gives it back. */
  release(): Promise<boolean>;
  /** Ends the session; never throws. */
  close(): void;
}

export const applicationError = (name: string, what: string, hint: string, cause?: unknown): AfterimageError =>
  new AfterimageError(`${name}: ${what}`, { code: 'application', kind: 'io', hint, cause });
