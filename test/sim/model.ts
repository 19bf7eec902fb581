/**
 * What is right. Watches the store and the messages, remembers which instant each cycle's cut was, and compares every listed point, block by block,
 * with what the disks held at that instant: read by the real catalog and read plan, from the objects as they lie in the store.
 */
import { AfterimageError, messageOf } from '../../shared/errors.js';
import type { DiskId } from '../../shared/units.js';
import { CLOSE } from '../../shared/wire/close-codes.js';
import { decodeAgentMessage, decodeReceiverMessage, TAG_CONTROL } from '../../shared/wire/messages.js';
import type { Manifest, RecoveryPoint } from '../../receiver/catalog/manifest.js';
import { isOpen, type Damage } from '../../receiver/catalog/damage.js';
import { damagePrefix, machinePrefix } from '../../receiver/catalog/names.js';
import { loadHead, MachineReader } from '../../receiver/catalog/reader.js';
import { originalOf } from '../../receiver/catalog/second-copies.js';
import { whyNeeded } from './deletions.js';
import type { SimDisk } from './disk.js';
import { Images } from './images.js';
import { Known, type CopyCut } from './known.js';
import type { SimMachine } from './machine.js';
import { boundaryOf, damageIn, damageNames, garbageOf, headOf, listedBy, namedBy, plainOf } from './needed.js';
import { leaksOf, openIn } from './secrets.js';
import { recoveryOf, type Writer } from './rights.js';
import type { SimStore, StoreWatcher } from './store.js';
import type { Flip } from './tracker.js';

const MANIFEST_NAME = /^machines\/([0-9a-f-]{36})\/manifest\/(\d+)$/;
/** Differences of one image that are told. */
const SHOWN = 5;

export class Model implements StoreWatcher {
  readonly violations: string[] = [];
  readonly #store: SimStore;
  readonly #machines: readonly SimMachine[];
  readonly #known = new Map<string, Known>();
  readonly #nowMs: () => number;
  readonly #images: Images;
  checkedPoints = 0;
  /** Points that could not be read for what has rotted, when they were looked at. */
  unreadable = 0;
  /** Nothing of these may be readable in the store. */
  encrypted: readonly SimMachine[] = [];
  /** Ids of receivers by the names of their hosts. */
  receiverIds: ReadonlyMap<string, string> = new Map();
  /** Things that were deleted by one that had lost the machine by then: what was decided when it still had it. */
  lateDeletions = 0;
  /** No point is dropped before this age. */
  keepsAllForMs = Infinity;

  constructor(store: SimStore, machines: readonly SimMachine[], nowMs: () => number) {
    this.#store = store;
    this.#nowMs = nowMs;
    this.#machines = machines;
    this.#images = new Images(store, (what) => this.violated(what));
    for (const machine of machines) this.#known.set(machine.id, new Known());
    store.watchers.push(this);
  }

  violated(what: string): void {
    this.violations.push(what);
  }

  /** Points that an agent has been told of. */
  acknowledgedOf(machine: SimMachine): ReadonlyMap<number, string> {
    return this.#of(machine.id).acknowledged;
  }

  /** Somebody was told that a hold is kept. */
  held(machine: SimMachine, name: string, point: number): void {
    const known = this.#of(machine.id);
    known.held.set(name, point);
    if (known.dropped.has(point)) this.violated(`${machine.name}: point ${point} is held as ${name}, and was dropped`);
  }

  /** Somebody releases it: from now on nothing is promised. */
  released(machine: SimMachine, name: string): void {
    this.#of(machine.id).held.delete(name);
  }

  /** An object of a machine has rotted: it is read anew from now on. */
  rotted(machine: SimMachine, name: string): void {
    this.#of(machine.id).rotted.add(name);
    this.#images.forget(name);
  }

  isDamaged(machine: SimMachine): boolean {
    return this.#of(machine.id).rotted.size > 0;
  }

  /** Objects that have rotted; those that were mended since; those of which it was said that points are lost with them. */
  get rot(): { readonly rotted: number; readonly mended: number; readonly lost: number } {
    const sum = (of: (known: Known) => number): number => [...this.#known.values()].reduce((n, k) => n + of(k), 0);
    return { rotted: sum((k) => k.rotted.size), mended: sum((k) => k.mended.size), lost: sum((k) => k.lost.size) };
  }

  /** What has rotted and still counts, and of which nobody has said what that means. Empty: all is mended, or named. */
  unsettled(machine: SimMachine): string[] {
    const head = headOf(this.#store, machine.id);
    const named = head === null ? new Set<string>() : namedBy(this.#store, head);
    const items = damageIn(this.#store, machine.id);
    const open = items.filter(({ state }) => state === 'found' || state === 'asked').map(({ object }) => object);
    const isLost = (name: string): boolean => items.some(({ object, state }) => object === name && state === 'lost');
    const counts = (name: string): boolean => named.has(name) || !/\/(base|delta|list|history)\//.test(name);
    const rotten = [...this.#of(machine.id).rotted].filter((name) => this.#store.rotten.has(name) && !isLost(name));
    return [...open, ...rotten.filter((name) => counts(originalOf(name) ?? name))];
  }

  /** A message arrives at a receiver. */
  heardByReceiver(machine: SimMachine, bytes: Buffer): void {
    if (machine.encrypts) this.#mustBe(openIn(machine, 'a message of its agent', bytes));
    if (bytes[0] !== TAG_CONTROL) return;
    const message = decodeAgentMessage(Buffer.from(bytes));
    if (message.type !== 'commit') return;
    const flip = machine.kernel.flips.get(message.cutAtMs);
    if (flip === undefined) this.violated(`${machine.name}: cycle ${message.cycle} names a cut that no flip was`);
    else this.#of(machine.id).cuts.set(message.cycle, flip);
  }

  /** A message arrives at an agent. */
  heardByAgent(machine: SimMachine, bytes: Buffer): void {
    if (bytes[0] !== TAG_CONTROL) return;
    const message = decodeReceiverMessage(Buffer.from(bytes));
    if (message.type === 'refused' && message.code === CLOSE.failedOver.code) this.#of(machine.id).refusals++;
    if (message.type === 'committed') this.#of(machine.id).acknowledged.set(message.point, message.cycle);
  }

  /** How often a machine's agent was told that it is failed over. */
  refusalsOf(machine: SimMachine): number {
    return this.#of(machine.id).refusals;
  }

  /** How often the right to write a machine changed hands. */
  get changesOfHands(): number {
    return [...this.#known.values()].reduce((sum, { rights }) => sum + rights.changes, 0);
  }

  /** A copy's disk was cut by a process. */
  cutOfCopy(machine: SimMachine, disk: SimDisk, by: string, order: number): void {
    const { lastCuts } = this.#of(machine.id);
    const cuts = lastCuts.get(by) ?? new Map<DiskId, CopyCut>();
    lastCuts.set(by, cuts.set(disk.id, { disk, order }));
  }

  /** The instant of the cut of a point that home has made; undefined: a copy has. */
  cutOf(machine: SimMachine, point: number): Flip | undefined {
    const known = this.#of(machine.id);
    return known.cuts.get(known.cycles.get(point) ?? '');
  }

  /** A copy of a machine begins with this point: what its agent was told is safe must be in it. */
  copied(machine: SimMachine, point: number): void {
    const newest = Math.max(0, ...this.#of(machine.id).acknowledged.keys());
    if (point < newest && !this.isDamaged(machine))
      this.violated(`${machine.name} runs from point ${point}, and its agent was told of ${newest}`);
  }

  created(name: string, bytes: Buffer, by: string): void {
    const secret = this.encrypted.find(({ id }) => name.startsWith(machinePrefix(id)));
    if (secret !== undefined) this.#mustBe(openIn(secret, `${name} by ${by}`, bytes));
    this.#noteDamage(name, bytes);
    const was = this.#store.rotten.get(name);
    if (was?.equals(bytes) === false) this.violated(`${name} has rotted, and ${by} makes something else of it`);
    const match = MANIFEST_NAME.exec(name);
    const known = this.#known.get(match?.[1] ?? '');
    if (match === null || known === undefined) return;
    const manifest = plainOf(bytes) as Manifest;
    const isBehind = manifest.number <= boundaryOf(this.#store, manifest.machine.id);
    const writer = known.writers.get(manifest.epoch) ?? by;
    // Below the boundary a number may be taken by one who slept through a takeover: it counts for nothing, and that one finds out before it goes on.
    if (isBehind) {
      if (manifest.number !== manifest.epochStart) this.violated(`${by} goes on below the boundary with ${name}`);
      return;
    }
    known.writers.set(manifest.epoch, writer);
    if (writer !== by) this.violated(`${name}: epoch ${manifest.epoch} is written by ${by} and by ${writer}`);
    if (known.numbers.has(manifest.number)) {
      this.violated(`${name} was made by ${known.numbers.get(manifest.number) ?? ''} and again by ${by}`);
    }
    known.numbers.set(manifest.number, by);
    if (manifest.number === known.headNumber + 1) this.#follow(known, manifest, name, by);
    else if (known.headNumber > 0) this.violated(`${name} follows manifest ${known.headNumber}`);
  }

  /** What a scrub says is damaged must be, and what it says of it is kept. */
  #noteDamage(name: string, bytes: Buffer): void {
    const machine = this.#machines.find(({ id }) => name.startsWith(damagePrefix(id)));
    if (machine === undefined) return;
    const { rotted, mended, lost } = this.#of(machine.id);
    for (const { object, state, what } of (plainOf(bytes) as Damage).items) {
      if (!rotted.has(object)) this.violated(`${name}: ${object} is whole, and is said to be damaged: ${what}`);
      else if (state === 'repaired') mended.add(object);
      else if (state === 'lost') {
        lost.add(object);
        if (!/\/(base|delta)\//.test(object)) this.violated(`${name}: ${object} is given up, and its twin is whole`);
      }
    }
  }

  /** A new head: numbers keep their cycles, what was dropped stays dropped, and nothing is dropped that must be kept. */
  #follow(known: Known, manifest: Manifest, name: string, by: string): void {
    known.headNumber = manifest.number;
    const listed = listedBy(this.#store, manifest);
    for (const [number, cycle] of listed) {
      const before = known.cycles.get(number) ?? cycle;
      known.cycles.set(number, cycle);
      if (before !== cycle) this.violated(`${name}: point ${number} was cycle ${before}, is ${cycle}`);
      if (known.dropped.has(number)) this.violated(`${name}: point ${number} was dropped, and is listed again`);
    }
    this.#checkRights(known, manifest, name, listed, by);
    const newest = Math.max(0, ...known.listed);
    for (const number of known.listed) {
      if (listed.has(number)) continue;
      known.dropped.add(number);
      for (const [hold, point] of known.held)
        if (point === number) this.violated(`${name} drops point ${number}, which is held as ${hold}`);
      if (number === newest) this.violated(`${name} drops point ${number}, the newest`);
      const ageMs = this.#nowMs() - (known.cuts.get(known.cycles.get(number) ?? '')?.atMs ?? 0);
      const isNamed = damageNames(damageIn(this.#store, manifest.machine.id), number);
      if (ageMs < this.keepsAllForMs && !isNamed) {
        this.violated(`${name} drops point ${number} at the age of ${(ageMs / 1000).toFixed(1)} s`);
      }
    }
    known.listed = [...listed.keys()];
  }

  #checkRights(known: Known, manifest: Manifest, name: string, listed: ReadonlyMap<number, string>, by: string): void {
    const machine = this.#machines.find(({ id }) => id === manifest.machine.id);
    if (machine === undefined) return;
    const newest = Math.max(0, ...known.listed);
    const added = new Map<number, Writer | null>();
    for (const [number, cycle] of listed) {
      if (number <= newest) continue;
      const isHome = known.cuts.has(cycle);
      const cuts = known.lastCuts.get(by);
      if (!isHome && cuts !== undefined) known.copyCuts.set(cycle, new Map(cuts));
      added.set(number, isHome ? 'home' : known.copyCuts.has(cycle) ? 'copy' : null);
    }
    for (const what of known.rights.follow(manifest, recoveryOf(this.#store, machine), added))
      this.violated(`${name} ${what}`);
  }

  deleting(name: string, by: string): void {
    const why = whyNeeded(this.#store, this.#machines, this.receiverIds, name, by.split('#')[0] ?? by);
    if (why !== null) this.violated(`${by} deletes ${name}: ${why}`);
    const machine = this.#machines.find(({ id }) => name.startsWith(machinePrefix(id)));
    if (machine === undefined) return;
    const epoch = headOf(this.#store, machine.id)?.epoch ?? 0;
    if (this.#of(machine.id).writers.get(epoch) !== by) this.lateDeletions++;
  }

  /** After enough upkeep nothing is left that nobody needs. */
  garbage(): string[] {
    return this.#machines.flatMap((machine) => garbageOf(this.#store, machine.id));
  }

  /** When the disks are still. */
  checkSecrets(): void {
    for (const machine of this.encrypted) for (const what of leaksOf(this.#store, machine)) this.violated(what);
  }

  #mustBe(wrong: string | null): void {
    if (wrong !== null) this.violated(wrong);
  }

  /** Compares all that is listed with what was. `isSettled`: what can't be read for rot must be named as damaged by now. */
  async check(isSettled = false): Promise<void> {
    for (const machine of this.#machines) {
      try {
        await this.#checkMachine(machine, isSettled);
      } catch (error) {
        this.violated(`${machine.name}: ${error instanceof Error ? (error.stack ?? error.message) : messageOf(error)}`);
      }
    }
  }

  /** After the healing: the newest point is what the disks hold. */
  async checkNewest(machine: SimMachine): Promise<void> {
    const head = await loadHead(this.#store, machine.id);
    const point = head?.tail.points.at(-1);
    if (head === null || point === undefined) {
      this.violated(`${machine.name} has no point`);
      return;
    }
    const reader = new MachineReader(this.#store, head);
    for (const disk of machine.disks) {
      const at = point.disks.find((d) => d.disk === disk.id);
      if (at === undefined) {
        this.violated(`${machine.name}: the newest point ${point.number} lacks ${disk.id}`);
        continue;
      }
      const image = await this.#images.of(reader, machine, disk, point, at);
      const wrong: string[] = [];
      for (let block = 0; block < disk.geometry.blockCount; block++) {
        const now = disk.halvesOf(block);
        if (image.low[block] === now.low && image.high[block] === now.high) continue;
        wrong.push(`block ${block} is ${image.low[block]}/${image.high[block]}, not ${now.low}/${now.high}`);
      }
      this.#tell(`${machine.name} newest point ${point.number} ${disk.id}, against the disk`, wrong);
    }
  }

  async #checkMachine(machine: SimMachine, isSettled: boolean): Promise<void> {
    const known = this.#of(machine.id);
    const head = await loadHead(this.#store, machine.id);
    if (head === null) {
      if (known.acknowledged.size > 0) this.violated(`${machine.name}: points were acknowledged, there is no manifest`);
      return;
    }
    const reader = new MachineReader(this.#store, head);
    const found = new Map<number, string>();
    for await (const point of reader.points()) {
      found.set(point.number, point.cycle);
      try {
        await this.#checkPoint(reader, machine, point, known);
      } catch (error) {
        this.#mayFail(machine, point.number, isSettled, error);
      }
    }
    for (const [hold, point] of known.held)
      if (!found.has(point)) this.violated(`${machine.name}: point ${point} is held as ${hold}, and is not listed`);
    for (const [number, cycle] of known.acknowledged) {
      if (found.get(number) === cycle || known.dropped.has(number)) continue;
      this.violated(
        `${machine.name}: point ${number} was acknowledged as cycle ${cycle}, listed is ${found.get(number)}`,
      );
    }
  }

  async #checkPoint(reader: MachineReader, machine: SimMachine, point: RecoveryPoint, known: Known): Promise<void> {
    const flip = known.cuts.get(point.cycle);
    const ofCopy = known.copyCuts.get(point.cycle);
    if (flip === undefined && ofCopy === undefined) {
      this.violated(`${machine.name}: point ${point.number} is of cycle ${point.cycle}, which nobody committed`);
      return;
    }
    for (const at of point.disks) {
      const cut = ofCopy?.get(at.disk);
      const disk = cut?.disk ?? machine.diskOf(at.disk);
      const order = cut?.order ?? flip?.order ?? 0;
      const image = await this.#images.of(reader, machine, disk, point, at);
      const wrong: string[] = [];
      for (let block = 0; block < disk.geometry.blockCount; block++) {
        const { settled, inFlight } = disk.allowedAt(block, order);
        const low = image.low[block];
        const high = image.high[block];
        if ((low === settled.low || low === inFlight?.low) && (high === settled.high || high === inFlight?.high))
          continue;
        const flight = inFlight === null ? '' : `, ${inFlight.low}/${inFlight.high} in flight`;
        wrong.push(`block ${block} is ${low}/${high}, was ${settled.low}/${settled.high}${flight}`);
      }
      this.#tell(`${machine.name} point ${point.number} ${at.disk}`, wrong);
    }
    this.checkedPoints++;
  }

  /** What has rotted can't be read, and says so. Once a scrub has seen it, it must have said which points that concerns. */
  #mayFail(machine: SimMachine, point: number, isSettled: boolean, error: unknown): void {
    const isRot = error instanceof AfterimageError && error.kind === 'corrupt' && this.isDamaged(machine);
    if (!isRot) throw error;
    this.unreadable++;
    if (!isSettled || damageNames(damageIn(this.#store, machine.id).filter(isOpen), point)) return;
    this.violated(`${machine.name}: point ${point} is damaged, and nobody says so: ${messageOf(error)}`);
  }

  #tell(where: string, wrong: readonly string[]): void {
    if (wrong.length > 0)
      this.violated(`${where}: ${wrong.length} blocks are wrong: ${wrong.slice(0, SHOWN).join('; ')}`);
  }

  #of(machine: string): Known {
    const known = this.#known.get(machine);
    if (known === undefined) throw new Error(`no machine ${machine}`);
    return known;
  }
}
