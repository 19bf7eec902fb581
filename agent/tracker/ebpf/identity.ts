/**
 * What a pinned set of objects is, and whether an agent may go on with it. It stands in the map that is pinned last, so a
 * set without it is one whose creation was cut short. Pure on the bytes given.
 */
import { isUuid, type SeriesId } from '../../../shared/units.js';
import { IDENTITY_STATE_OFFSET, LAYOUT_VERSION } from './maps/layout.js';
import type { AuditState } from './audit.js';
import type { TestOnlyDisable } from './programs.js';

export interface Identity {
  readonly layout: number;
  readonly series: SeriesId;
  readonly bootId: string;
  readonly sequence: string;
  readonly wholeSectors: number;
  readonly major: number;
  readonly minor: number;
  readonly startSector: number;
  readonly sectorCount: number;
  readonly blockBytes: number;
  readonly mode: 'btf' | 'tracepoint';
  readonly disable: TestOnlyDisable | 'none';
}

const LENGTH_BYTES = 4;

export function writeIdentity(map: Buffer, identity: Identity): void {
  const json = Buffer.from(JSON.stringify(identity));
  json.copy(map, LENGTH_BYTES);
  map.writeUInt32LE(json.length, 0);
}

/** undefined when the bytes hold no identity of this layout. */
export function readIdentity(map: Buffer): Identity | undefined {
  const length = map.readUInt32LE(0);
  if (length === 0 || length > IDENTITY_STATE_OFFSET - LENGTH_BYTES) return undefined;
  try {
    const parsed = JSON.parse(map.toString('utf8', LENGTH_BYTES, LENGTH_BYTES + length)) as Partial<Identity>;
    // Fields of other layouts are not known, so nothing else is looked at before this.
    if (parsed.layout !== LAYOUT_VERSION || !isUuid(String(parsed.series))) return undefined;
    return parsed as Identity;
  } catch {
    return undefined;
  }
}

/** Why a series can't go on; undefined when it can. `now` describes the disk as it is. */
export function whyNotResumable(pinned: Identity, now: Identity): string | undefined {
  if (pinned.bootId !== now.bootId) return 'the machine was restarted';
  if (pinned.sequence !== now.sequence || pinned.major !== now.major || pinned.minor !== now.minor) {
    return 'the device was replaced';
  }
  if (pinned.wholeSectors !== now.wholeSectors) {
    return `the disk was resized from ${pinned.wholeSectors} to ${now.wholeSectors} sectors`;
  }
  if (pinned.startSector !== now.startSector || pinned.sectorCount !== now.sectorCount) {
    return 'the protected part of the disk has changed';
  }
  if (pinned.blockBytes !== now.blockBytes) {
    return `the block size changed from ${pinned.blockBytes} to ${now.blockBytes} bytes`;
  }
  if (pinned.mode !== now.mode) return `the way to attach changed from ${pinned.mode} to ${now.mode}`;
  if (pinned.disable !== now.disable) return 'a test switch was changed';
  return undefined;
}

const STATE_FIELDS = 5;

/** Persists the audit's numbers; each is one aligned store, so a crash leaves either the old or the new one. */
export function writeAuditState(map: Buffer, state: AuditState): void {
  const words = stateWords(map);
  words[0] = state.offset.writes;
  words[1] = state.offset.discards;
  words[2] = state.baseline.writes;
  words[3] = state.baseline.discards;
  words[4] = state.settled ? 1 : 0;
}

export function readAuditState(map: Buffer): AuditState {
  const words = stateWords(map);
  const word = (index: number): number => words[index] ?? NaN;
  return {
    offset: { writes: word(0), discards: word(1) },
    baseline: { writes: word(2), discards: word(3) },
    settled: word(4) === 1,
  };
}

const stateWords = (map: Buffer): Float64Array =>
  new Float64Array(map.buffer, map.byteOffset + IDENTITY_STATE_OFFSET, STATE_FIELDS);
