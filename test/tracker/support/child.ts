/**
 * Runs a TypeScript file as a process of its own, which can then be killed: bundled once, started with node.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'vite';

const root = new URL('../../../', import.meta.url).pathname;

/** A bundle of test/tracker/support/<name>.ts. It lies below node_modules, so that packages are found; the caller removes it. */
export async function bundle(name: string): Promise<{ readonly file: string; readonly directory: string }> {
  const cache = join(root, 'node_modules/.cache');
  mkdirSync(cache, { recursive: true });
  const directory = mkdtempSync(join(cache, 'afterimage-test-'));
  await build({
    configFile: false,
    root,
    logLevel: 'silent',
    build: {
      ssr: join(root, 'test/tracker/support', `${name}.ts`),
      outDir: directory,
      emptyOutDir: false,
      target: 'node20',
    },
  });
  const [file] = readdirSync(directory);
  if (file === undefined) throw new Error(`no bundle of ${name}`);
  return { file: join(directory, file), directory };
}

/** Starts a bundle and resolves when it has printed a line. */
export async function startChild(file: string, argument: unknown): Promise<{ child: ChildProcess; line: string }> {
  const child = spawn(process.execPath, [file, JSON.stringify(argument)], { stdio: ['ignore', 'pipe', 'inherit'] });
  const line = await new Promise<string>((resolve, reject) => {
    child.stdout.once('data', (data: Buffer) => resolve(data.toString().trim()));
    child.once('exit', (code) => reject(new Error(`child ended with ${code}`)));
  });
  return { child, line };
}

export async function killChild(child: ChildProcess): Promise<void> {
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await gone;
}
