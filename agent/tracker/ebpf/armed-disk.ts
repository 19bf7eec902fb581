/**
 * One armed disk: its objects, its mapped maps and its audit. Owns the descriptors and mappings until `close`; the pinned
 * objects go on without it. A crash at any point leaves a set that `arm` resumes from (see maps/disk-maps.ts) or rebuilds.
 */
import { BlockSet } from '../../../shared/blocks/block-set.js';
import type { SeriesId } from '../../../shared/units.js';
import type { AuditVerdict, DiskTake, SubmittedFilter, TrackableDisk, TrackerCounters } from '../tracker.js';
import { AuditLedger, CHANNELS, type Faults, type Reading } from './audit.js';
import { programInfo } from './bpf.js';
import { whyNotResumable, writeAuditState, type Identity } from './identity.js';
import type { DiskMaps } from './maps/disk-maps.js';
import { groupImage } from './maps/group-bitmap.js';
import { closeObjects, detachedProgram, missingPin, type DiskObjects } from './objects.js';
import { PROGRAM_NAMES } from './programs.js';
import { readDiskFacts, untrackable, type DiskStatistics } from './statistics.js';
import { Suspects } from './suspects.js';

export interface ArmedParts {
  readonly disk: TrackableDisk;
  readonly identity: Identity;
  readonly directory: string;
  readonly objects: DiskObjects;
  readonly maps: DiskMaps;
  readonly statistics: DiskStatistics;
  readonly ledger: AuditLedger;
  readonly monotonicMs: () => number;
}

/** Programs' numbers around the kernel's. */
export function readNumbers(maps: DiskMaps, statistics: DiskStatistics, atMs: number): Reading {
  const before = maps.counters.read();
  const kernel = statistics.sectors();
  const after = maps.counters.read();
  return { atMs, before, kernel, after, inFlight: statistics.inFlight() };
}

export class ArmedDisk {
  readonly disk: TrackableDisk;
  readonly #parts: ArmedParts;
  readonly #suspects = new Suspects();
  #missesSeen = { submission: 0, completion: 0 };
  #takes = 0;
  #auditsBalanced = 0;
  #auditsRecopied = 0;
  #endedBecause: string | undefined;

  constructor(parts: ArmedParts, nowMs: number) {
    this.disk = parts.disk;
    this.#parts = parts;
    const groups = new BlockSet();
    parts.maps.suspects.forEachGroup((group) => groups.add(group));
    this.#suspects.addGroups(groups, nowMs);
  }

  get series(): SeriesId {
    return this.#parts.identity.series;
  }

  get directory(): string {
    return this.#parts.directory;
  }

  get maps(): DiskMaps {
    return this.#parts.maps;
  }

  /** The second half of a take: the epoch has ended and no program works under it any more. */
  collect(submitted: SubmittedFilter, nowMs: number): DiskTake {
    const { marked, groups } = this.maps.drain();
    this.#suspects.add(marked, groups, nowMs);
    this.#takes++;
    // Quiet instants can't be asked for, only met: every take is a chance, and costs two small reads.
    const { ledger } = this.#parts;
    if ((this.#suspects.awaitsQuiet || ledger.awaitsIdle) && ledger.observe(this.#read())) this.#suspects.quietSeen();
    return { marked, submitted };
  }

  audit(nowMs: number): AuditVerdict {
    if (this.#endedBecause !== undefined) return { kind: 'series-ended', reason: this.#endedBecause };
    const outcome = this.#parts.ledger.audit(() => this.#read(), this.#faults(), nowMs);
    if (outcome.kind === 'series-ended') {
      this.#endedBecause = outcome.reason;
      return outcome;
    }
    if (outcome.quiet) this.#suspects.quietSeen();
    if (outcome.kind === 'recopy') return this.#recopy(outcome.missedSectors);
    this.#auditsBalanced++;
    if (this.#suspects.balanced(nowMs)) this.#forgetSuspects();
    writeAuditState(this.maps.identity, this.#parts.ledger.state);
    return { kind: 'balanced' };
  }

  /** `carried` alone stays pending. */
  committed(carried: BlockSet): void {
    const { pending } = this.maps;
    pending.replace(groupImage(carried, this.disk.geometry.blockCount, pending.lengthBytes));
  }

  /** Blocks that were taken and not committed, in whole groups. */
  uncommitted(): BlockSet {
    const blocks = new BlockSet();
    this.maps.pending.addTo(blocks, this.disk.geometry.blockCount);
    return blocks;
  }

  counters(stragglerWaitsMs: number): TrackerCounters {
    const { counters } = this.maps;
    const counts = counters.read();
    const misses = this.#misses();
    const completed = (channel: (typeof CHANNELS)[number]): number => counts.requests[channel] + counts.bios[channel];
    return {
      submittedSectors: counts.submitted.writes,
      completedSectors: completed('writes'),
      kernelSectors: this.#parts.statistics.sectors().writes,
      discardedSectors: completed('discards'),
      opaqueWrites: counters.opaqueWrites,
      recursionMisses: misses.submission + misses.completion,
      auditsBalanced: this.#auditsBalanced,
      auditsRecopied: this.#auditsRecopied,
      takes: this.#takes,
      stragglerWaitsMs,
    };
  }

  close(): void {
    this.maps.unmap();
    this.#parts.statistics.close();
    closeObjects(this.#parts.objects);
  }

  /** The blocks are pending before the new offset is believed: a crash in between repeats the recopy, never skips it. */
  #recopy(missedSectors: number): AuditVerdict {
    this.#auditsRecopied++;
    const { pending, identity } = this.maps;
    const blocks = this.#suspects.union(this.disk.geometry.blockCount);
    pending.orImage(groupImage(blocks, this.disk.geometry.blockCount, pending.lengthBytes));
    writeAuditState(identity, this.#parts.ledger.state);
    return { kind: 'recopy', missedSectors, blocks };
  }

  #forgetSuspects(): void {
    const { suspects } = this.maps;
    suspects.replace(this.#suspects.image(suspects.lengthBytes));
  }

  #faults(): Faults {
    const { counters } = this.maps;
    const misses = this.#misses();
    const seen = this.#missesSeen;
    this.#missesSeen = misses;
    return {
      lost: this.#lost(),
      opaqueWrites: counters.opaqueWrites,
      tooBig: counters.tooBig,
      submissionMisses: misses.submission - seen.submission,
      completionMisses: misses.completion - seen.completion,
    };
  }

  #misses(): { submission: number; completion: number } {
    const of = (name: (typeof PROGRAM_NAMES)[number]): number =>
      programInfo(this.#parts.objects.programs[name]).recursionMisses;
    return { submission: of('submission'), completion: of('request-completion') + of('bio-completion') };
  }

  /** Why the objects or the device aren't what they were. */
  #lost(): string | undefined {
    const { identity, directory, objects, disk } = this.#parts;
    const facts = readDiskFacts(disk.sysName);
    if (facts === undefined) return 'the device is gone';
    const changed = whyNotResumable(identity, { ...identity, ...facts });
    if (changed !== undefined) return changed;
    const unfit = untrackable(disk.sysName);
    if (unfit !== undefined) return `the disk can't be tracked any more: ${unfit}`;
    const missing = missingPin(directory);
    if (missing !== undefined) return `the pinned object ${missing} was lost`;
    const detached = detachedProgram(objects);
    return detached === undefined ? undefined : `the program ${detached} is not attached any more`;
  }

  #read(): Reading {
    return readNumbers(this.maps, this.#parts.statistics, this.#parts.monotonicMs());
  }
}
