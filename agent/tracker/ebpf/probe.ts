/**
 * Would tracking work here? Loads and attaches the real programs for a disk that no machine has, and lets go of them at once. Nothing is pinned.
 */
import { closeSync, existsSync } from 'node:fs';
import { BLOCK_BYTES_MIN } from '../../../shared/limits.js';
import { geometryOf } from '../../../shared/blocks/geometry.js';
import { MIB, SECTOR_BYTES } from '../../../shared/units.js';
import { createArrayMap } from './bpf.js';
import { KERNEL_BTF_PATH } from './btf.js';
import { readKernelTypes, type KernelTypes } from './kernel-types.js';
import { CONTROL_BYTES, mapSizes } from './maps/layout.js';
import { attachPrograms, createMaps } from './objects.js';
import { possibleCpus } from './statistics.js';

/** No block device has the number 0:0. */
const NO_DEVICE = { major: 0, minor: 0, startSector: 0 };
const PROBE_BYTES = MIB;

export const bestMode = (): KernelTypes['mode'] => (existsSync(KERNEL_BTF_PATH) ? 'btf' : 'tracepoint');

/** Throws what a disk's arming would throw. */
export function probeTracking(mode: KernelTypes['mode']): void {
  const sizes = mapSizes(geometryOf(PROBE_BYTES, BLOCK_BYTES_MIN), possibleCpus());
  const open: number[] = [];
  try {
    const controlFd = createArrayMap('ai_control', 1, CONTROL_BYTES);
    open.push(controlFd);
    const mapFds = createMaps(sizes);
    open.push(...Object.values(mapFds));
    const range = { sectorCount: PROBE_BYTES / SECTOR_BYTES, sectorsPerBlock: BLOCK_BYTES_MIN / SECTOR_BYTES };
    const { programs, links } = attachPrograms(
      readKernelTypes(mode),
      { ...NO_DEVICE, ...range, sizes, controlFd, mapFds },
      undefined,
    );
    open.push(...Object.values(programs), ...Object.values(links));
  } finally {
    for (const fd of open.reverse()) closeSync(fd);
  }
}
