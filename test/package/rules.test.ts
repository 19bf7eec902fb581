/** What goes into a package: the rules, as tables. */
import { expect, test } from 'vitest';
import { isShipped, namedIn } from '../../systemd/package/closure.js';
import { foreignLibraries, isNewEnough } from '../../systemd/package/node-binary.js';
import { controlText, debianArchitecture, isDebianVersion, RECIPES } from '../../systemd/package/recipe.js';

test.each([
  ['an import', `import koffi from 'koffi';`, ['koffi']],
  ['one that is loaded later', `await import("ws")`, ['ws']],
  ['through createRequire', `createRequire(import.meta.url)('lz4-napi')`, ['lz4-napi']],
  ['a file within', `import x from '@peculiar/x509/more.js'`, ['@peculiar/x509']],
  ['another of that beginning', `import x from 'ws-extra'`, []],
  ['a word in a text', `throw new Error('koffi failed')`, []],
])('%s is found', (_what, text, expected) => {
  expect(namedIn(text, ['koffi', 'ws', 'lz4-napi', '@peculiar/x509'])).toEqual(expected);
});

test.each([
  ['index.js', true],
  ['linux_x64/koffi.node', true],
  ['musl_x64/koffi.node', false],
  ['dist/index.cjs', true],
  ['package.json', true],
  ['xxhash.wasm', true],
  ['LICENSE', true],
  ['LICENCE.txt', true],
  ['index.d.ts', false],
  ['index.js.map', false],
  ['README.md', false],
  ['src/koffi.cc', false],
  ['vendor/node-addon-api/index.js', false],
  ['node_modules/other/index.js', false],
  ['test/index.js', false],
  ['lib/handler.test.js', false],
  ['benchmark/run.mjs', false],
  ['lib/test/double.js', true],
  ['lib/testing.js', true],
])('%s is shipped: %s', (path, expected) => expect(isShipped(path)).toBe(expected));

test('a Node.js that needs more than libc, libstdc++ and libgcc is refused', () => {
  const official =
    '\tlinux-vdso.so.1 (0x1)\n\tlibdl.so.2 => /lib/libdl.so.2 (0x2)\n\tlibstdc++.so.6 => /x (0x3)\n\t/lib64/ld-linux-x86-64.so.2 (0x4)\n';
  expect(foreignLibraries(official)).toEqual([]);
  expect(foreignLibraries(`${official}\tlibnode.so.108 => /lib/libnode.so.108 (0x5)\n`)).toEqual(['libnode.so.108']);
});

test.each([
  ['v20.18.3', false],
  ['v20.19.0', true],
  ['v22.1.0', true],
  ['v18.20.4', false],
])('Node.js %s is new enough: %s', (version, expected) => expect(isNewEnough(version)).toBe(expected));

test('versions and architectures that dpkg knows', () => {
  expect(isDebianVersion('0.1.0')).toBe(true);
  expect(isDebianVersion('0.1.0+git1~rc1')).toBe(true);
  expect(isDebianVersion('v1')).toBe(false);
  expect(isDebianVersion('1 2')).toBe(false);
  expect([debianArchitecture('x64'), debianArchitecture('arm64'), debianArchitecture('ia32')]).toEqual([
    'amd64',
    'arm64',
    undefined,
  ]);
});

test('the control file depends on no nodejs: it is inside', () => {
  const text = controlText(RECIPES['afterimage-agent'], { version: '1.0', architecture: 'amd64', installedKib: 5 });
  expect(text).toMatch(/^Package: afterimage-agent\nVersion: 1\.0\nArchitecture: amd64\n/);
  expect(text).toMatch(/^Depends: libc6 /m);
  expect(text).not.toContain('nodejs');
  expect(text.endsWith('\n')).toBe(true);
});
