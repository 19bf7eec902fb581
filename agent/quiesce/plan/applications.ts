/**
 * Databases that run on this machine, found by their processes: what they are and where their files lie. Reads /proc only; what can't be read is left
 * out. For the plan and its warnings: which of them are quiesced is said by the configuration, never guessed.
 */
import { readdirSync, readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { deviceNumbers } from '../../disks/footprint.js';

export type ApplicationKind = 'postgresql' | 'mysql' | 'redis' | 'other';

export interface DataFolder {
  readonly path: string;
  /** `major:minor` of what it lies on. */
  readonly device: string;
}

export interface FoundApplication {
  readonly kind: ApplicationKind;
  /** For people: what it is, and where. */
  readonly title: string;
  readonly pid: number;
  readonly data: readonly DataFolder[];
}

interface Known {
  readonly kind: ApplicationKind;
  readonly name: string;
}

/** Names of programs (as the kernel shows them, 15 characters at most) whose working folder is where their data lies. */
const PROGRAMS: Readonly<Record<string, Known>> = {
  postgres: { kind: 'postgresql', name: 'PostgreSQL' },
  mariadbd: { kind: 'mysql', name: 'MariaDB' },
  mysqld: { kind: 'mysql', name: 'MySQL' },
  'redis-server': { kind: 'redis', name: 'Redis' },
  'valkey-server': { kind: 'redis', name: 'Valkey' },
  mongod: { kind: 'other', name: 'MongoDB' },
  influxd: { kind: 'other', name: 'InfluxDB' },
  slapd: { kind: 'other', name: 'OpenLDAP' },
};

/** Open files of one process that are looked at: a database has thousands, and its folders are few. */
const FILES_MAX = 2_000;

export function findApplications(procRoot = '/proc'): FoundApplication[] {
  const found: FoundApplication[] = [];
  const parents = new Map<string, string>();
  for (const pid of readdirSync(procRoot)) {
    if (!/^\d+$/.test(pid)) continue;
    const stat = textOf(join(procRoot, pid, 'stat'));
    const match = stat === null ? null : /^\d+ \((.*)\) \S (\d+)/s.exec(stat);
    const known = match === null ? undefined : PROGRAMS[match[1] ?? ''];
    if (match === null || known === undefined) continue;
    parents.set(pid, match[2] ?? '');
    const application = look(procRoot, pid, known);
    if (application !== null) found.push(application);
  }
  // A server's helpers are children of it: one entry for all of them.
  return found.filter(({ pid }) => !parents.has(parents.get(String(pid)) ?? ''));
}

function textOf(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}

function look(procRoot: string, pid: string, { kind, name }: Known): FoundApplication | null {
  const root = join(procRoot, pid, 'root');
  let home: string;
  try {
    home = readlinkSync(join(procRoot, pid, 'cwd'));
  } catch {
    return null;
  }
  const folders = new Map<string, DataFolder>();
  const add = (path: string, seen: string): void => {
    try {
      const stat = statSync(seen);
      const device = deviceNumbers(stat.dev).join(':');
      // One folder for each filesystem is enough: the question is which of them hold its data.
      if (!folders.has(device)) folders.set(device, { path, device });
    } catch {
      // It is gone, or not to be seen from here.
    }
  };
  if (home !== '/') add(home, join(procRoot, pid, 'cwd'));
  for (const link of linkedFolders(kind, join(procRoot, pid, 'cwd'))) add(link.path, join(root, link.path));
  for (const { path, fd } of writtenFiles(procRoot, pid)) add(path, fd);
  const data = [...folders.values()];
  return data.length === 0 ? null : { kind, title: `${name} (process ${pid}) in ${home}`, pid: Number(pid), data };
}

/** Folders of PostgreSQL that lead elsewhere: its log, its tablespaces. */
function linkedFolders(kind: ApplicationKind, home: string): { path: string }[] {
  if (kind !== 'postgresql') return [];
  const links = ['pg_wal', ...namesIn(join(home, 'pg_tblspc')).map((name) => `pg_tblspc/${name}`)];
  return links.flatMap((link) => {
    try {
      const target = readlinkSync(join(home, link));
      return [{ path: target.startsWith('/') ? target : realpathSync(join(home, link)) }];
    } catch {
      return []; // no link: it lies where it stands
    }
  });
}

/** Logs and what is thrown away at a restart are no loss to a point. */
const isData = (path: string): boolean =>
  path.startsWith('/') && !path.endsWith(' (deleted)') && !/^\/(dev|run|tmp|var\/log|var\/tmp)\//.test(path);

function namesIn(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** Regular files that a process holds open for writing. */
function writtenFiles(procRoot: string, pid: string): { path: string; fd: string }[] {
  const folder = join(procRoot, pid, 'fd');
  return namesIn(folder)
    .filter((fd) => Number(fd) > 2)
    .slice(0, FILES_MAX)
    .flatMap((fd) => {
      const at = join(folder, fd);
      const flags = /^flags:\s+0*([0-7]+)$/m.exec(textOf(join(procRoot, pid, 'fdinfo', fd)) ?? '')?.[1];
      // The lowest two bits: 1 written, 2 read and written.
      if (flags === undefined || (parseInt(flags, 8) & 3) === 0) return [];
      try {
        const path = readlinkSync(at);
        return isData(path) && statSync(at).isFile() ? [{ path, fd: at }] : [];
      } catch {
        return [];
      }
    });
}
