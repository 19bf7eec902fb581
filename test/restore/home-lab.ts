/**
 * A machine at home (a real agent process on loop devices) and a receiver in this process, so that a test can give the orders that failover gives; and
 * a recovery site by hand: it commits points to the chain under a raised generation, and knows what the disk holds at each.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  existsSync,
  openSync,
  readFileSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { ask } from '../../agent/client.js';
import { CONTROL } from '../../agent/client.js';
import { contentAfterCommit } from '../../receiver/catalog/commit-content.js';
import { raiseGeneration } from '../../receiver/catalog/generation.js';
import { LayerWriter } from '../../receiver/catalog/layer-writer.js';
import { readHighestManifest } from '../../receiver/catalog/manifest-io.js';
import type { OwnedMachine } from '../../receiver/catalog/owned-machine.js';
import { initialRecovery, type Recovery } from '../../receiver/catalog/recovery.js';
import { loadRecovery, writeRecovery } from '../../receiver/catalog/recovery-io.js';
import { encryptionSchema, openKeys } from '../../receiver/keys/config.js';
import { openAuthority } from '../../receiver/session/ca.js';
import { enrollHandler } from '../../receiver/session/enroll-http.js';
import { Enrollment } from '../../receiver/session/enroll.js';
import type { HomeStep, RestoreReport } from '../../receiver/session/home-agent.js';
import { authenticator } from '../../receiver/session/identity.js';
import { SessionRegistry } from '../../receiver/session/registry.js';
import { startSessionServer, type SessionServer } from '../../receiver/session/server.js';
import { TokenStore } from '../../receiver/session/tokens.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { geometryOf } from '../../shared/blocks/geometry.js';
import { digestToText } from '../../shared/blocks/hash.js';
import { plainHasher, type BlockHasher } from '../../shared/crypto/block-hasher.js';
import type { MachineCipher } from '../../shared/crypto/machine-cipher.js';
import { systemClock } from '../../shared/clock.js';
import { chunkBytesMax, decodeChunkHeader, encodeChunk } from '../../shared/layer/chunk.js';
import { CHUNK_PLAIN_BYTES_MAX } from '../../shared/limits.js';
import { silentLogger } from '../../shared/log.js';
import { alignedBuffer } from '../../shared/native/libc.js';
import { asDiskId, asMachineId, asSeriesId, type MachineId } from '../../shared/units.js';
import { CLOSE } from '../../shared/wire/close-codes.js';
import { Lab, type LabOptions } from '../e2e/lab.js';
import { BLOCK_BYTES, type LoopDisk } from '../e2e/loop-disk.js';

const BLOCKS_PER_CHUNK = CHUNK_PLAIN_BYTES_MAX / BLOCK_BYTES;

/** Blocks of one change of the recovery site; null is a block of zeroes. */
export type Change = ReadonlyMap<number, Buffer | null>;

export const randomBlock = (): Buffer => randomBytes(BLOCK_BYTES);

/** Every `step`-th block from `first` on. */
export const scattered = (first: number, count: number, step: number): number[] =>
  Array.from({ length: count }, (_, i) => first + i * step);

let transfer: Buffer | undefined;

/** Writes a block past the page cache, as a workload at home does. */
export function writeBlocks(disk: LoopDisk, blocks: Iterable<number>, bytes: () => Buffer = randomBlock): void {
  transfer ??= alignedBuffer(BLOCK_BYTES);
  const fd = openSync(disk.device, constants.O_WRONLY | constants.O_DIRECT);
  for (const block of blocks) {
    bytes().copy(transfer);
    writeSync(fd, transfer, 0, BLOCK_BYTES, block * BLOCK_BYTES);
  }
  closeSync(fd);
}

export class HomeLab {
  readonly lab: Lab;
  store!: ObjectStore;
  registry!: SessionRegistry;
  #server: SessionServer | null = null;
  machine!: MachineId;
  /** Of each disk: what the newest point holds. */
  images: Buffer[] = [];
  owned!: OwnedMachine;
  steps: HomeStep[] = [];
  /** Key files that the receiver is given. */
  keyFiles: string[] = [];
  /** The source's keys, where it encrypts: the recovery site goes on with them. */
  cipher: MachineCipher | null = null;

  private constructor(lab: Lab) {
    this.lab = lab;
    lab.undo(() => this.stopReceiver());
  }

  static async open(options: LabOptions): Promise<HomeLab> {
    return new HomeLab(await Lab.open(options));
  }

  /** Source disk `index`. */
  disk(index = 0): LoopDisk {
    const disk = this.lab.disks[index];
    if (disk === undefined) throw new Error(`no disk ${index}`);
    return disk;
  }

  /** What the newest point holds of disk `index`. */
  image(index = 0): Buffer {
    const image = this.images[index];
    if (image === undefined) throw new Error(`no image ${index}`);
    return image;
  }

  /** The medium of a disk is gone; returns what it held. */
  takeAway(index: number): Buffer {
    const { file, device } = this.disk(index);
    const content = readFileSync(file);
    truncateSync(file, 0);
    execFileSync('losetup', ['-c', device]);
    return content;
  }

  bringBack(index: number, content: Buffer): void {
    const { file, device } = this.disk(index);
    // In place: the loop device has the file open.
    writeFileSync(file, content, { flag: 'r+' });
    execFileSync('losetup', ['-c', device]);
  }

  get deps() {
    return { store: this.store, clock: systemClock, randomId: randomUUID };
  }

  get homeAgents(): SessionRegistry['homeAgents'] {
    return this.registry.homeAgents;
  }

  async startReceiver(): Promise<void> {
    const log = silentLogger();
    const stateDir = join(this.lab.folder, 'receiver');
    const ca = await openAuthority(stateDir, systemClock);
    this.store = await openStore(this.lab.storeUrl, { create: true });
    await openKeys(this.store, encryptionSchema.parse({}), { clock: systemClock, files: this.keyFiles });
    this.registry = new SessionRegistry({ ...this.deps, log, program: 'test' });
    const tokens = new TokenStore(stateDir, systemClock);
    const manifestGeneration = async (m: MachineId) => (await readHighestManifest(this.store, m))?.generation ?? 0;
    const enrollment = new Enrollment({ store: this.store, tokens, ca, clock: systemClock, log, manifestGeneration });
    this.#server = await startSessionServer({
      ca,
      listen: { host: '127.0.0.1', port: this.lab.port },
      names: [],
      authenticate: authenticator(this.store),
      enroll: enrollHandler(enrollment, systemClock, log),
      onSession: (peer, transport) => void this.registry.admit(peer, transport),
      log,
      clock: systemClock,
    });
  }

  async stopReceiver(): Promise<void> {
    await this.#server?.stop();
    this.#server = null;
    await this.registry?.settled();
  }

  /** A protected machine with a point that holds what its disks hold. */
  async setUp(): Promise<number> {
    await this.startReceiver();
    await this.lab.enrol();
    this.machine = asMachineId((JSON.parse(readFileSync(this.identityPath, 'utf8')) as { machine: string }).machine);
    await this.lab.protect();
    await this.lab.startAgent();
    await this.lab.untilProtected();
    const { point } = await this.lab.syncNow();
    this.images = this.lab.disks.map((d) => d.content());
    return point;
  }

  get identityPath(): string {
    return join(this.lab.folder, 'agent', 'identity.json');
  }

  get generationKept(): number {
    return (JSON.parse(readFileSync(this.identityPath, 'utf8')) as { generation: number }).generation;
  }

  async decide(home: Recovery['home'], state: Recovery['state'] = 'Protected'): Promise<void> {
    const before = await loadRecovery(this.store, this.machine);
    const job = state === 'PlannedFailoverInitiated' ? plannedFailover() : null;
    await writeRecovery(this.deps, before, { ...initialRecovery(this.machine, 1), state, home, job });
  }

  /** The right to write goes to the recovery site; the agent is cut off. */
  async failOver(): Promise<void> {
    const manifest = await readHighestManifest(this.store, this.machine);
    await this.decide({ mode: 'refused', reason: 'failed over by a test' }, 'UnplannedFailoverCompleted');
    this.owned = await raiseGeneration(this.deps, this.machine, manifest?.generation ?? 1);
    await this.homeAgents.disconnect(this.machine, CLOSE.failedOver, 'failed over by a test');
  }

  async letHomeRestore(): Promise<void> {
    await this.decide({ mode: 'restore', reason: 'failback' });
    await this.reconnect();
  }

  /** A refused agent asks seldom: make it ask now. */
  async reconnect(): Promise<void> {
    await ask(this.lab.controlSocket, 'POST', CONTROL.reload).catch(() => undefined);
  }

  /** Commits a point that holds these changes; of each disk, by its index. */
  async commit(...changes: readonly Change[]): Promise<number> {
    const { owned } = this;
    const layers = new Map<string, { entry: never; bases: null; deltas: never[]; storedBytes: number }>();
    const sizes = new Map<string, number>();
    const disks = [];
    for (const [i, id] of this.lab.diskIds.entries()) {
      const change = changes[i] ?? new Map<number, Buffer | null>();
      const image = this.images[i] as Buffer;
      const deltas = change.size === 0 ? [] : [await this.#layer(id, change)];
      const entry = owned.manifest.disks.find((d) => d.id === id);
      const hashCheck = this.cipher?.hashCheck ?? '';
      layers.set(id, { entry, bases: null, deltas, storedBytes: 0, hashCheck } as never);
      sizes.set(id, image.length);
      for (const [block, bytes] of change) {
        if (bytes === null) image.fill(0, block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
        else bytes.copy(image, block * BLOCK_BYTES);
      }
      disks.push({ disk: asDiskId(id), series: null, digest: digestOf(image, this.#hashOf(id)) });
    }
    const commit = {
      type: 'commit' as const,
      cycle: randomUUID(),
      cutAtMs: systemClock.nowMs(),
      consistency: 'crash' as const,
      reason: 'recovery site',
      disks,
      lastSequence: 0,
      stats: { passes: 1, cutMs: 0, freezeMs: 0, changedBytes: 0 },
    };
    const { content, point } = contentAfterCommit(owned.manifest, commit, layers, sizes, systemClock.nowMs());
    await owned.commit(() => content);
    return point.number;
  }

  async #layer(disk: string, change: Change): Promise<unknown> {
    const { owned } = this;
    const point = owned.manifest.lastPoint + 1;
    const writer = await LayerWriter.open(this.store, {
      kind: 'delta',
      blockBytes: BLOCK_BYTES,
      segment: null,
      firstPoint: point,
      lastPoint: point,
      epoch: owned.epoch,
      sequence: owned.nextSequence(),
      machineId: this.machine,
      diskId: disk,
      seriesId: '',
    });
    const all = [...change].sort((a, b) => a[0] - b[0]);
    for (let at = 0; at < all.length; at += BLOCKS_PER_CHUNK) {
      const part = all.slice(at, at + BLOCKS_PER_CHUNK);
      const data = part.flatMap(([, bytes]) => (bytes === null ? [] : [bytes]));
      const extents = part.map(([first, bytes]) => ({ first, count: 1, zero: bytes === null }));
      const withData = part.flatMap(([n, bytes]) =>
        bytes === null ? [] : [this.#hashOf(disk)(bytes, 0, BLOCK_BYTES, n)],
      );
      const plain = Buffer.concat(data);
      const target = Buffer.alloc(chunkBytesMax(extents.length, data.length, plain.length));
      const hashes = BigUint64Array.from(withData);
      const sealer = this.cipher?.sealer(disk) ?? null;
      const chunk = target.subarray(0, encodeChunk(target, BLOCK_BYTES, extents, hashes, plain, sealer));
      await writer.append(chunk, decodeChunkHeader(chunk));
    }
    return writer.finish();
  }

  #hashOf(disk: string): BlockHasher {
    return this.cipher?.hasherFor(this.cipher.hashCheck, disk) ?? plainHasher;
  }

  restore(point: number, final: boolean, signal = AbortSignal.timeout(60_000)): Promise<RestoreReport> {
    const onStep = (step: HomeStep): void => void this.steps.push(step);
    return this.homeAgents.restore(this.machine, { point, final }, { signal, onStep });
  }

  /** After a final restore: the right to write goes home. */
  async comeHome(): Promise<void> {
    const series = this.homeAgents.seriesAfterRestore(this.machine);
    const { generation } = this.owned.manifest;
    this.owned = await raiseGeneration(this.deps, this.machine, generation, (content) => ({
      ...content,
      disks: content.disks.map((d) => {
        const next = series.get(d.id);
        return next === undefined ? d : { ...d, series: asSeriesId(next) };
      }),
    }));
    await this.decide({ mode: 'replicate', generation: generation + 1 });
    await this.homeAgents.disconnect(this.machine, CLOSE.goingAway, 'the machine is home');
    await this.reconnect();
  }

  /** Verdicts that the agent heard, newest last. */
  verdicts(): string[] {
    return [...readFileSync(this.lab.agentLog, 'utf8').matchAll(/receiver's verdict: (\w+)/g)].map((m) => m[1] ?? '');
  }

  /** Blocks in which disk `index` differs from what the newest point holds. */
  differences(index = 0): number[] {
    return this.disk(index).differences(this.image(index));
  }

  logText(): string {
    return existsSync(this.lab.agentLog) ? readFileSync(this.lab.agentLog, 'utf8') : '';
  }
}

/** A job that is under way. */
const plannedFailover = (): Recovery['job'] => ({
  id: randomUUID(),
  operation: 'planned-failover',
  state: 'InProgress',
  receiver: randomUUID(),
  startedAtMs: systemClock.nowMs(),
  endedAtMs: null,
  request: {},
  data: {},
  tasks: [],
  error: null,
});

export function digestOf(image: Buffer, hash: BlockHasher = plainHasher): string {
  const geometry = geometryOf(image.length, BLOCK_BYTES);
  let digest = 0n;
  for (let b = 0; b < geometry.blockCount; b++) digest ^= hash(image, b * BLOCK_BYTES, BLOCK_BYTES, b);
  return digestToText(digest);
}
