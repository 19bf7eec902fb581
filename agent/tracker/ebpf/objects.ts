/**
 * The kernel objects of one disk (maps, programs, links) and their pins, which let them outlive the agent. A set is pinned
 * object by object, `identity` last, and removed `identity` first: a set without it is unfinished and is built anew.
 */
import { closeSync, existsSync, mkdirSync, readdirSync, rmdirSync, rmSync, unlinkSync } from 'node:fs';
import {
  attachPerfEvent,
  attachTracing,
  createArrayMap,
  linkedProgramId,
  loadProgram,
  openPinned,
  openTracepointEvent,
  pinObject,
  programInfo,
} from './bpf.js';
import type { KernelTypes } from './kernel-types.js';
import { mapShape, MAP_NAMES, type MapName, type MapSizes } from './maps/layout.js';
import type { MarkTarget } from './marking.js';
import { buildProgram, PROGRAM_EVENT, PROGRAM_NAMES, type ProgramName, type TestOnlyDisable } from './programs.js';

export interface DiskObjects {
  readonly maps: Readonly<Record<MapName, number>>;
  readonly programs: Readonly<Record<ProgramName, number>>;
  readonly links: Readonly<Record<ProgramName, number>>;
}

/** In the order of pinning. */
const PIN_NAMES: readonly string[] = [
  ...MAP_NAMES.filter((name) => name !== 'identity'),
  ...PROGRAM_NAMES.map((name) => `program-${name}`),
  ...PROGRAM_NAMES.map((name) => `link-${name}`),
  'identity',
];

/** Descriptors that are closed together, whatever happens. */
class Descriptors {
  readonly #open: number[] = [];

  keep(fd: number): number {
    this.#open.push(fd);
    return fd;
  }

  closeAll(): void {
    for (const fd of this.#open) closeSync(fd);
  }
}

export function createMaps(sizes: MapSizes): Record<MapName, number> {
  const descriptors = new Descriptors();
  const create = (name: MapName): number => {
    const { entries, valueBytes } = mapShape(name, sizes);
    return descriptors.keep(createArrayMap(`ai_${name}`, entries, valueBytes));
  };
  try {
    return recordOf(MAP_NAMES, create);
  } catch (error) {
    descriptors.closeAll();
    throw error;
  }
}

/** Loads and attaches the programs; marks come in from here on. On an error nothing stays attached; the maps stay open. */
export function attachPrograms(
  types: KernelTypes,
  target: MarkTarget,
  disable: TestOnlyDisable | undefined,
): Pick<DiskObjects, 'programs' | 'links'> {
  const descriptors = new Descriptors();
  const orderedAtomics = process.arch !== 'x64';
  try {
    const programs = recordOf(PROGRAM_NAMES, (name) =>
      descriptors.keep(loadProgram(buildProgram(name, types, target, { disable, orderedAtomics }))),
    );
    const links = recordOf(PROGRAM_NAMES, (name) => descriptors.keep(attach(types, name, programs[name])));
    return { programs, links };
  } catch (error) {
    descriptors.closeAll();
    throw error;
  }
}

function attach(types: KernelTypes, name: ProgramName, programFd: number): number {
  if (types.mode === 'btf') return attachTracing(programFd);
  const event = openTracepointEvent(types.events[PROGRAM_EVENT[name]].tracepointId);
  try {
    return attachPerfEvent(programFd, event);
  } finally {
    // The link keeps the event.
    closeSync(event);
  }
}

export function pinObjects(objects: DiskObjects, directory: string): void {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  for (const name of PIN_NAMES) pinObject(descriptorOf(objects, name), `${directory}/${name}`);
}

export function closeObjects(objects: DiskObjects): void {
  for (const name of PIN_NAMES) closeSync(descriptorOf(objects, name));
}

/** Opens a pinned set. A string says why there is none to go on with; '' when nothing is pinned at all. */
export function openObjects(directory: string): DiskObjects | string {
  if (!existsSync(directory)) return '';
  const descriptors = new Descriptors();
  const opened = new Map<string, number>();
  for (const name of [...PIN_NAMES].reverse()) {
    const fd = openPinned(`${directory}/${name}`);
    if (fd === undefined) {
      descriptors.closeAll();
      return name === 'identity' ? 'the set-up of tracking was cut short' : `the pinned object ${name} was lost`;
    }
    opened.set(name, descriptors.keep(fd));
  }
  const fdOf = (name: string): number => opened.get(name) ?? -1;
  const objects: DiskObjects = {
    maps: recordOf(MAP_NAMES, fdOf),
    programs: recordOf(PROGRAM_NAMES, (name) => fdOf(`program-${name}`)),
    links: recordOf(PROGRAM_NAMES, (name) => fdOf(`link-${name}`)),
  };
  const detached = detachedProgram(objects);
  if (detached === undefined) return objects;
  descriptors.closeAll();
  return `the program ${detached} is not attached any more`;
}

/** Name of a program that its link doesn't run. */
export function detachedProgram(objects: DiskObjects): ProgramName | undefined {
  return PROGRAM_NAMES.find((name) => linkedProgramId(objects.links[name]) !== programInfo(objects.programs[name]).id);
}

/** Name of a pin that isn't there any more. */
export const missingPin = (directory: string): string | undefined =>
  PIN_NAMES.find((name) => !existsSync(`${directory}/${name}`));

/** Removes all pins of a disk, whole or not. With the last descriptor closed, the programs are gone. */
export function removePins(directory: string): void {
  if (!existsSync(directory)) return;
  const names = readdirSync(directory);
  for (const name of names.includes('identity') ? ['identity', ...names.filter((n) => n !== 'identity')] : names) {
    unlinkSync(`${directory}/${name}`);
  }
  rmdirSync(directory);
}

/** Ends all tracking that is pinned below a directory, of whatever version; the number of disks that were tracked. */
export function removeAllPins(pinDirectory: string): number {
  if (!existsSync(pinDirectory)) return 0;
  const disks = `${pinDirectory}/disks`;
  const names = existsSync(disks) ? readdirSync(disks) : [];
  for (const name of names) removePins(`${disks}/${name}`);
  rmSync(pinDirectory, { recursive: true });
  return names.length;
}

function descriptorOf(objects: DiskObjects, pinName: string): number {
  const program = PROGRAM_NAMES.find((name) => pinName === `program-${name}`);
  if (program !== undefined) return objects.programs[program];
  const link = PROGRAM_NAMES.find((name) => pinName === `link-${name}`);
  if (link !== undefined) return objects.links[link];
  return objects.maps[pinName as MapName];
}

function recordOf<Name extends string>(names: readonly Name[], make: (name: Name) => number): Record<Name, number> {
  const record: Partial<Record<Name, number>> = {};
  for (const name of names) record[name] = make(name);
  return record as Record<Name, number>;
}
