/**
 * What to fetch before it is asked for, from what was asked so far. Pure: no I/O, no clock; what it says may be ignored.
 *
 * Requests are told apart into streams: one that goes on about where another ended belongs to it (clients have several requests in flight and
 * send them slightly out of order). A stream that went on once is sequential: it gets a window, which doubles each time the client has come
 * through half of what was fetched ahead. What begins elsewhere begins a stream of its own, and gets nothing until it goes on: random reads
 * cost nothing. The stream that rested longest is forgotten for a new one.
 */
import { READ_AHEAD_BYTES_MAX, READ_AHEAD_BYTES_MIN, READ_AHEAD_STREAMS_MAX } from '../../shared/limits.js';

export interface ReadAheadOptions {
  /** Nothing is asked for beyond this. */
  readonly sizeBytes: number;
  /** First window of a sequential stream. */
  readonly windowBytesMin?: number;
  /** Largest window. */
  readonly windowBytesMax?: number;
  readonly streamsMax?: number;
}

export interface Range {
  readonly offset: number;
  readonly lengthBytes: number;
}

interface Stream {
  /** Where it began: what is before isn't its own. */
  readonly start: number;
  /** End of the furthest request. */
  end: number;
  /** End of what was fetched ahead; at least `end`. */
  aheadEnd: number;
  /** 0 until it is sequential. */
  windowBytes: number;
}

export class ReadAhead {
  readonly #sizeBytes: number;
  readonly #min: number;
  readonly #max: number;
  readonly #streamsMax: number;
  /** In order of use, oldest first. */
  #streams: Stream[] = [];

  constructor(options: ReadAheadOptions) {
    this.#sizeBytes = options.sizeBytes;
    this.#max = options.windowBytesMax ?? READ_AHEAD_BYTES_MAX;
    this.#min = Math.min(options.windowBytesMin ?? READ_AHEAD_BYTES_MIN, this.#max);
    this.#streamsMax = options.streamsMax ?? READ_AHEAD_STREAMS_MAX;
  }

  /** Takes note of a read; returns what to fetch now, or null. Ranges of one stream follow each other and don't overlap. */
  next(offset: number, lengthBytes: number): Range | null {
    const end = offset + lengthBytes;
    const stream = this.#streamOf(offset, end);
    if (stream === undefined) {
      this.#streams.push({ start: offset, end, aheadEnd: end, windowBytes: 0 });
      if (this.#streams.length > this.#streamsMax) this.#streams.shift();
      return null;
    }
    this.#streams = [...this.#streams.filter((s) => s !== stream), stream];
    // Asked for again, or a straggler: the stream didn't move.
    if (end <= stream.end) return null;
    stream.end = end;
    if (stream.windowBytes > 0 && stream.aheadEnd - end > stream.windowBytes / 2) return null;
    stream.windowBytes = stream.windowBytes === 0 ? this.#min : Math.min(stream.windowBytes * 2, this.#max);
    const from = Math.max(stream.aheadEnd, end);
    const to = Math.min(end + stream.windowBytes, this.#sizeBytes);
    if (to <= from) return null;
    stream.aheadEnd = to;
    return { offset: from, lengthBytes: to - from };
  }

  /** The stream that a request goes on with: it begins within it, or not far behind its end. Of several the one that was used last. */
  #streamOf(offset: number, end: number): Stream | undefined {
    const slack = Math.max(end - offset, this.#min);
    return this.#streams.findLast((s) => offset <= s.end + slack && offset >= Math.max(s.start, s.end - 2 * slack));
  }
}
