/**
 * Points that a command reads: pinned while it does.
 */
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import type { MachineId } from '../../shared/units.js';
import type { PinDeps } from '../catalog/pin-holder.js';
import { openPinned, type OpenView, type PinnedPoint } from '../catalog/pinned-point.js';
import type { PointSelector } from '../catalog/point-selector.js';
import { MachineReader } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import type { CliIo, GlobalOptions } from './io.js';

export const pinDeps = (store: ObjectStore, io: CliIo): PinDeps => ({ store, clock: io.clock, randomId: randomUUID });

/** Shown by `afterimage points`: who keeps a point. */
export const holderOf = (verb: string): string => `${verb} on ${hostname()}, process ${process.pid}`;

/** Says so when the store takes no pin. */
export async function pinForCommand(
  store: ObjectStore,
  machine: MachineId,
  selector: PointSelector,
  verb: string,
  options: GlobalOptions,
  io: CliIo,
  open?: OpenView,
): Promise<PinnedPoint> {
  const pinned = await openPinned(pinDeps(store, io), machine, selector, holderOf(verb), open);
  warn(pinned.warning, options, io);
  return pinned;
}

/** For restores: from the newest manifest that can be read. */
export const openReadable: OpenView = (store, machine) => MachineReader.openReadable(store, machine);

/** A program that asked for JSON gets errors alone on stderr. */
export function warn(warning: string | null, options: GlobalOptions, io: CliIo): void {
  if (warning !== null && options.json !== true) io.err.write(`Warning: ${warning}\n`);
}
