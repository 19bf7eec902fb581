/**
 * Names of objects. Numbers are zero-padded so that names sort as numbers do.
 * A layer's name says all that tells it from others; epoch and sequence make it unique for ever:
 * a sequence counts up within an epoch, and an epoch has one owner.
 */
import { corrupt } from '../../shared/errors.js';
import { isUuid, type DiskId, type MachineId } from '../../shared/units.js';
import type { LayerRef } from './manifest.js';

const NUMBER_DIGITS = 12;
const SEGMENT_DIGITS = 8;
const MS_DIGITS = 15;
const pad = (n: number, digits = NUMBER_DIGITS): string => String(n).padStart(digits, '0');

/** Who serves this store: a receiver's newest number is its last sign of life; see fleet/. */
export const RECEIVERS_PREFIX = 'receivers/';
export const receiverPrefix = (receiver: string): string => `${RECEIVERS_PREFIX}${receiver}/`;
export const receiverName = (receiver: string, n: number): string => `${receiverPrefix(receiver)}${pad(n)}`;
export const MACHINES_PREFIX = 'machines/';
export const machinePrefix = (machine: MachineId): string => `${MACHINES_PREFIX}${machine}/`;
export const manifestPrefix = (machine: MachineId): string => `${machinePrefix(machine)}manifest/`;
export const manifestName = (machine: MachineId, n: number): string => `${manifestPrefix(machine)}${pad(n)}`;
export const boundaryPrefix = (machine: MachineId): string => `${machinePrefix(machine)}boundary/`;
export const boundaryName = (machine: MachineId, n: number): string => `${boundaryPrefix(machine)}${pad(n)}`;
export const identityPrefix = (machine: MachineId): string => `${machinePrefix(machine)}identity/`;
export const identityName = (machine: MachineId, n: number): string => `${identityPrefix(machine)}${pad(n)}`;
export const revokedName = (machine: MachineId, identity: number): string =>
  `${machinePrefix(machine)}revoked/${pad(identity)}`;
export const historyName = (machine: MachineId, first: number, last: number, epoch: number, sequence: number): string =>
  `${machinePrefix(machine)}history/${pad(first)}-${pad(last)}-${pad(epoch)}-${pad(sequence)}`;
export const recoveryPrefix = (machine: MachineId): string => `${machinePrefix(machine)}recovery/`;
export const recoveryName = (machine: MachineId, n: number): string => `${recoveryPrefix(machine)}${pad(n)}`;
export const launchPrefix = (machine: MachineId): string => `${machinePrefix(machine)}launch/`;
export const launchName = (machine: MachineId, n: number): string => `${launchPrefix(machine)}${pad(n)}`;
/** Ended jobs; `started` in ms puts them in order. */
export const jobsPrefix = (machine: MachineId): string => `${machinePrefix(machine)}jobs/`;
export const jobName = (machine: MachineId, startedAtMs: number, id: string): string =>
  `${jobsPrefix(machine)}${pad(startedAtMs, MS_DIGITS)}-${id}`;
/** What a boot check of a copy found, by the point that the copy began with. */
export const checksPrefix = (machine: MachineId): string => `${machinePrefix(machine)}checks/`;
export const checkName = (machine: MachineId, point: number, instance: string): string =>
  `${checksPrefix(machine)}${pad(point)}-${instance}`;
/** A receiver asks the one that has a machine's copy whether it lives; see failover/ownership.ts. */
export const challengePrefix = (machine: MachineId): string => `${machinePrefix(machine)}challenge/`;
export const challengeName = (machine: MachineId, n: number): string => `${challengePrefix(machine)}${pad(n)}`;
export const answerName = (machine: MachineId, n: number): string => `${machinePrefix(machine)}answer/${pad(n)}`;
/** What a machine's points are kept for: its policy, and points that are held by name; of each the highest number counts. */
export const policyPrefix = (machine: MachineId): string => `${machinePrefix(machine)}policy/`;
export const policyName = (machine: MachineId, n: number): string => `${policyPrefix(machine)}${pad(n)}`;
export const holdsPrefix = (machine: MachineId): string => `${machinePrefix(machine)}holds/`;
export const holdsName = (machine: MachineId, n: number): string => `${holdsPrefix(machine)}${pad(n)}`;
/** Pins: a new sequence number with each renewal; of one id the highest counts. */
export const pinsPrefix = (machine: MachineId): string => `${machinePrefix(machine)}pins/`;
export const pinName = (machine: MachineId, id: string, sequence: number): string =>
  `${pinsPrefix(machine)}${id}-${pad(sequence)}`;
/** What is damaged, and how far the scrub is; see damage.ts. */
export const damagePrefix = (machine: MachineId): string => `${machinePrefix(machine)}damage/`;
export const damageName = (machine: MachineId, n: number): string => `${damagePrefix(machine)}${pad(n)}`;
export const scrubPrefix = (machine: MachineId): string => `${machinePrefix(machine)}scrub/`;
export const scrubName = (machine: MachineId, n: number): string => `${scrubPrefix(machine)}${pad(n)}`;
/** Which keys a machine is encrypted with, wrapped; the highest counts. */
export const keysPrefix = (machine: MachineId): string => `${machinePrefix(machine)}keys/`;
export const keysName = (machine: MachineId, n: number): string => `${keysPrefix(machine)}${pad(n)}`;
export const diskPrefix = (machine: MachineId, disk: DiskId): string => `${machinePrefix(machine)}disks/${disk}/`;
/** A list of layers too long for a manifest: base layers of a disk, or what is staged. */
export const layerListName = (machine: MachineId, disk: DiskId, epoch: number, sequence: number): string =>
  `${diskPrefix(machine, disk)}list/${pad(epoch)}-${pad(sequence)}`;

/** `base/<segment>/<point>-<epoch>-<sequence>`, `delta/<first point>-<last point>-<epoch>-<sequence>`. */
export function layerName(machine: MachineId, disk: DiskId, layer: LayerRef): string {
  const tail = `${pad(layer.epoch)}-${pad(layer.sequence)}`;
  const prefix = diskPrefix(machine, disk);
  return layer.kind === 'base'
    ? `${prefix}base/${pad(layer.segment ?? 0, SEGMENT_DIGITS)}/${pad(layer.lastPoint)}-${tail}`
    : `${prefix}delta/${pad(layer.firstPoint)}-${pad(layer.lastPoint)}-${tail}`;
}

/** All groups of machines of the store, the highest number counts; and how attempts at their points went, `started` in ms puts them in order. */
export const GROUPS_PREFIX = 'groups/';
export const groupsName = (n: number): string => `${GROUPS_PREFIX}${pad(n)}`;
export const attemptsPrefix = (group: string): string => `group-attempts/${group}/`;
export const attemptName = (group: string, startedAtMs: number, point: string): string =>
  `${attemptsPrefix(group)}${pad(startedAtMs, MS_DIGITS)}-${point}`;

/** The machine that an object belongs to; null for one that belongs to none. */
export function machineOfName(name: string): MachineId | null {
  const id = name.startsWith(MACHINES_PREFIX) ? name.slice(MACHINES_PREFIX.length).split('/')[0] : undefined;
  return id !== undefined && isUuid(id) ? (id as MachineId) : null;
}

/** The number at the end of a manifest's, identity's or boundary's name. */
export function numberOfName(name: string): number {
  const text = name.slice(name.lastIndexOf('/') + 1);
  if (!/^\d+$/.test(text)) throw corrupt('object-name', `object ${name} has an unknown name`);
  return Number(text);
}

/** Epoch and sequence at the end of a layer's, page's or list's name; null for other names. */
export function writtenUnder(name: string): { readonly epoch: number; readonly sequence: number } | null {
  const match = /(\d+)-(\d+)$/.exec(name);
  return match === null ? null : { epoch: Number(match[1]), sequence: Number(match[2]) };
}
