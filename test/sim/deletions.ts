/**
 * What may be deleted, and by whom, by what the objects in the store say at that moment: neither receiver nor upkeep is asked.
 */
import { SCRUB_NOTES_KEPT } from '../../shared/limits-scrub.js';
import type { Manifest } from '../../receiver/catalog/manifest.js';
import { machinePrefix, manifestPrefix, receiverPrefix, scrubPrefix } from '../../receiver/catalog/names.js';
import { originalOf, twinOf } from '../../receiver/catalog/second-copies.js';
import type { SimMachine } from './machine.js';
import { boundaryOf, headOf, highest, namedBy, plainOf } from './needed.js';
import type { SimStore } from './store.js';

/** Why a host must not delete an object; null: it may. `ids`: of each receiver's host, the id under which it shows that it lives. */
export function whyNeeded(
  store: SimStore,
  machines: readonly SimMachine[],
  ids: ReadonlyMap<string, string>,
  name: string,
  host: string,
): string | null {
  const machine = machines.find(({ id }) => name.startsWith(machinePrefix(id)));
  if (machine !== undefined) return whyMachineNeeds(store, machine, name);
  const id = ids.get(host) ?? '';
  if (id === '' || !name.startsWith(receiverPrefix(id))) return 'it is nobody’s to delete';
  const newest = highest(store, receiverPrefix(id));
  return Number(name.slice(receiverPrefix(id).length)) === newest ? 'it is the newest sign of life' : null;
}

function whyMachineNeeds(store: SimStore, machine: SimMachine, name: string): string | null {
  const head = headOf(store, machine.id);
  const isRotten = (which: string): boolean => store.rotten.has(which);
  // What has rotted goes before it is made anew of its twin.
  if (isRotten(name) && store.objects.has(twinOf(name)) && !isRotten(twinOf(name))) return null;
  const original = originalOf(name);
  if (original !== null)
    return original.startsWith(manifestPrefix(machine.id)) ? null : whyMachineNeeds(store, machine, original);
  const [folder = '', rest = ''] = name.slice(machinePrefix(machine.id).length).split(/\/(.*)/s);
  switch (folder) {
    case 'disks':
    case 'history':
      return head !== null && namedBy(store, head).has(name) ? `manifest ${head.number} names it` : null;
    case 'manifest': {
      const { epochStart, number } = plainOf(store.objects.get(name) ?? Buffer.alloc(0)) as Manifest;
      if (epochStart === number) return 'it begins an epoch';
      return number > boundaryOf(store, machine.id) ? 'it is above the boundary' : null;
    }
    case 'boundary':
      return Number(rest) >= boundaryOf(store, machine.id) ? 'it is the boundary' : null;
    case 'pins':
      return null;
    case 'scrub': {
      const newest = highest(store, scrubPrefix(machine.id));
      return Number(rest) > newest - SCRUB_NOTES_KEPT ? 'it is among the newest notes' : null;
    }
    default:
      return 'such objects are kept for ever';
  }
}
