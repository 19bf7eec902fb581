/**
 * Lays out a package as it will lie on the machine: /usr/lib/NAME holds everything, /usr/bin a command that starts it. The folder belongs to
 * the caller; dpkg-deb makes root its owner.
 */
import { createHash } from 'node:crypto';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { closure, filesBelow, isShipped } from './closure.js';
import type { NodeBinary } from './node-binary.js';
import { controlText, type Recipe } from './recipe.js';

export interface StageOptions {
  /** Of the checkout. */
  readonly root: string;
  /** What the compiler made. */
  readonly dist: string;
  readonly target: string;
  readonly node: NodeBinary;
  readonly version: string;
  readonly architecture: string;
}

const SCRIPTS = ['postinst', 'prerm', 'postrm'] as const;
const EXECUTABLE = 0o755;
const PLAIN = 0o644;

function place(from: string, to: string, mode: number): void {
  mkdirSync(dirname(to), { recursive: true, mode: EXECUTABLE });
  copyFileSync(from, to);
  chmodSync(to, mode);
}

function write(to: string, text: string, mode: number): void {
  mkdirSync(dirname(to), { recursive: true, mode: EXECUTABLE });
  writeFileSync(to, text);
  chmodSync(to, mode);
}

/** The compiler leaves what it made of sources that are gone. */
const isCompiled = (root: string, folder: string, path: string): boolean =>
  path.endsWith('.js') && existsSync(join(root, folder, path.replace(/\.js$/, '.ts')));

const wrapper = (recipe: Recipe, program: string): string =>
  `#!/bin/sh\nexec /usr/lib/${recipe.name}/bin/node /usr/lib/${recipe.name}/dist/${program} "$@"\n`;

export function stage(recipe: Recipe, options: StageOptions): void {
  const { root, dist, target, node, version, architecture } = options;
  const home = join(target, 'usr/lib', recipe.name);
  for (const folder of recipe.folders) {
    for (const path of filesBelow(join(dist, folder)))
      if (isCompiled(root, folder, path)) place(join(dist, folder, path), join(home, 'dist', folder, path), PLAIN);
  }
  const programs = recipe.folders.map((folder) => join(dist, folder));
  for (const folder of closure(root, programs)) {
    for (const path of filesBelow(join(root, folder)))
      if (isShipped(path)) place(join(root, folder, path), join(home, folder, path), PLAIN);
  }
  // Makes Node read dist/ as modules, and tells the version.
  write(join(home, 'package.json'), `${JSON.stringify({ name: recipe.name, version, type: 'module' })}\n`, PLAIN);
  place(node.path, join(home, 'bin/node'), EXECUTABLE);
  for (const [name, program] of Object.entries(recipe.commands))
    write(join(target, 'usr/bin', name), wrapper(recipe, program), EXECUTABLE);
  for (const [file, folder] of Object.entries(recipe.units)) {
    const to = folder.endsWith('.conf') ? join(target, folder) : join(target, folder, file);
    place(join(root, 'systemd', file), to, file.endsWith('.shutdown') ? EXECUTABLE : PLAIN);
  }
  const doc = join(target, 'usr/share/doc', recipe.name);
  place(join(root, 'LICENSE'), join(doc, 'copyright'), PLAIN);
  place(node.licencePath, join(doc, 'copyright.node'), PLAIN);
  place(join(root, 'README.md'), join(doc, 'README.md'), PLAIN);
  control(recipe, target, join(root, 'systemd/package', recipe.scripts), { version, architecture });
}

function control(
  recipe: Recipe,
  target: string,
  scripts: string,
  facts: { readonly version: string; readonly architecture: string },
): void {
  const files = filesBelow(target);
  const md5 = (path: string): string =>
    createHash('md5')
      .update(readFileSync(join(target, path)))
      .digest('hex');
  const bytes = files.reduce((sum, path) => sum + statSync(join(target, path)).size, 0);
  const debian = join(target, 'DEBIAN');
  write(join(debian, 'md5sums'), files.map((path) => `${md5(path)}  ${path}\n`).join(''), PLAIN);
  write(join(debian, 'control'), controlText(recipe, { ...facts, installedKib: Math.ceil(bytes / 1024) }), PLAIN);
  for (const name of SCRIPTS)
    if (existsSync(join(scripts, name))) place(join(scripts, name), join(debian, name), EXECUTABLE);
}
