/** What the adapters of buckets are given; all that is ambient comes in here. */
import type { Clock } from '../../shared/clock.js';
import type { RequestTiming } from './requests.js';
import type { RequestWatch } from './watch.js';

export interface RemoteOptions {
  readonly clock: Clock;
  /** 0 ≤ x < 1. */
  readonly random: () => number;
  /** Ids in the metadata of objects. */
  readonly newId?: (() => string) | undefined;
  readonly watch?: RequestWatch | undefined;
  /** Names in one page of a listing, or one request for deletion, when it shall be fewer than the server's most. */
  readonly pageNames?: number | undefined;
  /** Time limits other than the usual. */
  readonly timing?: RequestTiming | undefined;
}
