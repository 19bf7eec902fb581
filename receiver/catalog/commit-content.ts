/**
 * What the manifest holds after a commit: a pure function of the manifest before, the agent's commit and the layers that became durable.
 */
import type { Commit, Hello } from '../../shared/wire/messages.js';
import type { DiskDelta, DiskEntry, LayerRef, ListRef, Manifest, RecoveryPoint } from './manifest.js';
import type { ManifestContent } from './owned-machine.js';

/** Durable layers of one disk that the point shall hold. */
export interface DiskLayers {
  readonly entry: DiskEntry;
  /** The disk's base list when it changed with this point. */
  readonly bases: ListRef | null;
  /** Sweep deltas and the cycle's own, oldest first. */
  readonly deltas: readonly LayerRef[];
  readonly storedBytes: number;
  /** Check value of the key of the block hashes; '' or absent: they are plain. */
  readonly hashCheck?: string;
}

/** As it stands in manifests: absent for plain hashes. */
const hashCheckOf = (made: DiskLayers | undefined): { hashCheck?: string } =>
  made?.hashCheck === undefined || made.hashCheck === '' ? {} : { hashCheck: made.hashCheck };

/** The manifest's entry of a disk that the agent protects, at the beginning of a session. */
export function diskEntryAtHello(
  known: DiskEntry | null,
  hello: Hello['disks'][number],
  staged: ListRef | null,
): DiskEntry {
  return {
    id: hello.id,
    device: hello.device,
    // The size of the newest point stands until a point with another size is committed.
    sizeBytes: known !== null && known.lastPoint > 0 ? known.sizeBytes : hello.sizeBytes,
    blockBytes: known !== null && known.lastPoint > 0 ? known.blockBytes : hello.blockBytes,
    series: known?.series ?? null,
    bases: known?.bases ?? null,
    staged,
    lastPoint: known?.lastPoint ?? 0,
    ...(known?.shortcuts === undefined ? {} : { shortcuts: known.shortcuts }),
    ...(known?.hashCheck === undefined ? {} : { hashCheck: known.hashCheck }),
  };
}

export interface CommitResult {
  readonly content: ManifestContent;
  readonly point: RecoveryPoint;
}

export function contentAfterCommit(
  manifest: Manifest,
  commit: Commit,
  layers: ReadonlyMap<string, DiskLayers>,
  sizes: ReadonlyMap<string, number>,
  nowMs: number,
): CommitResult {
  const number = manifest.lastPoint + 1;
  const deltas: DiskDelta[] = [];
  let storedBytes = 0;
  const disks = manifest.disks.map((entry): DiskEntry => {
    const said = commit.disks.find((d) => d.disk === entry.id);
    const made = layers.get(entry.id);
    if (said === undefined || made === undefined) return entry;
    for (const layer of made.deltas) deltas.push({ disk: entry.id, layer });
    storedBytes += made.storedBytes;
    const { hashCheck: _, ...rest } = entry;
    return {
      ...rest,
      ...hashCheckOf(made),
      sizeBytes: sizes.get(entry.id) ?? entry.sizeBytes,
      series: said.series,
      bases: made.bases ?? entry.bases,
      staged: null,
      lastPoint: number,
    };
  });
  const point: RecoveryPoint = {
    number,
    cutAtMs: commit.cutAtMs,
    committedAtMs: nowMs,
    generation: manifest.generation,
    cycle: commit.cycle,
    consistency: commit.consistency,
    reason: commit.reason,
    ...(commit.label === undefined ? {} : { label: commit.label }),
    ...(commit.quiesce === undefined ? {} : { quiesce: commit.quiesce }),
    ...(commit.group === undefined ? {} : { group: commit.group }),
    ...(commit.without === undefined ? {} : { without: commit.without }),
    disks: commit.disks.map((d) => {
      const entry = disks.find((e) => e.id === d.disk);
      return {
        disk: d.disk,
        sizeBytes: entry?.sizeBytes ?? 0,
        blockBytes: entry?.blockBytes ?? 0,
        digest: d.digest,
        ...hashCheckOf(layers.get(d.disk)),
      };
    }),
    stats: { ...commit.stats, storedBytes },
  };
  const content: ManifestContent = {
    generation: manifest.generation,
    machine: manifest.machine,
    lastPoint: number,
    disks,
    pages: manifest.pages,
    tail: { points: [...manifest.tail.points, point], deltas: [...manifest.tail.deltas, ...deltas] },
  };
  return { content, point };
}
