/**
 * The Node.js that goes into a package. A package brings its own, because Debian 12's is too old (18), and because an agent must not
 * stop when somebody upgrades a machine's Node.js. What it is linked against becomes what the package depends on, so that has to be known.
 */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** Libraries of libc6, libstdc++6 and libgcc-s1. */
const KNOWN = /^(linux-vdso|ld-linux[\w-]*|libc|libdl|libm|libpthread|librt|libatomic|libstdc\+\+|libgcc_s)\.so/;
const OLDEST = [20, 19] as const;

/** Libraries, by the output of ldd, that no dependency of the package would bring. Pure. */
export const foreignLibraries = (lddOutput: string): string[] =>
  lddOutput
    .split('\n')
    .map((line) => line.trim().split(/\s/)[0] ?? '')
    .map((name) => name.slice(name.lastIndexOf('/') + 1))
    .filter((name) => name !== '' && !KNOWN.test(name));

export function isNewEnough(version: string): boolean {
  const [major = 0, minor = 0] = version.replace(/^v/, '').split('.').map(Number);
  return major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
}

export interface NodeBinary {
  readonly path: string;
  readonly version: string;
  readonly licencePath: string;
}

export function nodeBinary(path: string, licence: string | undefined): NodeBinary {
  const version = execFileSync(path, ['--version'], { encoding: 'utf8' }).trim();
  if (!isNewEnough(version)) throw new Error(`${path} is Node.js ${version}; ${OLDEST.join('.')} or newer is needed`);
  const foreign = foreignLibraries(execFileSync('ldd', [path], { encoding: 'utf8' }));
  if (foreign.length > 0)
    throw new Error(`${path} needs ${foreign.join(', ')}: name an official build of Node.js with --node`);
  const places = [
    join(dirname(path), '../LICENSE'),
    '/usr/share/doc/nodejs/LICENSE',
    '/usr/share/doc/nodejs/copyright',
  ];
  const licencePath = licence ?? places.find((place) => existsSync(place));
  if (licencePath === undefined) throw new Error(`the licence of ${path} is not found: name it with --node-licence`);
  return { path, version, licencePath };
}
