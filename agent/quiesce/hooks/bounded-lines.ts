/**
 * Lines of a program's output in bounded memory: what is beyond the limit of a line is dropped as it comes. Pure.
 */
import { StringDecoder } from 'node:string_decoder';

/** Calls back with each whole line, cut to `charsMax`; empty lines are left out. What has no newline yet is told with the next bytes. */
export function boundedLines(charsMax: number, onLine: (line: string) => void): (bytes: Buffer) => void {
  const decoder = new StringDecoder('utf8');
  let rest = '';
  return (bytes) => {
    const lines = (rest + decoder.write(bytes)).split('\n');
    rest = (lines.pop() ?? '').slice(0, charsMax);
    for (const line of lines) if (line.trim() !== '') onLine(line.trimEnd().slice(0, charsMax));
  };
}
