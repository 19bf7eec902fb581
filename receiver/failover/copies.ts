/**
 * All copies on this host. A copy is known by its instance's id; what the recovery objects in the store say of it decides, what is on disk follows.
 */
import type { MachineId } from '../../shared/units.js';
import { MachineReader } from '../catalog/reader.js';
import type { Instance } from '../catalog/recovery.js';
import type { CheckContext } from './compute/provider.js';
import { Copy } from './copy.js';
import { recordsIn, specOf, type CopyFile, type CopyRecords } from './copy-file.js';
import type { FailoverParts, FailoverSettings } from './parts.js';

export class Copies {
  readonly #parts: FailoverParts;
  readonly #settings: FailoverSettings;
  readonly #records: CopyRecords;
  readonly #open = new Map<string, Copy>();
  /** One change of a copy at a time. */
  readonly #turns = new Map<string, Promise<unknown>>();

  constructor(parts: FailoverParts, settings: FailoverSettings) {
    this.#parts = parts;
    this.#settings = settings;
    this.#records = parts.copies ?? recordsIn(settings.folder);
  }

  of(machine: MachineId): Copy[] {
    return [...this.#open.values()].filter((copy) => copy.spec.machine.id === machine);
  }

  get all(): Copy[] {
    return [...this.#open.values()];
  }

  get(instance: string): Copy | undefined {
    return this.#open.get(instance);
  }

  /** Volumes of the instance open and served, however far an earlier call came. */
  ensure(machine: MachineId, instance: Instance, signal: AbortSignal): Promise<Copy> {
    return this.#inTurn(instance.id, async () => {
      const open = this.#open.get(instance.id);
      if (open !== undefined) return open;
      const { manifest } = await MachineReader.open(this.#parts.store, machine);
      const { name, description } = manifest.machine;
      const file: CopyFile = { machine: { id: machine, name }, description, instance, fate: 'kept' };
      const copy = await Copy.open(this.#parts, this.#settings, this.#records, file, signal);
      this.#open.set(instance.id, copy);
      return copy;
    });
  }

  /** Whether this host has the volumes of a copy. */
  async has(instance: string): Promise<boolean> {
    return (await this.#records.load(instance)) !== null;
  }

  fileOf(instance: string): Promise<CopyFile | null> {
    return this.#records.load(instance);
  }

  onDisk(): Promise<string[]> {
    return this.#records.list();
  }

  /** Resolved: the guest of this copy writes no more. Works with nothing but its record. */
  async kill(instance: string, context: CheckContext): Promise<void> {
    const file = await this.#records.load(instance);
    if (file === null) return;
    const spec = specOf(this.#settings.folder, file, (path, name) => this.#parts.nbdUri(path, name));
    await this.#parts.provider(file.instance.provider).kill(spec, context);
  }

  /** Ends the copy and removes everything that this host has of it. */
  discard(instance: string, context: CheckContext): Promise<void> {
    return this.#inTurn(instance, async () => {
      const file = await this.#records.load(instance);
      if (file === null) return;
      const { folder } = this.#settings;
      await this.#records.save({ ...file, fate: 'discarded' });
      const spec = specOf(folder, file, (path, name) => this.#parts.nbdUri(path, name));
      const provider = this.#parts.provider(file.instance.provider);
      await provider.kill(spec, context);
      await this.#close(instance);
      await provider.cleanup(spec, context);
      await this.#records.remove(instance);
    });
  }

  /** Somebody else has the machine: the guest is ended, the folder stays for whoever wants what was not replicated. */
  lose(instance: string, context: CheckContext): Promise<void> {
    return this.#inTurn(instance, async () => {
      const file = await this.#records.load(instance);
      if (file === null || file.fate === 'lost') return;
      await this.kill(instance, context);
      await this.#close(instance);
      await this.#records.save({ ...file, fate: 'lost' });
    });
  }

  /** Lets a copy go without ending anything; it can be opened again. */
  release(instance: string): Promise<void> {
    return this.#inTurn(instance, () => this.#close(instance));
  }

  /** Lets all copies go; their guests go on and wait for their disks. */
  async close(): Promise<void> {
    for (const instance of [...this.#open.keys()]) await this.#inTurn(instance, () => this.#close(instance));
  }

  async #close(instance: string): Promise<void> {
    const copy = this.#open.get(instance);
    this.#open.delete(instance);
    await copy?.close();
  }

  #inTurn<T>(instance: string, work: () => Promise<T>): Promise<T> {
    const turn = (this.#turns.get(instance) ?? Promise.resolve()).then(work, work);
    this.#turns.set(instance, turn);
    void turn
      .catch(() => undefined)
      .finally(() => {
        if (this.#turns.get(instance) === turn) this.#turns.delete(instance);
      });
    return turn;
  }
}
