/**
 * What a machine's head names, read from the objects as they lie in the store, by its own reading of the formats: neither receiver nor upkeep is asked.
 */
import type { DiskId, MachineId } from '../../shared/units.js';
import type { Damage, DamageItem } from '../../receiver/catalog/damage.js';
import type { LayerRef, Manifest, RecoveryPoint } from '../../receiver/catalog/manifest.js';
import {
  boundaryPrefix,
  damageName,
  damagePrefix,
  layerName,
  machinePrefix,
  manifestName,
  manifestPrefix,
} from '../../receiver/catalog/names.js';
import { COPIES, copyName, originalOf, twinOf } from '../../receiver/catalog/second-copies.js';
import type { SimStore } from './store.js';

interface Page {
  readonly points: readonly RecoveryPoint[];
  readonly deltas: readonly { readonly disk: DiskId; readonly layer: LayerRef }[];
}

/** Without the checks of its schema: whoever reads it from the store makes them. */
export const plainOf = (bytes: Buffer): unknown => JSON.parse(bytes.toString('utf8').split('\n')[0] ?? '');

/** The highest number below a folder; 0 for none. */
export function highest(store: SimStore, prefix: string): number {
  let found = 0;
  for (const name of store.objects.keys()) {
    if (name.startsWith(prefix)) found = Math.max(found, Number(name.slice(prefix.length)));
  }
  return found;
}

export const boundaryOf = (store: SimStore, machine: MachineId): number => highest(store, boundaryPrefix(machine));

export function headOf(store: SimStore, machine: MachineId): Manifest | null {
  const number = highest(store, manifestPrefix(machine));
  const bytes = store.objects.get(manifestName(machine, number));
  return bytes === undefined ? null : (plainOf(bytes) as Manifest);
}

function pagesOf(store: SimStore, manifest: Manifest): Page[] {
  const pages = manifest.pages.flatMap(({ name }) => {
    const bytes = store.truth(name);
    return bytes === undefined ? [] : [plainOf(bytes) as Page];
  });
  return [...pages, manifest.tail];
}

/** Numbers and cycles of all points that a manifest lists. */
export function listedBy(store: SimStore, manifest: Manifest): Map<number, string> {
  return new Map(pagesOf(store, manifest).flatMap(({ points }) => points.map((p) => [p.number, p.cycle] as const)));
}

/** Names of all pages, lists and layers that a manifest stands on. */
export function namedBy(store: SimStore, manifest: Manifest): Set<string> {
  const machine = manifest.machine.id;
  const names = new Set(manifest.pages.map(({ name }) => name));
  for (const { deltas } of pagesOf(store, manifest)) {
    for (const { disk, layer } of deltas) names.add(layerName(machine, disk, layer));
  }
  for (const disk of manifest.disks) {
    for (const list of [disk.bases, disk.staged, disk.shortcuts]) {
      if (list === null || list === undefined) continue;
      names.add(list.name);
      const bytes = store.truth(list.name);
      if (bytes === undefined) continue;
      for (const layer of (plainOf(bytes) as { layers: LayerRef[] }).layers) {
        names.add(layerName(machine, disk.id, layer));
      }
    }
  }
  return names;
}

/** What is known to be damaged of a machine. */
export function damageIn(store: SimStore, machine: MachineId): readonly DamageItem[] {
  const bytes = store.objects.get(damageName(machine, highest(store, damagePrefix(machine))));
  return bytes === undefined ? [] : (plainOf(bytes) as Damage).items;
}

/** Whether these say of a point that it can't be relied upon. */
export const damageNames = (items: readonly DamageItem[], point: number): boolean =>
  items.some(({ points }) => points.some(({ first, last }) => first <= point && (last === null || point <= last)));

/** Layers, lists and pages that no manifest needs any more. */
export function garbageOf(store: SimStore, machine: MachineId): string[] {
  const head = headOf(store, machine);
  const named = head === null ? new Set<string>() : namedBy(store, head);
  const prefix = machinePrefix(machine);
  const folders = ['', COPIES].flatMap((which) => [`${prefix}${which}disks/`, `${prefix}${which}history/`]);
  const isNamed = (name: string): boolean => named.has(originalOf(name) ?? name);
  return [...store.objects.keys()].filter((name) => folders.some((f) => name.startsWith(f)) && !isNamed(name));
}

/** Pages, lists and records that may rot: whole, and so is their second copy; or the copies of such. */
export function smallObjects(store: SimStore, manifest: Manifest): string[] {
  const prefix = machinePrefix(manifest.machine.id);
  const named = namedBy(store, manifest);
  const isWhole = (name: string): boolean => store.objects.has(name) && !store.rotten.has(name);
  return [...store.objects.keys()].filter((name) => {
    const original = originalOf(name) ?? name;
    const isRecord = ROTTING_RECORDS.some((folder) => original.startsWith(`${prefix}${folder}`));
    return (
      (isRecord || (named.has(original) && store.objects.has(copyName(original)))) &&
      isWhole(name) &&
      isWhole(twinOf(name))
    );
  });
}

const ROTTING_RECORDS = ['identity/', 'keys/', 'holds/'];
