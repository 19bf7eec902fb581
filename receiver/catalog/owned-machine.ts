/**
 * A machine whose manifest this receiver owns: from the session of its agent, a running copy or upkeep that took it over, until another does.
 * All of them share this one object: their commits queue up, each is made from the manifest that the one before left.
 *
 * Promises: a commit succeeds only while no other receiver has taken the machine over; a commit that was fenced has changed nothing, and one whose
 * answer was lost is settled before the next.
 * Each session takes a new epoch (a manifest of its own), so that layers of a fenced or dead owner can be told from ours by name.
 *
 * Why an ordinary commit doesn't look at the boundary: an owner whose last manifest is N is beaten by a takeover alone, and that is manifest N+1
 * exactly, which is never deleted. So the create of N+1 by an owner who slept meets it, however late. A takeover decides on a head that it
 * has read; the owner may have gone on from there with ordinary manifests that were deleted since: it looks at the boundary after its create.
 *
 * On a crash nothing is lost: the highest manifest is the truth, layers that it doesn't name are orphans.
 */
import { AfterimageError } from '../../shared/errors.js';
import { MANIFEST_TAIL_POINTS_MAX } from '../../shared/limits.js';
import type { Clock } from '../../shared/clock.js';
import { failpoint } from '../../shared/failpoints.js';
import type { MachineId } from '../../shared/units.js';
import { InTurn } from '../../shared/in-turn.js';
import type { ObjectStore } from '../store/store.js';
import { MANIFEST_VERSION, type Manifest, type ManifestOwner } from './manifest.js';
import {
  mustBeReadable,
  readBoundary,
  readHighestManifest,
  readManifest,
  sealManifest,
  writeHistoryPage,
} from './manifest-io.js';
import { historyName, manifestName, manifestPrefix, numberOfName, writtenUnder } from './names.js';

/** Tries of a takeover against others that take over at the same time. */
const TAKEOVER_TRIES = 16;

export interface CatalogDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly randomId: () => string;
  /** Who takes machines over; told to people and to other receivers. */
  readonly owner?: ManifestOwner | null;
}

/** What a manifest holds beyond the numbers that this class gives. */
export type ManifestContent = Omit<Manifest, 'version' | 'number' | 'writeId' | 'writtenAtMs' | keyof Ownership>;

/** The same for all manifests of an epoch. */
type Ownership = Pick<Manifest, 'epoch' | 'epochStart' | 'owner'>;

/** From the newest manifest to what the next shall hold. Throws when what it was prepared upon is gone; nothing is committed then. */
export type Change = (current: Manifest) => ManifestContent | Promise<ManifestContent>;

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
  /** The commit under way, and those that wait for it. */
  readonly #commits = new InTurn();
  /** Sequences that were given out, and are neither in a manifest of ours nor known to be of no use: what they name may be needed yet. */
  readonly #inFlight = new Set<number>();
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
      // One higher with each try: who tried before us under an epoch, here or elsewhere, may have left objects of that name.
      const epoch = (previous?.epoch ?? 0) + 1 + attempt;
      let sequence = 0;
      const content = await change(previous, epoch, () => ++sequence).catch((error: unknown) => {
        if (error instanceof AfterimageError && error.code === 'name-taken') return null;
        throw error;
      });
      if (content === null) continue;
      const number = (previous?.number ?? 0) + 1;
      const manifest = seal(deps, content, number, { epoch, epochStart: number, owner: deps.owner ?? null });
      if (!(await create(deps.store, machine, manifest))) continue;
      // Written below the boundary it counts for nothing: the head that it was decided upon is long gone.
      if (number <= (await readBoundary(deps.store, machine))) continue;
      failpoint('receiver.catalog.takeover');
      const owned = new OwnedMachine(deps, manifest);
      owned.#sequence = sequence;
      return owned;
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

  /** Whether another has the machine for certain: nothing can be committed any more. */
  get isLost(): boolean {
    return this.#lost;
  }

  /** Number for the name of a new object: unique within the epoch, and in flight from now on. */
  nextSequence = (): number => {
    this.#inFlight.add(++this.#sequence);
    return this.#sequence;
  };

  /** Whether an object of this epoch may still become part of a manifest. When in doubt it may. */
  isInFlight = (sequence: number): boolean => sequence > this.#sequence || this.#inFlight.has(sequence);

  /** The same as of now, whatever lands later: for whoever reads this manifest, then looks at what there is. */
  inFlightNow(): (sequence: number) => boolean {
    const [last, inFlight] = [this.#sequence, new Set(this.#inFlight)];
    return (sequence) => sequence > last || inFlight.has(sequence);
  }

  /** These objects are in a manifest now, or never will be: they are what the manifest says. */
  landed = (objects: Iterable<{ readonly epoch: number; readonly sequence: number }>): void => {
    for (const { epoch, sequence } of objects) if (epoch === this.epoch) this.#inFlight.delete(sequence);
  };

  /**
   * Commits manifest N+1, after all commits that were asked for before. When the tail is full, its older half is sealed into a history page first.
   * Throws kind `fenced` when another receiver has taken over; from then on every call does.
   */
  commit(change: Change): Promise<Manifest> {
    return this.#inTurn(async () => {
      await this.#settleNow();
      const content = await this.#sealTail(await change(this.#manifest));
      await this.#create(seal(this.#deps, content, this.#manifest.number + 1, this.#manifest));
      return this.#manifest;
    });
  }

  /**
   * After a commit whose answer was lost: asks for the very same once more, so that it stands when this resolves and `manifest` holds it. Nothing to
   * do otherwise. Throws as commit() does, and may then be tried again.
   */
  settle(): Promise<void> {
    return this.#inTurn(() => this.#settleNow());
  }

  /** That nobody has taken the machine over so far: throws kind `fenced` when somebody has. Before a deletion, which can't be taken back. */
  confirm(): Promise<void> {
    return this.#inTurn(async () => {
      await this.#settleNow();
      const { machine, number, epoch } = this.#manifest;
      const after = manifestName(machine.id, number);
      for await (const object of this.#deps.store.list(manifestPrefix(machine.id), { after })) {
        this.#lost = true;
        const { epoch: by } = await readManifest(this.#deps.store, machine.id, numberOfName(object.name));
        throw fencedError(machine.id, Math.max(by, epoch + 1));
      }
    });
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    return this.#commits.run(() => {
      this.#mustOwn();
      return work();
    });
  }

  async #settleNow(): Promise<void> {
    if (this.#inDoubt !== null) await this.#create(this.#inDoubt);
  }

  #mustOwn(): void {
    if (this.#lost) throw fencedError(this.#manifest.machine.id, this.#manifest.epoch + 1);
  }

  async #create(next: Manifest): Promise<void> {
    const machine = next.machine.id;
    this.#inDoubt = next;
    const made = await create(this.#deps.store, machine, next);
    this.#inDoubt = null;
    if (!made) {
      this.#lost = true;
      const there = await readManifest(this.#deps.store, machine, next.number);
      throw fencedError(machine, there.epoch);
    }
    this.#manifest = next;
    this.landed(namedBy(next));
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

/** What a manifest names itself; layers in its pages and lists landed with an earlier one, or their writer says so. */
function* namedBy({ tail, pages, disks }: Manifest): Generator<{ readonly epoch: number; readonly sequence: number }> {
  for (const { layer } of tail.deltas) yield layer;
  const names = [
    ...pages.map((page) => page.name),
    ...disks.flatMap(({ bases, shortcuts }) => [bases, shortcuts].flatMap((list) => list?.name ?? [])),
  ];
  for (const name of names) {
    const under = writtenUnder(name);
    if (under !== null) yield under;
  }
}

function seal(
  deps: CatalogDeps,
  content: ManifestContent,
  number: number,
  { epoch, epochStart, owner }: Ownership,
): Manifest {
  // One by one: a whole manifest given as content would bring its own number and epoch along.
  const { generation, machine, lastPoint, disks, pages, tail } = content;
  return {
    version: MANIFEST_VERSION,
    number,
    writeId: deps.randomId(),
    writtenAtMs: deps.clock.nowMs(),
    epoch,
    epochStart,
    owner,
    generation,
    machine,
    lastPoint,
    disks,
    pages,
    tail,
  };
}

/** Creates a manifest. False when its number is taken. */
async function create(store: ObjectStore, machine: MachineId, manifest: Manifest): Promise<boolean> {
  const name = manifestName(machine, manifest.number);
  const bytes = await sealManifest(store, manifest);
  mustBeReadable(name, bytes);
  const result = await store.createIfAbsent(name, bytes);
  if (result === 'created') return true;
  // A retry, here or inside the store's adapter, may have met its own success.
  const there = await readManifest(store, machine, manifest.number);
  return there.writeId === manifest.writeId;
}
