/**
 * A protected disk in memory and the receiver that owns its machine: makes points by real layers and commits, and sends blocks once more when it is
 * asked, as an agent does with its next point. Encrypted by nobody, by the receiver, or by the source, whose key the receiver doesn't have.
 */
import { randomUUID } from 'node:crypto';
import { geometryOf } from '../../shared/blocks/geometry.js';
import { digestToText, hashBlockAt } from '../../shared/blocks/hash.js';
import { systemClock } from '../../shared/clock.js';
import type { BlockHasher } from '../../shared/crypto/block-hasher.js';
import { keyCheckOf, type KeySet } from '../../shared/crypto/keys.js';
import type { MachineCipher } from '../../shared/crypto/machine-cipher.js';
import { AfterimageError } from '../../shared/errors.js';
import { decodeChunkHeader } from '../../shared/layer/chunk.js';
import { silentLogger } from '../../shared/log.js';
import { asSeriesId } from '../../shared/units.js';
import type { Commit } from '../../shared/wire/messages.js';
import { contentAfterCommit } from '../../receiver/catalog/commit-content.js';
import { LayerWriter } from '../../receiver/catalog/layer-writer.js';
import type { LayerRef } from '../../receiver/catalog/manifest.js';
import { readLayerList, writeLayerList } from '../../receiver/catalog/manifest-io.js';
import { layerListName, layerName } from '../../receiver/catalog/names.js';
import { OwnedMachine } from '../../receiver/catalog/owned-machine.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { attachKeys, keysOf } from '../../receiver/catalog/store-keys.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { unpaced } from '../../receiver/upkeep/pace.js';
import { repairMachine, type AskAgent } from '../../receiver/upkeep/scrub-repair.js';
import { agentCipher, agentKeySet, keysFor, MemoryProvider } from '../crypto/world.js';
import type { Model } from '../helpers/layers.js';
import { restoreToMemory, wrongBlocks } from '../helpers/memory-target.js';
import { MemoryStore, storeThrough } from '../helpers/memory-store.js';
import { planOf } from '../helpers/restore.js';
import { BLOCK_BYTES, chunkOf, DISK, MACHINE } from '../session/ingest-fixture.js';

const SERIES = asSeriesId('aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeee1');
export const GEOMETRY = geometryOf(66 * 1024 * 1024, BLOCK_BYTES);
/** Blocks per chunk of what is written here. */
const PER_CHUNK = 4;

export const MODES = ['plain', 'receiver', 'agent'] as const;
export type Mode = (typeof MODES)[number];

export type Blocks = ReadonlyMap<number, Buffer | null>;

export class Source {
  readonly store = new MemoryStore();
  /** The same objects, for who has all keys that there are. */
  readonly viewer = storeThrough(this.store, (_what, work) => work());
  /** What the receiver reads and writes through; it may keep copies. */
  through: ObjectStore = this.store;
  readonly provider = new MemoryProvider();
  readonly keys: KeySet | null;
  readonly #cipher: MachineCipher | null;
  readonly models = new Map<number, Model>();
  readonly #now = new Map<number, Buffer>();
  /** Blocks that were asked for, in order. */
  readonly asked: number[] = [];
  isThere = true;
  /** Runs before blocks are sent once more: the source goes on. */
  onAsked: () => Promise<void> = () => Promise.resolve();
  owned!: OwnedMachine;

  private constructor(mode: Mode) {
    this.keys = mode === 'agent' ? agentKeySet() : null;
    this.#cipher = this.keys === null ? null : agentCipher(this.keys);
    const provider = mode === 'receiver' ? this.provider : null;
    keysFor(this.store, { provider });
    keysFor(this.viewer, { provider, files: this.keys === null ? [] : [this.keys] });
  }

  static async open(mode: Mode = 'plain'): Promise<Source> {
    const source = new Source(mode);
    const { keys } = source;
    const agent = keys === null ? null : { hashCheck: keyCheckOf(keys.hash), dataKeys: keys.data.map((d) => d.id) };
    await keysOf(source.store).beginWriting(MACHINE, agent);
    const deps = { store: source.store, clock: systemClock, randomId: randomUUID };
    const { sizeBytes, blockBytes } = GEOMETRY;
    source.owned = await OwnedMachine.takeOver(deps, MACHINE, async () => ({
      generation: 1,
      machine: { id: MACHINE, name: 'web1', description: null },
      lastPoint: 0,
      disks: [
        { id: DISK, device: '/dev/vda', sizeBytes, blockBytes, series: null, bases: null, staged: null, lastPoint: 0 },
      ],
      pages: [],
      tail: { points: [], deltas: [] },
    }));
    return source;
  }

  /** A block that nobody else has. */
  static block(seed: string): Buffer {
    const block = Buffer.alloc(BLOCK_BYTES);
    block.write(seed.repeat(3));
    block.writeUInt32LE(seed.length, BLOCK_BYTES - 4);
    return block;
  }

  /** Hashes as they stand in indexes and digests. */
  get #hasher(): BlockHasher {
    return this.#cipher?.hasherOf({ seal: this.#cipher.sealer(DISK) }, DISK) ?? hashBlockAt;
  }

  async #layer(kind: 'base' | 'delta', point: number, segment: number | null, blocks: Blocks): Promise<LayerRef> {
    const writer = await LayerWriter.open(this.store, {
      kind,
      blockBytes: BLOCK_BYTES,
      segment,
      firstPoint: point,
      lastPoint: point,
      epoch: this.owned.epoch,
      sequence: this.owned.nextSequence(),
      machineId: MACHINE,
      diskId: DISK,
      seriesId: SERIES,
    });
    const sorted = [...blocks].sort((a, b) => a[0] - b[0]);
    for (let i = 0; i < sorted.length; i += PER_CHUNK) {
      const sealer = this.#cipher?.sealer(DISK) ?? null;
      const chunk = Buffer.from(chunkOf(new Map(sorted.slice(i, i + PER_CHUNK)), this.#hasher, sealer));
      await writer.append(chunk, decodeChunkHeader(chunk));
    }
    return writer.finish();
  }

  /** Bases from what the disk holds now, said to be of `point`. */
  async bases(point: number, segments: readonly number[] = [0, 1]): Promise<LayerRef[]> {
    const layers: LayerRef[] = [];
    for (const segment of segments) {
      const first = segment * GEOMETRY.blocksPerSegment;
      const inside = [...this.#now].filter(([b]) => b >= first && b < first + GEOMETRY.blocksPerSegment);
      layers.push(await this.#layer('base', point, segment, new Map(inside)));
    }
    const name = layerListName(MACHINE, DISK, this.owned.epoch, this.owned.nextSequence());
    const before = this.owned.manifest.disks[0]?.bases ?? null;
    const known = before === null ? [] : await readLayerList(this.store, before);
    const list = await writeLayerList(this.store, name, [...known, ...layers]);
    await this.owned.commit((m) => ({ ...m, disks: m.disks.map((d) => ({ ...d, bases: list })) }));
    return layers;
  }

  /** What the disk holds before the first point. */
  set(blocks: Blocks): void {
    for (const [n, bytes] of blocks) {
      if (bytes === null) this.#now.delete(n);
      else this.#now.set(n, bytes);
    }
  }

  /** A point with these changes, in one layer or in several parts. */
  async point(...parts: readonly Blocks[]): Promise<{ readonly number: number; readonly layers: readonly LayerRef[] }> {
    const number = this.owned.manifest.lastPoint + 1;
    const deltas: LayerRef[] = [];
    for (const part of parts) {
      this.set(part);
      deltas.push(await this.#layer('delta', number, null, part));
    }
    let digest = 0n;
    for (const [n, bytes] of this.#now) digest ^= this.#hasher(bytes, 0, BLOCK_BYTES, n);
    const [entry] = this.owned.manifest.disks;
    if (entry === undefined) throw new Error('no disk');
    const commit: Commit = {
      type: 'commit',
      cycle: randomUUID(),
      cutAtMs: 1_700_000_000_000 + number * 5_000,
      consistency: 'crash',
      reason: 'test',
      disks: [{ disk: DISK, series: SERIES, digest: digestToText(digest) }],
      lastSequence: 0,
      stats: { passes: 1, cutMs: 1, freezeMs: 0, changedBytes: 1 },
    };
    const hashCheck = this.keys === null ? '' : keyCheckOf(this.keys.hash);
    const layers = new Map([[DISK, { entry, bases: null, deltas, storedBytes: 1, hashCheck }]]);
    const sizes = new Map([[DISK, GEOMETRY.sizeBytes]]);
    await this.owned.commit((m) => contentAfterCommit(m, commit, layers, sizes, 1_700_000_000_000).content);
    this.models.set(number, new Map(this.#now));
    return { number, layers: deltas };
  }

  readonly ask: AskAgent = async (_disk, extents) => {
    if (!this.isThere)
      throw new AfterimageError('the agent is not there', { code: 'home-absent', kind: 'disconnected' });
    const wanted = extents.flatMap(([first, count]) => Array.from({ length: count }, (_, i) => first + i));
    this.asked.push(...wanted);
    await this.onAsked();
    const { number } = await this.point(new Map(wanted.map((n) => [n, this.#now.get(n) ?? null])));
    return { point: number };
  };

  repair(): Promise<void> {
    this.#shareKeys();
    return repairMachine({
      store: this.through,
      beneath: this.store,
      clock: systemClock,
      log: silentLogger(),
      owned: this.owned,
      pace: unpaced(systemClock),
      signal: new AbortController().signal,
      ask: this.ask,
    });
  }

  /** What reads and writes through another decorator has the same keys. */
  #shareKeys(): void {
    attachKeys(this.through, keysOf(this.store));
  }

  nameOf(layer: LayerRef | undefined): string {
    if (layer === undefined) throw new Error('no layer');
    return layerName(MACHINE, DISK, layer);
  }

  flip(layer: LayerRef | undefined, at: number): void {
    const name = this.nameOf(layer);
    const bytes = Buffer.from(this.store.objects.get(name) ?? Buffer.alloc(0));
    const offset = at < 0 ? bytes.length + at : at;
    bytes[offset] = (bytes[offset] ?? 0) ^ 0x10;
    this.store.objects.set(name, bytes);
  }

  remove(layer: LayerRef | undefined): void {
    this.store.objects.delete(this.nameOf(layer));
  }

  /** Numbers of the points that are listed, each with whether it restores; what restores must be right. */
  async restorable(): Promise<Map<number, boolean>> {
    const view = await MachineReader.open(this.viewer, MACHINE);
    const found = new Map<number, boolean>();
    for await (const { number } of view.points()) {
      try {
        const blocks = await restoreToMemory(await planOf(this.viewer, MACHINE, DISK, number));
        const wrong = wrongBlocks(blocks, this.models.get(number) ?? new Map<number, Buffer>());
        if (wrong.length > 0) throw new Error(`point ${number} restores wrong blocks ${wrong.join(' ')}`);
        found.set(number, true);
      } catch (error) {
        if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') throw error;
        found.set(number, false);
      }
    }
    return found;
  }
}
