/**
 * Which installed npm packages a set of program files needs: those of our own dependencies that they name, and what these depend on. Reads
 * node_modules, changes nothing.
 */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { z } from 'zod';

const manifestSchema = z.object({
  dependencies: z.record(z.string(), z.string()).default({}),
  optionalDependencies: z.record(z.string(), z.string()).default({}),
  peerDependencies: z.record(z.string(), z.string()).default({}),
});
type Manifest = z.infer<typeof manifestSchema>;

const manifestOf = (folder: string): Manifest =>
  manifestSchema.parse(JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')));

/** All files below a folder, as paths from it. */
export function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() || entry.isSymbolicLink())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort();
}

/** Names of these that stand as texts of their own in program text: imported, required, or resolved in some other way. */
export const namedIn = (text: string, names: readonly string[]): string[] =>
  names.filter((name) => [`'${name}'`, `"${name}"`, `'${name}/`, `"${name}/`].some((quoted) => text.includes(quoted)));

/** As Node finds it: in node_modules beside `from`, or beside a folder above it. */
function find(name: string, from: string, root: string): string | null {
  for (let folder = from; ; folder = dirname(folder)) {
    const candidate = join(folder, 'node_modules', name);
    if (existsSync(join(candidate, 'package.json'))) return candidate;
    if (folder === root || folder === dirname(folder)) return null;
  }
}

/** Folders of the packages, below `root`. Optional ones that npm left out, being of other platforms, are left out here too. */
export function closure(root: string, programFolders: readonly string[]): string[] {
  const own = Object.keys(manifestOf(root).dependencies);
  const texts = programFolders.flatMap((folder) =>
    filesBelow(folder)
      .filter((path) => path.endsWith('.js'))
      .map((path) => readFileSync(join(folder, path), 'utf8')),
  );
  const found = new Set<string>();
  const open: { readonly name: string; readonly from: string; readonly required: boolean }[] = [
    ...new Set(texts.flatMap((text) => namedIn(text, own))),
  ].map((name) => ({ name, from: root, required: true }));
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const folder = find(next.name, next.from, root);
    if (folder === null) {
      if (next.required) throw new Error(`${next.name}, which ${next.from} needs, is not installed: run npm ci`);
      continue;
    }
    if (found.has(folder)) continue;
    found.add(folder);
    const { dependencies, optionalDependencies, peerDependencies } = manifestOf(folder);
    for (const name of Object.keys(dependencies))
      open.push({ name, from: folder, required: !(name in optionalDependencies) });
    for (const name of Object.keys({ ...optionalDependencies, ...peerDependencies }))
      open.push({ name, from: folder, required: false });
  }
  return [...found].map((folder) => folder.slice(root.length + 1)).sort();
}

const PROGRAM = /\.(js|cjs|mjs|json|node|wasm)$/;
/** What authors of packages run and nobody else: a third of all files, and files are what installing takes its time for. */
const FOR_AUTHORS = /^(tests?|__tests__|bench|benchmarks?|examples?|docs)\/|\.(test|spec|bench)\.[cm]?js$/;
const LICENCE = /^(licen[cs]e|notice|copying|authors)/i;
/** Sources of what is built, and builds for the other C library. */
const SUPERFLUOUS = /(^|\/)(node_modules|vendor|\.github|musl_[^/]*)(\/|$)|^src\/.*\.(c|cc|h|hh)$/;

/** Whether a file of a package is needed to run it, or says under which terms it may be. Packages within are asked about by themselves. */
export function isShipped(path: string): boolean {
  if (SUPERFLUOUS.test(path) || FOR_AUTHORS.test(path)) return false;
  const name = path.slice(path.lastIndexOf('/') + 1);
  return PROGRAM.test(name) || LICENCE.test(name);
}
