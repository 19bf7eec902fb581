/**
 * A process that writes to one file of a filesystem all the time, and knows for how long it couldn't. Argument: the file. Says `writes` at its first one,
 * and each time that one ended later after the one before than any so far: `stall MS`; answers each line of its input with `written COUNT`.
 */
import { openSync, writeSync } from 'node:fs';

const file = openSync(process.argv[2] ?? '', 'w');
let count = 0;
let longestMs = 1;
let lastMs = performance.now();
process.stdin.on('data', () => writeSync(1, `written ${count}\n`));
process.stdin.on('end', () => process.exit(0));

function write(): void {
  writeSync(file, 'x', 0);
  const nowMs = performance.now();
  if (++count === 1) writeSync(1, 'writes\n');
  else if (nowMs - lastMs > longestMs) {
    longestMs = nowMs - lastMs;
    writeSync(1, `stall ${longestMs.toFixed(1)}\n`);
  }
  lastMs = nowMs;
  // A moment for others: it need not write more often than the shortest freeze.
  setTimeout(write, 1);
}
write();
