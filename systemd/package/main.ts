/**
 * `npm run package`: Debian packages of agent and receiver in dist/package, each with its Node.js and its npm packages inside. Needs dpkg-deb; no root.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command, Option } from 'commander';
import { runCommandLine } from '../../shared/cli.js';
import { usageError } from '../../shared/errors.js';
import { VERSION } from '../../shared/version.js';
import { nodeBinary } from './node-binary.js';
import { debianArchitecture, isDebianVersion, RECIPES, type PackageName } from './recipe.js';
import { stage } from './stage.js';

/** dist/systemd/package/main.js stands three folders below the checkout's `dist`. */
const DIST = join(dirname(fileURLToPath(import.meta.url)), '../..');
const ROOT = resolve(DIST, '..');

interface Options {
  readonly out: string;
  readonly version: string;
  readonly node: string;
  readonly nodeLicence?: string;
  readonly compress: string;
}

/** Files are dated as the commit is, so that the same sources make the same package. */
function sourceDate(): string {
  const given = process.env['SOURCE_DATE_EPOCH'];
  if (given !== undefined) return given;
  try {
    return execFileSync('git', ['-C', ROOT, 'log', '-1', '--format=%ct'], { encoding: 'utf8' }).trim();
  } catch {
    return '0';
  }
}

function build(name: PackageName, options: Options): string {
  const { version } = options;
  const architecture = debianArchitecture(process.arch);
  if (architecture === undefined) throw usageError(`no packages for processor architecture ${process.arch}`);
  const node = nodeBinary(resolve(options.node), options.nodeLicence);
  const out = resolve(options.out);
  mkdirSync(out, { recursive: true });
  const target = mkdtempSync(join(out, '.stage-'));
  try {
    stage(RECIPES[name], { root: ROOT, dist: DIST, target: join(target, 'root'), node, version, architecture });
    const path = join(out, `${name}_${version}_${architecture}.deb`);
    const level = options.compress === 'gzip' ? ['-z1'] : [];
    execFileSync(
      'dpkg-deb',
      ['--root-owner-group', `-Z${options.compress}`, ...level, '--build', join(target, 'root'), path],
      {
        stdio: ['ignore', 'ignore', 'inherit'],
        env: { ...process.env, SOURCE_DATE_EPOCH: sourceDate() },
      },
    );
    return path;
  } finally {
    rmSync(target, { recursive: true, force: true });
  }
}

const isName = (text: string): text is PackageName => text in RECIPES;

const program = new Command('package')
  .description('Builds Debian packages of what was compiled.')
  .argument('[package...]', `of ${Object.keys(RECIPES).join(', ')}`, Object.keys(RECIPES))
  .option('--out <folder>', 'where they go', join(DIST, 'package'))
  .option('--version <version>', 'another version than that of package.json', VERSION)
  .option('--node <path>', 'the Node.js that goes inside', process.execPath)
  .option('--node-licence <path>', 'its licence, where it does not lie beside it')
  .addOption(
    new Option('--compress <kind>', 'xz is small, gzip is made and unpacked fast, none fastest')
      .choices(['xz', 'gzip', 'none'])
      .default('xz'),
  )
  .action((names: string[], options: Options) => {
    if (!isDebianVersion(options.version)) throw usageError(`${options.version} is not a version that dpkg knows`);
    for (const name of names) {
      if (!isName(name))
        throw usageError(`there is no package ${name}`, `There are: ${Object.keys(RECIPES).join(', ')}.`);
      process.stdout.write(`${build(name, options)}\n`);
    }
  });

await runCommandLine(program, process.argv.slice(2));
