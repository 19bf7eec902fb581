/**
 * Compiles a module and what it imports from this repository into a folder below node_modules, for tests that start it as a
 * process of its own (the thaw guard, an agent to be killed). Packages resolve as usual from there.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import ts from 'typescript';

const ROOT = resolve(import.meta.dirname, '../..');

export interface Compiled {
  /** Path of the compiled module. */
  readonly path: (source: string) => string;
  readonly remove: () => void;
}

/** `entries`: paths from the root of the repository, e.g. `agent/quiesce/guard-main.ts`. */
export function compile(entries: readonly string[]): Compiled {
  const out = mkdtempSync(join(ROOT, 'node_modules/.afterimage-test-'));
  writeFileSync(join(out, 'package.json'), '{"type":"module"}');
  const seen = new Set<string>();
  const emit = (file: string): void => {
    if (seen.has(file)) return;
    seen.add(file);
    const { outputText } = ts.transpileModule(readFileSync(file, 'utf8'), {
      compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext, verbatimModuleSyntax: true },
    });
    const target = join(out, relative(ROOT, file)).replace(/\.ts$/, '.js');
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, outputText);
    for (const [, specifier] of outputText.matchAll(/(?:from|import) '(\.[^']+)\.js'/g)) {
      if (specifier !== undefined) emit(resolve(dirname(file), `${specifier}.ts`));
    }
  };
  for (const entry of entries) emit(join(ROOT, entry));
  return {
    path: (source) => join(out, source.replace(/\.ts$/, '.js')),
    remove: () => rmSync(out, { recursive: true, force: true }),
  };
}
