/**
 * Who wants to know of each request to a store: metrics, and tests that count. Told after the fact; must not throw.
 */
export const REQUEST_KINDS = ['create', 'part', 'get', 'read', 'head', 'list', 'delete', 'other'] as const;
/** `part`: what belongs to an object that is written by several requests. `other`: asked at the opening of a store. */
export type RequestKind = (typeof REQUEST_KINDS)[number];

export interface RequestRecord {
  readonly kind: RequestKind;
  /** `busy`: the store asked for fewer requests. An answer that says no (absent, taken) is `ok`. */
  readonly outcome: 'ok' | 'busy' | 'failed';
  readonly ms: number;
}

export interface RequestWatch {
  /** One request and its answer; each try is one. */
  request(record: RequestRecord): void;
  /** Content of objects that went to or came from the store. */
  moved(direction: 'written' | 'read', bytes: number): void;
}

/** Counts, for tests and benches. */
export class RequestCounts implements RequestWatch {
  readonly counts: Partial<Record<RequestKind, number>> = {};
  total = 0;
  failed = 0;
  busy = 0;
  writtenBytes = 0;
  readBytes = 0;

  request(record: RequestRecord): void {
    this.counts[record.kind] = (this.counts[record.kind] ?? 0) + 1;
    this.total++;
    if (record.outcome === 'failed') this.failed++;
    if (record.outcome === 'busy') this.busy++;
  }

  moved(direction: 'written' | 'read', bytes: number): void {
    if (direction === 'written') this.writtenBytes += bytes;
    else this.readBytes += bytes;
  }
}
