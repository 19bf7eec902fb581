/**
 * A machine whose manifest this receiver owns, for one session of its agent.
 *
 * Promises: a commit succeeds only while no other receiver has taken the machine over; a commit that was fenced has changed nothing, and one whose
 * answer was lost is settled before the next.
 * Each session takes a new epoch (a manifest of its own), so that layers of a fenced or dead owner can be told from ours by name.
 * On a crash nothing is lost: the highest manifest is the truth, layers that it doesn't name are orphans.
 */
import { AfterimageError, corrupt } from '../../shared/errors.js';
import { MANIFEST_TAIL_POINTS_MAX } from '../../shared/limits.js';
import type { Clock } from '../../shared/clock.js';
import { failpoint } from '../../shared/failpoints.js';
import type { MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { MANIFEST_VERSION, type Manifest } from './manifest.js';
import { readBoundary, readHighestManifest, readManifest, writeHistoryPage } from './manifest-io.js';
import { historyName, manifestName } from './names.js';
import { sealJson } from './sealed-json.js';

/** Tries of a takeover against others that take over at the same time. */
const TAKEOVER_TRIES = 16;

export interface CatalogDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly randomId: () => string;
}

/** What a manifest holds beyond the numbers that this class gives. */
export type ManifestContent = Omit<Manifest, 'version' | 'number' | 'writeId' | 'writtenAtMs' | 'epoch'>;

export const fencedError = (machine: MachineId, by: number): AfterimageError =>
  new AfterimageError(`machine ${machine} was taken over by another receiver (epoch ${by})`, {
    code: 'fenced',
    kind: 'fenced',
    hint: 'Nothing is lost: the agent goes on with the receiver that it reaches. Two receivers on one store need separate addresses.',
  });

export class OwnedMachine {
  readonly #deps: CatalogDeps;
  #manifest: Manifest;
  #sequence = 0;
  #lost = false;
  /** A commit that ended in an error which leaves open whether its manifest was made. */
  #inDoubt: Manifest | null = null;

  private constructor(deps: CatalogDeps, manifest: Manifest) {
    this.#deps = deps;
    this.#manifest = manifest;
  }

  /**
   * Takes the machine over: writes manifest N+1 with a new epoch. `change` gets the truth so far (null for a new machine) and the epoch to be, and
   * returns what the new manifest shall hold; it may run several times.
   */
  static async takeOver(
    deps: CatalogDeps,
    machine: MachineId,
    change: (previous: Manifest | null, epoch: number, nextSequence: () => number) => Promise<ManifestContent>,
  ): Promise<OwnedMachine> {
    for (let attempt = 0; attempt < TAKEOVER_TRIES; attempt++) {
      const previous = await readHighestManifest(deps.store, machine);
      const epoch = (previous?.epoch ?? 0) + 1;
      let sequence = 0;
      const content = await change(previous, epoch, () => ++sequence);
      const manifest = seal(deps, content, (previous?.number ?? 0) + 1, epoch);
      if (await create(deps.store, machine, manifest)) {
        failpoint('receiver.catalog.takeover');
        const owned = new OwnedMachine(deps, manifest);
        owned.#sequence = sequence;
        return owned;
      }
    }
    throw new AfterimageError(
      `machine ${machine}: taking over failed ${TAKEOVER_TRIES} times, other receivers keep doing the same`,
      {
        code: 'takeover-contended',
        kind: 'fenced',
        hint: 'Let only one receiver answer under the address that the agent uses.',
      },
    );
  }

  get manifest(): Manifest {
    return this.#manifest;
  }

  get epoch(): number {
    return this.#manifest.epoch;
  }

  /** Number for the name of a new object: unique within the epoch. */
  nextSequence = (): number => ++this.#sequence;

  /**
   * Commits manifest N+1. When the tail is full, its older half is sealed into a history page first.
   * Throws kind `fenced` when another receiver has taken over; from then on every call does.
   */
  async commit(change: (current: Manifest) => ManifestContent): Promise<Manifest> {
    this.#mustOwn();
    if (this.#inDoubt !== null) throw new Error(`manifest ${this.#inDoubt.number} is in doubt: settle() comes first`);
    const content = await this.#sealTail(change(this.#manifest));
    await this.#create(seal(this.#deps, content, this.#manifest.number + 1, this.#manifest.epoch));
    return this.#manifest;
  }

  /**
   * After a commit whose answer was lost: asks for the very same once more, so that it stands when this resolves and `manifest` holds it. Nothing to
   * do otherwise. Throws as commit() does, and may then be tried again.
   */
  async settle(): Promise<void> {
    this.#mustOwn();
    if (this.#inDoubt !== null) await this.#create(this.#inDoubt);
  }

  #mustOwn(): void {
    if (this.#lost) throw fencedError(this.#manifest.machine.id, this.#manifest.epoch + 1);
  }

  async #create(next: Manifest): Promise<void> {
    const machine = next.machine.id;
    this.#inDoubt = next;
    const made = await create(this.#deps.store, machine, next).catch((error: unknown) => {
      // Gone for good, however often it is tried: whoever moved the boundary owns the machine.
      if (error instanceof AfterimageError && error.code === 'below-boundary') this.#lost = true;
      throw error;
    });
    this.#inDoubt = null;
    if (!made) {
      this.#lost = true;
      const there = await readManifest(this.#deps.store, machine, next.number);
      throw fencedError(machine, there.epoch);
    }
    this.#manifest = next;
  }

  async #sealTail(content: ManifestContent): Promise<ManifestContent> {
    const { points, deltas } = content.tail;
    if (points.length <= MANIFEST_TAIL_POINTS_MAX) return content;
    const sealed = points.slice(0, points.length - MANIFEST_TAIL_POINTS_MAX / 2);
    const first = sealed[0]?.number ?? 0;
    const last = sealed[sealed.length - 1]?.number ?? 0;
    const old = deltas.filter((d) => d.layer.lastPoint <= last);
    const name = historyName(content.machine.id, first, last, this.epoch, this.nextSequence());
    const page = await writeHistoryPage(this.#deps.store, name, { points: sealed, deltas: old });
    return {
      ...content,
      pages: [...content.pages, page],
      tail: { points: points.slice(sealed.length), deltas: deltas.filter((d) => d.layer.lastPoint > last) },
    };
  }
}

function seal(deps: CatalogDeps, content: ManifestContent, number: number, epoch: number): Manifest {
  // One by one: a whole manifest given as content would bring its own number and epoch along.
  const { generation, machine, lastPoint, disks, pages, tail } = content;
  return {
    version: MANIFEST_VERSION,
    number,
    writeId: deps.randomId(),
    writtenAtMs: deps.clock.nowMs(),
    epoch,
    generation,
    machine,
    lastPoint,
    disks,
    pages,
    tail,
  };
}

/** Creates a manifest. False when its number is taken, or was used and deleted before (boundary). */
async function create(store: ObjectStore, machine: MachineId, manifest: Manifest): Promise<boolean> {
  const result = await store.createIfAbsent(manifestName(machine, manifest.number), sealJson(manifest));
  if (result === 'exists') {
    // A retry, here or inside the store's adapter, may have met its own success.
    const there = await readManifest(store, machine, manifest.number);
    if (there.writeId !== manifest.writeId) return false;
  }
  if (manifest.number <= (await readBoundary(store, machine))) {
    throw corrupt(
      'below-boundary',
      `manifest ${manifest.number} of machine ${machine} lies below the deletion boundary: this receiver slept through a take-over`,
    );
  }
  return true;
}
