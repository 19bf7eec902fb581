/**
 * The packages as they are built: complete in themselves, and what their scripts do in a small root of their own, with a systemctl that writes
 * down what it is asked. (In a machine with systemd they are proven by test/guest-life.)
 */
import { execFile } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { controlText, debianArchitecture, RECIPES } from '../../systemd/package/recipe.js';
import { BUILD } from '../e2e/program.js';

const run = promisify(execFile);
const SOURCES = join(import.meta.dirname, '../..');
const BUSYBOX = '/bin/busybox';
const isRoot = process.getuid?.() === 0;
const canInstall = isRoot && existsSync(BUSYBOX) && existsSync('/usr/share/doc/busybox-static');
if (!canInstall) console.warn('packages are not installed: needs root and busybox-static');
const LIMIT_MS = 300_000;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'afterimage-package-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function build(name: string, version: string): Promise<string> {
  const options = ['--compress', 'gzip', '--out', folder, '--version', version];
  const { stdout } = await run(process.execPath, [join(BUILD, 'systemd/package/main.js'), name, ...options]);
  return stdout.trim();
}

/** Imports every module that isn't a program of its own, where no other node_modules can be found. */
const IMPORT_ALL = `
import { readdirSync } from 'node:fs';
const dist = process.argv[2];
const programs = new Set(process.argv.slice(3));
for (const entry of readdirSync(dist, { recursive: true, withFileTypes: true })) {
  const path = entry.parentPath + '/' + entry.name;
  if (entry.isFile() && !programs.has(path.slice(dist.length + 1))) await import(path);
}
console.log('all');
process.exit(0);
`;

describe.each([
  ['afterimage-agent', ['agent/main.js', 'agent/quiesce/guard-main.js'], 'receiver'],
  [
    'afterimage-receiver',
    ['receiver/main.js', 'receiver/cli/main.js', 'receiver/failover/compute/guest-supervisor.js'],
    'agent',
  ],
] as const)('%s', (name, programs, other) => {
  test('has all that it needs inside, and nothing of the other side', { timeout: LIMIT_MS }, async () => {
    const deb = await build(name, '1.2.3');
    expect(deb).toMatch(/_1\.2\.3_(amd64|arm64)\.deb$/);
    const root = join(folder, name);
    await run('dpkg-deb', ['-R', deb, root]);
    const home = join(root, 'usr/lib', name);
    const node = join(home, 'bin/node');
    const importer = join(home, 'import-all.mjs');
    await writeFile(importer, IMPORT_ALL);
    const env = { PATH: '/nowhere' };
    const all = await run(node, [importer, join(home, 'dist'), ...programs], { env, cwd: '/' });
    expect(all.stdout).toBe('all\n');
    const version = await run(node, [join(home, 'dist', programs[0]), '--version'], { env, cwd: '/' });
    expect(version.stdout).toBe('1.2.3\n');
    expect(existsSync(join(home, 'dist', other))).toBe(false);
    expect(readdirSync(join(home, 'dist'))).not.toContain('test');
    // Unpacked files are those whose sums it lists.
    await run('md5sum', ['--quiet', '-c', 'DEBIAN/md5sums'], { cwd: root });
    const scripts = ['postinst', 'prerm', 'postrm'].map((script) => join(root, 'DEBIAN', script));
    for (const script of scripts) await run('sh', ['-n', script]);
  });
});

const SYSTEMCTL = `#!/bin/sh
echo "$*" >> /systemctl.log
case "$*" in *is-enabled*) [ -e /enabled ];; esac
`;

/** A root of busybox alone, in which dpkg runs the scripts of packages. */
class SmallRoot {
  constructor(readonly path: string) {}

  /** The package's scripts and units alone: dpkg needs minutes for all of it on a busy machine. */
  async scriptsOnly(version: string): Promise<string> {
    const tree = await mkdtemp(join(folder, 'scripts-'));
    await mkdir(join(tree, 'DEBIAN'));
    await mkdir(join(tree, 'usr/lib/systemd/system'), { recursive: true });
    const recipe = RECIPES['afterimage-agent'];
    const facts = { version, architecture: debianArchitecture(process.arch) ?? '', installedKib: 1 };
    await writeFile(join(tree, 'DEBIAN/control'), controlText(recipe, facts));
    for (const script of ['postinst', 'prerm', 'postrm'])
      await copyFile(join(SOURCES, 'systemd/package/agent', script), join(tree, 'DEBIAN', script));
    for (const unit of Object.keys(recipe.units))
      await copyFile(join(SOURCES, 'systemd', unit), join(tree, 'usr/lib/systemd/system', unit));
    const deb = `${tree}.deb`;
    await run('dpkg-deb', ['--root-owner-group', '-Zgzip', '--build', tree, deb]);
    return deb;
  }

  async make(): Promise<void> {
    for (const at of [
      'bin',
      'usr/bin',
      'run/systemd/system',
      'var/lib/dpkg/updates',
      'var/lib/dpkg/info',
      'tmp',
      'etc',
      'dev',
    ])
      await mkdir(join(this.path, at), { recursive: true });
    await copyFile(BUSYBOX, join(this.path, 'bin/busybox'));
    for (const applet of ['sh', 'cat', 'echo', 'sed', 'rm', 'rmdir', '['])
      await symlink('busybox', join(this.path, 'bin', applet));
    await writeFile(join(this.path, 'dev/null'), '');
    for (const file of ['status', 'available']) await writeFile(join(this.path, 'var/lib/dpkg', file), '');
    for (const tool of ['systemctl', 'systemd-sysusers']) {
      await writeFile(join(this.path, 'usr/bin', tool), SYSTEMCTL);
      await chmod(join(this.path, 'usr/bin', tool), 0o755);
    }
  }

  /** What dpkg printed; what systemctl was asked is in `asked`. */
  async dpkg(...args: string[]): Promise<string> {
    await writeFile(join(this.path, 'systemctl.log'), '');
    const { stdout, stderr } = await run('dpkg', [`--root=${this.path}`, '--force-depends', '--no-triggers', ...args]);
    return stdout + stderr;
  }

  async asked(): Promise<string[]> {
    return (await readFile(join(this.path, 'systemctl.log'), 'utf8')).split('\n').filter((line) => line !== '');
  }

  has(path: string): boolean {
    return existsSync(join(this.path, path));
  }
}

test.skipIf(!canInstall)('installed, upgraded, removed and purged', { timeout: LIMIT_MS }, async () => {
  const root = new SmallRoot(join(folder, 'root'));
  await root.make();
  const first = await root.scriptsOnly('1.0.0');
  const second = await root.scriptsOnly('1.0.1');
  const state = join(root.path, 'var/lib/afterimage-agent');

  // New: it says what comes next, and enables nothing.
  expect(await root.dpkg('-i', first)).toMatch(/nothing is protected yet.*afterimage-agent enroll TOKEN/s);
  expect((await root.asked()).filter((line) => /enable |start /.test(line))).toEqual([
    'try-restart afterimage-agent.service',
  ]);
  expect(root.has('usr/lib/systemd/system/afterimage-agent.service')).toBe(true);

  // Upgrade of a machine that is protected: started again if it runs, never stopped before.
  await mkdir(state, { recursive: true });
  await writeFile(join(state, 'identity.json'), '{}');
  await writeFile(join(root.path, 'enabled'), '');
  expect(await root.dpkg('-i', second)).not.toContain('enroll');
  const upgrade = await root.asked();
  expect(upgrade).toContain('try-restart afterimage-agent.service');
  expect(upgrade.filter((line) => /\bstop\b|--now|disable/.test(line))).toEqual([]);

  // Removed: stopped, and the state stays.
  await root.dpkg('-r', 'afterimage-agent');
  expect(await root.asked()).toContain('--quiet disable --now afterimage-agent.service');
  expect(root.has('usr/lib/systemd/system/afterimage-agent.service')).toBe(false);
  expect(root.has('var/lib/afterimage-agent/identity.json')).toBe(true);

  // Installed again over the state: it says that the agent is not enabled.
  await rm(join(root.path, 'enabled'));
  expect(await root.dpkg('-i', second)).toContain('is enrolled, but its agent is not enabled');

  // Purged: nothing of the agent is left; what is not its own stays.
  await mkdir(join(root.path, 'etc/afterimage'), { recursive: true });
  await writeFile(join(root.path, 'etc/afterimage/agent.yaml'), 'interval: 5s\n');
  await writeFile(join(root.path, 'etc/afterimage/receiver.yaml'), '');
  await root.dpkg('-P', 'afterimage-agent');
  expect(root.has('var/lib/afterimage-agent')).toBe(false);
  expect(root.has('etc/afterimage/agent.yaml')).toBe(false);
  expect(root.has('etc/afterimage/receiver.yaml')).toBe(true);
});
