/**
 * What is mounted on this machine, from /proc/<pid>/mountinfo (format: proc_pid_mountinfo(5)), other mount namespaces included:
 * a container may hold a filesystem of a protected disk that our own namespace doesn't show. Reads only.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

export interface MountEntry {
  readonly mountId: number;
  /** `major:minor` of the superblock; major 0 for filesystems that own several devices or none. */
  readonly device: string;
  /** Which folder of the filesystem is seen at the mount point; `/` for the whole. */
  readonly root: string;
  /** Where to find it, as this process can open it. */
  readonly path: string;
  readonly fsType: string;
  readonly source: string;
  /** Of the superblock, not of this mount: a read-only bind mount of a writable filesystem is `false`. */
  readonly readOnly: boolean;
}

/** The kernel escapes space, tab, newline and backslash as three octal digits: all of them ASCII. */
const unescape = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));

/** `pathPrefix` leads from our root to that of the process whose mounts these are. Lines of another form are skipped. */
export function parseMountInfo(text: string, pathPrefix = ''): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split('\n')) {
    const fields = line.split(' ');
    const separator = fields.indexOf('-', 6);
    const [mountId, , device, root, path] = fields;
    const [fsType, source, options] = fields.slice(separator + 1);
    if (separator < 0 || device === undefined || root === undefined || path === undefined || options === undefined)
      continue;
    entries.push({
      mountId: Number(mountId),
      device,
      root: unescape(root),
      path: pathPrefix + unescape(path),
      fsType: fsType ?? '',
      source: unescape(source ?? ''),
      readOnly: options.split(',').includes('ro'),
    });
  }
  return entries;
}

/** One process id per mount namespace other than our own. */
function namespaceHolders(procRoot: string): string[] {
  const namespaceOf = (pid: string): string | null => {
    try {
      return readlinkSync(`${procRoot}/${pid}/ns/mnt`);
    } catch {
      return null; // ended meanwhile, or a kernel thread
    }
  };
  const seen = new Set<string | null>([null, namespaceOf('self')]);
  const holders: string[] = [];
  for (const pid of readdirSync(procRoot)) {
    if (!/^\d+$/.test(pid)) continue;
    const namespace = namespaceOf(pid);
    if (seen.has(namespace)) continue;
    seen.add(namespace);
    holders.push(pid);
  }
  return holders;
}

/** All mounts of our namespace in their order, then those of the others. */
export function readMounts(procRoot = '/proc'): MountEntry[] {
  const entries = parseMountInfo(readFileSync(`${procRoot}/self/mountinfo`, 'utf8'));
  for (const pid of namespaceHolders(procRoot)) {
    try {
      entries.push(...parseMountInfo(readFileSync(`${procRoot}/${pid}/mountinfo`, 'utf8'), `${procRoot}/${pid}/root`));
    } catch {
      // The process ended; its mounts with it, unless another process holds the namespace: that one was skipped as seen.
    }
  }
  return entries;
}
