/**
 * What a workload writes to a disk: numbered lines, one block each, one after the other, round and round over a part of the disk. So an image of the
 * disk says by itself how far its writer had come, and whether anything of it is missing, too new, or somebody else's.
 */
export const LINE_BYTES = 4096;
/** Blocks that are written over and over. */
const PLACES = 512;
const STRIDE = 37;
export const LINES_AREA_BYTES = PLACES * LINE_BYTES;

export const offsetOf = (line: number): number => ((line * STRIDE) % PLACES) * LINE_BYTES;

function contentOf(line: number, writer: string): Buffer {
  const text = `line ${line} of ${writer}\n`;
  return Buffer.from(text.repeat(Math.ceil(LINE_BYTES / text.length)).slice(0, LINE_BYTES), 'latin1');
}

export class History {
  /** Who wrote line n, at n - 1; the last may be under way. */
  readonly #writers: string[];
  /** Lines up to this one have landed for certain. */
  acknowledged: number;

  constructor(writers: readonly string[] = []) {
    this.#writers = [...writers];
    this.acknowledged = writers.length;
  }

  /** The same up to a line, to be gone on with by somebody else. */
  upTo(line: number): History {
    return new History(this.#writers.slice(0, line));
  }

  /** The next line, and what it is to hold. */
  next(writer: string): { readonly line: number; readonly content: Buffer } {
    const line = this.#writers.push(writer);
    return { line, content: contentOf(line, writer) };
  }

  /** The line up to which an image holds everything, and nothing that came later; throws when it is no such image. */
  within(image: Buffer): number {
    let newest = 0;
    for (let at = 0; at < LINES_AREA_BYTES; at += LINE_BYTES) {
      const found = /^line (\d+) of /.exec(image.toString('latin1', at, at + 40));
      newest = Math.max(newest, Number(found?.[1] ?? 0));
    }
    const expected = Buffer.alloc(LINES_AREA_BYTES);
    for (let line = 1; line <= newest; line++) {
      const writer = this.#writers[line - 1];
      if (writer === undefined) throw new Error(`line ${line} was never written by this history`);
      contentOf(line, writer).copy(expected, offsetOf(line));
    }
    for (let at = 0; at < LINES_AREA_BYTES; at += LINE_BYTES) {
      if (image.compare(expected, at, at + LINE_BYTES, at, at + LINE_BYTES) === 0) continue;
      const [is, shall] = [image, expected].map((b) => JSON.stringify(b.toString('latin1', at, at + 30)));
      throw new Error(`the image ends with line ${newest}, but at ${at} it has ${is}, not ${shall}`);
    }
    return newest;
  }
}
