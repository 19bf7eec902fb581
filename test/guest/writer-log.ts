/**
 * What a guest's background writer leaves in /writer.log, checked: each line can be computed from its number and boot, numbers rise by one.
 */
export interface WriterLog {
  readonly lines: number;
  /** Number of the last whole line; 0 for none. */
  readonly last: number;
  /** The boot that wrote it. */
  readonly lastBoot: number;
}

const LINE = /^(\d+) boot=(\d+) sum=(\d+)$/;

/** Throws when a line is not what the writer writes or one is missing. A half line at the very end is a write that was under way. */
export function readWriterLog(text: string): WriterLog {
  const lines = text.split('\n');
  lines.pop();
  let [last, lastBoot] = [0, 0];
  for (const line of lines) {
    const match = LINE.exec(line);
    if (match === null)
      throw new Error(`writer.log: line after ${last} is damaged: ${JSON.stringify(line.slice(0, 100))}`);
    const [number, boot, sum] = [Number(match[1]), Number(match[2]), BigInt(match[3] ?? '')];
    if (number !== last + 1) throw new Error(`writer.log: line ${number} follows line ${last}`);
    if (boot < lastBoot) throw new Error(`writer.log: line ${number} of boot ${boot} follows boot ${lastBoot}`);
    if (sum !== ((BigInt(number) * 2654435761n + BigInt(boot) * 40503n) & 0xffffffffn)) {
      throw new Error(`writer.log: line ${number} has a wrong sum`);
    }
    [last, lastBoot] = [number, boot];
  }
  return { lines: lines.length, last, lastBoot };
}
