/**
 * Keys of a simulated world: one key-encryption key that all receivers reach, each over a network of its own that takes its time, and a key file on
 * each machine whose source encrypts. Who opens the store with `attach` has the provider and the files, as an operator would give them.
 */
import { SourceKeys } from '../../agent/keys/source-keys.js';
import { attachKeys } from '../../receiver/catalog/store-keys.js';
import { MachineKeys } from '../../receiver/keys/machine-keys.js';
import type { KeyProvider } from '../../receiver/keys/provider.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import type { Clock } from '../../shared/clock.js';
import { newKeySet, type KeySet } from '../../shared/crypto/keys.js';
import { MemoryProvider } from '../crypto/world.js';
import type { SimMachine } from './machine.js';
import { EPOCH_MS, type SimProcess } from './process.js';
import type { Rng } from './rng.js';

/** Of a call of the key provider, at most. */
const PROVIDER_MS = 20;

export class SimKeys {
  readonly #kek = new MemoryProvider();
  readonly #atRest: boolean;
  readonly #files = new Map<SimMachine, KeySet>();

  constructor(machines: readonly SimMachine[], atRest: boolean, rng: Rng) {
    this.#atRest = atRest;
    for (const machine of machines) {
      if (!machine.encrypts) continue;
      const keys = rng.fork(machine.name);
      this.#files.set(
        machine,
        newKeySet('agent', machine.id, (length) => keys.bytes(length), EPOCH_MS),
      );
    }
  }

  /** What the agent of a machine encrypts with; null where it doesn't. */
  ofSource(machine: SimMachine, rng: Rng): SourceKeys | null {
    const set = this.#files.get(machine);
    return set === undefined ? null : new SourceKeys(set, machine.id, (length) => rng.bytes(length));
  }

  /** For who looks at the store while time stands still. */
  attachAtOnce(store: ObjectStore, clock: Clock): void {
    const provider = this.#kek;
    const randomBytes = (): Buffer => {
      throw new Error('who only looks makes no keys');
    };
    attachKeys(
      store,
      new MachineKeys({ store, clock, randomBytes, provider, atRest: false, files: [...this.#files.values()] }),
    );
  }

  /** The keys of all machines for whoever reads or writes through this store in this process. */
  attach(store: ObjectStore, process: SimProcess, rng: Rng): MachineKeys {
    const keys = new MachineKeys({
      store,
      clock: process.clock,
      randomBytes: (length) => rng.bytes(length),
      provider: this.#providerOf(process, rng),
      atRest: this.#atRest,
      files: [...this.#files.values()],
    });
    attachKeys(store, keys);
    return keys;
  }

  #providerOf(process: SimProcess, rng: Rng): KeyProvider {
    const asked = async <T>(what: string, answer: () => Promise<T>): Promise<T> => {
      await process.after(rng.between(0, PROVIDER_MS), what);
      return answer();
    };
    return {
      name: this.#kek.name,
      currentKek: () => asked('asks for the key in use', () => this.#kek.currentKek()),
      wrap: (key, context) => asked('has a key wrapped', () => this.#kek.wrap(key, context)),
      unwrap: (wrapped, context) => asked('has a key unwrapped', () => this.#kek.unwrap(wrapped, context)),
    };
  }
}
