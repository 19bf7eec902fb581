/**
 * Before all tests: compiles the programs that the end-to-end tests run, so that what is tested is what is shipped.
 * Type errors are shown, not fatal here: `npm test` runs the linter and the compiler before, and fails on them.
 */
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export default function build(): void {
  // The lanes of `npm test` share what it has built.
  if (process.env['AFTERIMAGE_TEST_BUILT'] === '1') return;
  const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
  const compiler = join(root, 'node_modules/typescript/bin/tsc');
  spawnSync(process.execPath, [compiler, '-p', join(root, 'tsconfig.json')], { cwd: root, stdio: 'inherit' });
}
