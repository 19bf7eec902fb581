/**
 * Which keys belong to a store: whoever opens a store for a program says once how the keys of its machines are found, and everything that reads or
 * writes layers and manifests through it asks here. So no reader can forget them, and a writer without them can't write in the clear by mistake:
 * a machine whose keys object says that it is encrypted is encrypted, or the write fails.
 * A store that nobody said it of has no keys: nothing of it is encrypted, and what is can't be read.
 */
import { MachineCipher } from '../../shared/crypto/machine-cipher.js';
import type { MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';

/** What an agent that encrypts says of its keys at hello. Ids and check values, no key. */
export interface AgentKeys {
  readonly hashCheck: string;
  readonly dataKeys: readonly number[];
}

export interface StoreKeys {
  /** What is at hand for a machine. Throws only when the keys can't be looked up; a key that is missing is an error where it is used. */
  cipherOf(machine: MachineId, look?: 'cached' | 'now'): Promise<MachineCipher>;
  /**
   * The same for whoever writes. Throws code `key-missing` when the keys object that counts was lost, so that nothing goes into the clear, or under older
   * keys, because of that.
   */
  cipherForWriting(machine: MachineId): Promise<MachineCipher>;
  /**
   * An agent begins to write: decides how its machine is encrypted from now on, makes keys if there are none, and proves that they are at hand. Throws
   * code `key-missing` when they aren't: then nothing may be written.
   */
  beginWriting(machine: MachineId, agent: AgentKeys | null): Promise<MachineCipher>;
}

const attached = new WeakMap<ObjectStore, StoreKeys>();

/** For the store that a program hands out, decorators and all. */
export function attachKeys(store: ObjectStore, keys: StoreKeys): void {
  attached.set(store, keys);
}

const noCipher = (machine: MachineId): MachineCipher =>
  new MachineCipher({
    machine,
    sets: [],
    writesAs: 'plain',
    randomBytes: () => {
      throw new Error('nothing is encrypted without keys');
    },
  });

const NO_KEYS: StoreKeys = {
  cipherOf: async (machine) => noCipher(machine),
  cipherForWriting: async (machine) => noCipher(machine),
  beginWriting: async (machine) => noCipher(machine),
};

export const keysOf = (store: ObjectStore): StoreKeys => attached.get(store) ?? NO_KEYS;
