/** `npm run sim`: bad input is told apart from a world that failed. */
import { expect, it } from 'vitest';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { BUILD } from '../e2e/program.js';

it.each([
  [['--seconds', 'soon'], 'soon'],
  [['--seed', '-3'], '-3'],
  [['--forever'], '--forever'],
])('%j exits with 2 and names the value', (args, value) => {
  const { status, stderr } = spawnSync(process.execPath, [join(BUILD, 'test/sim/main.js'), ...args], {
    encoding: 'utf8',
  });
  expect(stderr).toContain(value);
  expect(status).toBe(2);
});
