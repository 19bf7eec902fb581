/** Nothing of an encrypted machine may be readable outside of it: not a block, not its plain hash, not a digest of those. */
import { digestToText, hashBlockAt } from '../../shared/blocks/hash.js';
import { machinePrefix } from '../../receiver/catalog/names.js';
import { leaks } from '../crypto/world.js';
import { beginningOf } from './blocks.js';
import type { SimMachine } from './machine.js';
import type { SimStore } from './store.js';

/** Blocks of a disk whose hashes are looked for in the objects. */
const SECRETS_MAX = 12;
/** Findings of one disk that are told. */
const SHOWN = 5;

/** What these bytes give away; null: nothing. */
export function openIn(machine: SimMachine, where: string, bytes: Buffer): string | null {
  const open = machine.disks.find((disk) => bytes.includes(beginningOf(disk.number)));
  return open === undefined ? null : `${where} holds a block of ${machine.name} ${open.id} in the clear`;
}

/** What the objects in the store give away, when the disks are still. */
export function leaksOf(store: SimStore, machine: SimMachine): string[] {
  const prefix = machinePrefix(machine.id);
  const objects = [...store.objects].filter(([name]) => name.startsWith(prefix));
  return machine.disks.flatMap((disk) => {
    const { blockBytes } = disk.geometry;
    const secrets = new Map<number, Buffer>();
    let digest = 0n;
    for (const block of disk.touched()) {
      const { low, high } = disk.halvesOf(block);
      if (low === 0 && high === 0) continue;
      const bytes = Buffer.alloc(blockBytes);
      disk.copy(bytes, 0, block, 1);
      digest ^= hashBlockAt(bytes, 0, blockBytes, block);
      if (low !== 0 && secrets.size < SECRETS_MAX) secrets.set(block, bytes);
    }
    const text = digestToText(digest);
    const found = leaks(objects, secrets, blockBytes);
    for (const [name, bytes] of objects) if (bytes.includes(text)) found.push(`its digest in ${name}`);
    return found.slice(0, SHOWN).map((what) => `${machine.name} ${disk.id} is encrypted: ${what}`);
  });
}
