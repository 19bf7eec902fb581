/**
 * The pseudo filesystems that the tracker stands on: bpffs holds the pinned objects, tracefs the formats of classic
 * tracepoints. Mounts what is missing (a minimal system has neither); never unmounts. Safe to repeat.
 */
import { existsSync, mkdirSync, readFileSync, statfsSync } from 'node:fs';
import { dirname } from 'node:path';
import { AfterimageError, corrupt } from '../../../shared/errors.js';
import { mountPseudo } from './bpf.js';

export const BPFFS_PATH = '/sys/fs/bpf';
const BPFFS_MAGIC = 0xcafe4a11;
const TRACEFS_PATHS = ['/sys/kernel/tracing', '/sys/kernel/debug/tracing'] as const;

/** Makes a directory for pins, on a bpffs that is mounted first if need be. */
export function ensurePinDirectory(directory: string): void {
  if (directory.startsWith(`${BPFFS_PATH}/`) && statfsSync(BPFFS_PATH).type !== BPFFS_MAGIC) {
    mountPseudo('bpf', BPFFS_PATH);
  }
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  if (statfsSync(directory).type !== BPFFS_MAGIC) {
    throw new AfterimageError(`${directory} is not on a BPF filesystem`, {
      code: 'usage',
      kind: 'usage',
      hint: `choose a directory below ${BPFFS_PATH}`,
    });
  }
}

/** Whether a directory, or the nearest that exists above it, lies on a bpffs. */
export function isOnBpffs(directory: string): boolean {
  if (existsSync(directory)) return statfsSync(directory).type === BPFFS_MAGIC;
  const above = dirname(directory);
  return above !== directory && isOnBpffs(above);
}

function tracefsPath(): string {
  const mounted = TRACEFS_PATHS.find((path) => existsSync(`${path}/events`));
  if (mounted !== undefined) return mounted;
  mountPseudo('tracefs', TRACEFS_PATHS[0]);
  return TRACEFS_PATHS[0];
}

export interface TracepointFormat {
  readonly id: number;
  /** Byte offset of each field in the record that a program gets. */
  readonly offsets: ReadonlyMap<string, number>;
}

const FIELD = /field:[^;]*?(\w+)(?:\[\d+\])?;\s*offset:(\d+);/g;

export function parseTracepointFormat(id: number, text: string): TracepointFormat {
  const offsets = new Map<string, number>();
  for (const [, name, offset] of text.matchAll(FIELD)) if (name !== undefined) offsets.set(name, Number(offset));
  return { id, offsets };
}

/** Format of a block tracepoint of the running kernel. */
export function readTracepointFormat(name: string): TracepointFormat {
  const base = `${tracefsPath()}/events/block/${name}`;
  const id = Number(readFileSync(`${base}/id`, 'utf8'));
  if (!Number.isInteger(id)) throw corrupt('tracefs-format', `${base}/id is not a number`);
  return parseTracepointFormat(id, readFileSync(`${base}/format`, 'utf8'));
}
