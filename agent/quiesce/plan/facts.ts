/**
 * Facts for the quiesce plan, from this machine as it is now. Reads only.
 */
import { realpathSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { deviceNumbers, type Source } from '../../disks/footprint.js';
import type { Sysfs } from '../../disks/sysfs.js';
import { readMounts } from '../mountinfo.js';
import { namesOf, readStack } from '../mounts.js';
import { findApplications } from './applications.js';
import type { ConfiguredApplication, HookFound, OwnPath, QuiesceFacts } from './plan.js';

export interface FactsOf {
  readonly sources: readonly Source[];
  readonly stateDir: string;
  readonly controlSocket: string;
  readonly hooksDir: string;
  readonly configPath: string;
  readonly freezeEnabled: boolean;
  readonly configured: readonly ConfiguredApplication[];
  readonly hooks: readonly HookFound[];
  /** Whether our own output is the agent's log: a command's is not. */
  readonly isAgent: boolean;
}

export function gatherFacts(sysfs: Sysfs, of: FactsOf, procRoot = '/proc'): QuiesceFacts {
  return {
    mounts: readMounts(procRoot),
    graph: readStack(sysfs),
    sources: of.sources.map((source) => ({ title: source.path, devices: namesOf(sysfs, source) })),
    own: ownPaths(of),
    found: findApplications(procRoot),
    configured: of.configured,
    hooks: of.hooks,
    freezeEnabled: of.freezeEnabled,
  };
}

function ownPaths({ stateDir, controlSocket, hooksDir, configPath, isAgent }: FactsOf): OwnPath[] {
  const program = fileURLToPath(new URL('../../..', import.meta.url));
  return [
    own('state directory', stateDir, 'between'),
    own('control socket', dirname(controlSocket), 'between'),
    own('configuration', configPath, 'read'),
    own('hooks', hooksDir, 'read'),
    own('program', program, 'read'),
    own('Node.js', process.execPath, 'read'),
    ...(isAgent ? logFiles() : []),
  ];
}

/** A path that doesn't exist yet lies where the folder above it does. */
function own(what: string, path: string, use: OwnPath['use']): OwnPath {
  for (let at = path; ; at = dirname(at)) {
    try {
      const real = realpathSync(at);
      const rest = path.slice(at.length);
      return { what, path: join(real, rest), use, device: deviceNumbers(statSync(real).dev).join(':') };
    } catch {
      if (at === '/') return { what, path, use, device: null };
    }
  }
}

/** Where our output goes when it is a file: a journal's socket is another process's business. */
function logFiles(): OwnPath[] {
  for (const fd of [1, 2]) {
    try {
      const path = realpathSync(`/proc/self/fd/${fd}`);
      if (statSync(path).isFile()) return [own('log', path, 'log')];
    } catch {
      // A pipe, a socket, or closed.
    }
  }
  return [];
}
