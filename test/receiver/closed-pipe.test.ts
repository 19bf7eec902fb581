/**
 * Output into a pipe that closes early (`… | head -1`) ends a program quietly.
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

test.each(['receiver/cli/main.js', 'agent/main.js', 'receiver/main.js'])('%s', (program) => {
  const path = fileURLToPath(new URL(`../../dist/${program}`, import.meta.url));
  // The reader is gone before the first byte is written.
  const script = `"${process.execPath}" "${path}" --help | true; echo "\${PIPESTATUS[0]}"`;
  const { stdout, stderr } = spawnSync('bash', ['-c', script], { encoding: 'utf8' });
  expect(stderr.replace(/^npm warn.*\n/gm, '')).toBe('');
  expect(stdout.trim()).toBe('0');
});
