/**
 * Processes that a hook has started, whatever they did to hide: the process that quiesces adopts orphans (PR_SET_CHILD_SUBREAPER), so all of them are
 * below it. When that process dies they are below nobody: then they are known by their environment, which what they start inherits. Reads /proc.
 */
import { readdirSync, readFileSync } from 'node:fs';

export interface ProcessEntry {
  readonly pid: number;
  readonly parent: number;
  /** Since boot, in clock ticks: tells a process from another that got its number later. */
  readonly startTicks: number;
}

/** All processes below one, it excluded. Pure. */
export function descendantsOf(pid: number, all: readonly ProcessEntry[]): ProcessEntry[] {
  const children = byParent(all);
  const found: ProcessEntry[] = [];
  const seen = new Set([pid]);
  const open = [pid];
  for (let parent = open.pop(); parent !== undefined; parent = open.pop()) {
    for (const child of children.get(parent) ?? []) {
      if (seen.has(child.pid)) continue;
      seen.add(child.pid);
      found.push(child);
      open.push(child.pid);
    }
  }
  return found;
}

/** Those of `before` that still are, and all below them. Pure. */
export function remainingOf(before: readonly ProcessEntry[], now: readonly ProcessEntry[]): ProcessEntry[] {
  const alive = before.filter((old) => now.some((p) => p.pid === old.pid && p.startTicks === old.startTicks));
  const all = new Map(alive.map((entry) => [entry.pid, entry]));
  for (const entry of alive) for (const below of descendantsOf(entry.pid, now)) all.set(below.pid, below);
  return [...all.values()];
}

function byParent(all: readonly ProcessEntry[]): Map<number, ProcessEntry[]> {
  const map = new Map<number, ProcessEntry[]>();
  for (const entry of all) map.set(entry.parent, [...(map.get(entry.parent) ?? []), entry]);
  return map;
}

export function readProcesses(procRoot = '/proc'): ProcessEntry[] {
  return readdirSync(procRoot)
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = readFileSync(`${procRoot}/${name}/stat`, 'utf8');
        // The name of a program may hold spaces and brackets: what follows its last one is safe to split.
        const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
        // A process that ended and wasn't waited for yet does nothing any more.
        if (fields[0] === 'Z') return [];
        return [{ pid: Number(name), parent: Number(fields[1]), startTicks: Number(fields[19]) }];
      } catch {
        return [];
      }
    });
}

/** Processes that were started with all of these variables, by whomever. */
export function startedWith(variables: Readonly<Record<string, string>>, procRoot = '/proc'): ProcessEntry[] {
  const wanted = Object.entries(variables).map(([name, value]) => `${name}=${value}`);
  return readProcesses(procRoot).filter(({ pid }) => {
    try {
      const set = readFileSync(`${procRoot}/${pid}/environ`, 'utf8').split('\0');
      return wanted.every((variable) => set.includes(variable));
    } catch {
      return false; // it has ended
    }
  });
}

export function killAll(processes: readonly ProcessEntry[]): void {
  for (const { pid } of processes) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended.
    }
  }
}
