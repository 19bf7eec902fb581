/**
 * One agent's session: hello and verdicts, chunks into layers, acknowledgements, commits. An agent whose machine runs elsewhere gets a restoring
 * session instead: it owns nothing, so nothing that such an agent sends can become part of a point.
 *
 * Promises: `received` is acknowledged for verified chunks that have left memory, `staged` for durable layers, `committed` for points in a
 * manifest; a point is committed on all its disks by one object. Memory is bounded: past INGEST_QUEUE_BYTES_MAX the socket isn't read.
 * On any error the session ends with a close code; the agent reconnects and goes on from what is durable.
 */
import type { Logger } from 'pino';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { failpoint } from '../../shared/failpoints.js';
import { decodeChunkHeader } from '../../shared/layer/chunk.js';
import { ACK_BYTES, INGEST_QUEUE_BYTES_MAX, SEGMENTS_FINISHING_MAX } from '../../shared/limits.js';
import { asPoint } from '../../shared/units.js';
import { CLOSE, type CloseReason } from '../../shared/wire/close-codes.js';
import {
  DATA_HEADER_BYTES,
  decodeAgentMessage,
  decodeDataHeader,
  encodeControl,
  protocolError,
  TAG_CONTROL,
  TAG_DATA,
  type AgentMessage,
  type Commit,
  type ReceiverMessage,
} from '../../shared/wire/messages.js';
import type { Transport } from '../../shared/wire/transport.js';
import type { MachineIdentity } from '../catalog/manifest.js';
import type { OwnedMachine } from '../catalog/owned-machine.js';
import type { OwnedMachines } from '../catalog/owned-machines.js';
import type { ObjectStore } from '../store/store.js';
import { contentAfterCommit, type DiskLayers } from '../catalog/commit-content.js';
import type { DiskIngest } from './disk-ingest.js';
import { FleetLink, type SessionFleet } from './fleet-link.js';
import { layersOf, mustStand } from './point-layers.js';
import { PolicyLink } from './policy-link.js';
import { closeReasonFor } from './close-reason.js';
import { GroupLink, isGroupMessage } from './group-link.js';
import { HomeSession, isHomeMessage } from './home-session.js';
import { isPull, RestoreSession, type PullMessage } from './restore-session.js';
import { SegmentHashes } from './segment-hashes.js';
import type { Policies } from '../catalog/policy-io.js';
import type { MachineStatus } from './status.js';
import type { Direction, FleetMember, Stranded } from '../fleet/placement.js';
import { openSession } from './welcome.js';

/** A transport whose reading can be stopped. */
export interface IngestTransport extends Transport {
  pause(): void;
  resume(): void;
}

export interface IngestDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly randomId: () => string;
  readonly log: Logger;
  readonly program: string;
  /** How often the machines' points are to be made; absent: the agents decide. */
  readonly policies?: Policies;
  /** Is told of machines that are taken over here. */
  readonly machines?: OwnedMachines;
  /** Absent: this receiver is alone on its store. */
  readonly fleet?: SessionFleet;
}

export class IngestSession {
  readonly #deps: IngestDeps;
  readonly #identity: MachineIdentity;
  readonly #transport: IngestTransport;
  readonly #status: MachineStatus;
  #log: Logger;
  #owned: OwnedMachine | null = null;
  #disks: DiskIngest[] = [];
  #queue: Buffer[] = [];
  #queuedBytes = 0;
  #paused = false;
  #working = false;
  #work: Promise<void> = Promise.resolve();
  #ended = false;
  #receivedBytes = 0;
  #acknowledgedBytes = 0;
  #lastSequence = 0;
  #stagedSequence = 0;
  /** Segments being made durable, in order; each settles after the one before. */
  #finishing: Promise<void>[] = [];
  readonly #hashes: SegmentHashes;
  #restore: RestoreSession | null = null;
  readonly #policy: PolicyLink;
  readonly #fleet: FleetLink;
  stranded: Stranded | null = null;
  /** Orders to this agent. */
  readonly home: HomeSession;
  readonly group = new GroupLink((message) => this.#tell(message));

  constructor(
    deps: IngestDeps,
    identity: MachineIdentity,
    transport: IngestTransport,
    status: MachineStatus,
    onMode: () => void = () => undefined,
  ) {
    this.#deps = deps;
    this.#identity = identity;
    this.#transport = transport;
    this.#status = status;
    this.#policy = new PolicyLink(deps.policies, identity.machine, (message) => this.#send(message), deps.log);
    this.#fleet = new FleetLink(deps.fleet, (message) => this.#send(message));
    this.#hashes = new SegmentHashes(deps.store, identity.machine, deps.log);
    this.#log = deps.log.child({ machine: identity.machine, name: identity.name });
    this.home = new HomeSession(
      deps.clock,
      (message) => this.#tell(message),
      async (reason, text) => {
        if (!this.#ended) await this.#refuse(reason, text);
      },
      onMode,
    );
  }

  /** Serves the session; resolves when it has ended and nothing of it is open any more. */
  async run(): Promise<void> {
    this.#transport.onMessage((bytes) => {
      this.#enqueue(bytes);
    });
    const unfollow = this.#fleet.follow();
    const closed = await this.#transport.closed;
    unfollow();
    this.#ended = true;
    this.#queue = [];
    this.home.closed();
    this.group.closed();
    // What is being written or committed comes to its end first: layers must not be thrown away under a commit.
    await this.#work;
    await Promise.allSettled(this.#finishing);
    await this.#restore?.end();
    for (const disk of this.#disks) await disk.abort();
    this.#log.info({ code: closed.code, reason: closed.reason }, 'agent disconnected');
  }

  #enqueue(bytes: Buffer): void {
    if (this.#ended || (this.#owned !== null && this.group.hearEarly(bytes))) return;
    this.#queue.push(bytes);
    this.#queuedBytes += bytes.length;
    this.#status.queuedBytes = this.#queuedBytes;
    if (!this.#paused && this.#queuedBytes > INGEST_QUEUE_BYTES_MAX) {
      this.#paused = true;
      this.#transport.pause();
    }
    if (!this.#working) {
      this.#working = true;
      this.#work = this.#workOff();
    }
  }

  /** Handles what is queued, one message after the other. Never rejects. */
  async #workOff(): Promise<void> {
    try {
      while (!this.#ended) {
        const bytes = this.#queue.shift();
        if (bytes === undefined) {
          if (this.#receivedBytes === this.#acknowledgedBytes) {
            await this.#handOverNow();
            if (this.#queue.length > 0) continue;
            break;
          }
          // More may arrive while this is on its way: look at the queue again.
          await this.#acknowledge();
          continue;
        }
        await this.#handle(bytes);
        this.#queuedBytes -= bytes.length;
        this.#status.queuedBytes = this.#queuedBytes;
        if (this.#paused && this.#queuedBytes < INGEST_QUEUE_BYTES_MAX / 2) {
          this.#paused = false;
          this.#transport.resume();
        }
      }
    } catch (error) {
      await this.#fail(error);
    } finally {
      this.#working = false;
    }
  }

  async #handle(bytes: Buffer): Promise<void> {
    if (bytes[0] === TAG_DATA) {
      await this.#data(bytes);
      return;
    }
    if (bytes[0] !== TAG_CONTROL) throw protocolError(`message tag ${bytes[0] ?? 'missing'}`);
    const message = decodeAgentMessage(bytes);
    if (this.#restore !== null) {
      await this.#restoreControl(message, this.#restore);
      return;
    }
    if (this.#owned === null) {
      if (message.type !== 'hello') throw protocolError(`${message.type} before hello`);
      await this.#hello(message);
      return;
    }
    await this.#control(message, this.#owned);
  }

  async #hello(hello: Extract<AgentMessage, { type: 'hello' }>): Promise<void> {
    const opened = await openSession({ ...this.#deps, owner: this.#deps.fleet?.owner ?? null }, this.#identity, hello);
    if ('refused' in opened) {
      await this.#refuse(opened.refused, opened.reason);
      return;
    }
    if ('elsewhere' in opened) {
      await this.#redirect(opened.elsewhere, opened.reason);
      return;
    }
    this.stranded = opened.stranded;
    if ('restore' in opened) {
      this.#restore = new RestoreSession({
        ...this.#deps,
        log: this.#log,
        machine: this.#identity.machine,
        disks: hello.disks.map((d) => d.id),
        send: async (message) => {
          const bytes = Buffer.isBuffer(message) ? message : encodeControl(message);
          if (!this.#ended) await this.#transport.send(bytes);
          return bytes.length;
        },
      });
      this.#status.mode = 'restore';
      this.#log.info({ lastPoint: opened.restore.lastPoint }, 'agent connected, to be restored');
      await this.#send(opened.restore);
      await this.#fleet.welcomed([]);
      this.home.opened(this.#restore);
      this.group.opened(hello, 'restoring');
      return;
    }
    this.#status.mode = 'replicate';
    this.#owned = opened.owned;
    this.#deps.machines?.add(opened.owned);
    this.#fleet.tookOver(opened.from);
    this.#disks = opened.disks;
    this.#status.epoch = opened.owned.epoch;
    this.#status.lastPoint = opened.owned.manifest.tail.points.at(-1) ?? null;
    this.#log.info(
      { epoch: opened.owned.epoch, disks: opened.welcome.disks.map((d) => `${d.disk}: ${d.verdict} (${d.reason})`) },
      'agent connected',
    );
    await this.#send(opened.welcome);
    await this.#policy.tell();
    await this.#fleet.welcomed(opened.welcome.disks.map((d) => d.verdict));
    this.home.opened(null);
    this.group.opened(hello, 'replicating');
  }

  /** Sends the agent to another receiver as soon as nothing is under way: after the commit of its cycle, or at once between two. */
  handOver(decide: () => Promise<Direction>): void {
    this.#fleet.ask(decide);
    if (this.#working) return;
    this.#working = true;
    this.#work = this.#workOff();
  }

  /** Never in the middle of what the agent sends: it would have to be sent again. */
  async #handOverNow(): Promise<void> {
    const direction = this.#finishing.length > 0 ? null : await this.#fleet.due(this.#lastSequence);
    if (direction !== null && !this.#ended) await this.#redirect(direction.receiver, direction.reason);
  }

  async #redirect(to: FleetMember, reason: string): Promise<void> {
    this.#log.info({ receiver: to.id, to: to.name, reason }, 'agent is sent to another receiver');
    await this.#fleet.redirect(to, reason);
    this.#end(CLOSE.redirected);
  }

  async #restoreControl(message: AgentMessage, restore: RestoreSession): Promise<void> {
    if (isPull(message)) await this.#pull(message, restore);
    else if (isHomeMessage(message)) this.home.heard(message);
    else if (message.type === 'progress') this.#status.disks = message.disks;
    else if (message.type !== 'bye') throw protocolError(`${message.type} in a restoring session`);
  }

  async #pull(message: PullMessage, restore: RestoreSession): Promise<void> {
    try {
      await restore.answer(message);
    } catch (error) {
      const isTheirs = error instanceof AfterimageError && (error.code === 'protocol' || error.kind === 'disconnected');
      if (!isTheirs) this.home.goalFailed(error instanceof Error ? error : new Error(messageOf(error)));
      throw error;
    }
  }

  async #data(bytes: Buffer): Promise<void> {
    const header = decodeDataHeader(bytes);
    const disk = this.#disks[header.diskIndex];
    if (this.#owned === null || disk === undefined) throw protocolError(`data for disk index ${header.diskIndex}`);
    this.#nextSequence(header.sequence);
    const chunk = bytes.subarray(DATA_HEADER_BYTES);
    const chunkHeader = decodeChunkHeader(chunk);
    await disk.append(header, chunk, chunkHeader);
    failpoint('receiver.ingest.chunk');
    this.#receivedBytes += bytes.length;
    this.#status.receivedBytes += bytes.length;
    if (this.#receivedBytes - this.#acknowledgedBytes >= ACK_BYTES) await this.#acknowledge();
  }

  #nextSequence(sequence: number): void {
    if (sequence !== this.#lastSequence + 1) throw protocolError(`sequence ${sequence} after ${this.#lastSequence}`);
    this.#lastSequence = sequence;
  }

  async #control(message: AgentMessage, owned: OwnedMachine): Promise<void> {
    if (isHomeMessage(message)) {
      this.home.heard(message);
      return;
    }
    if (isGroupMessage(message)) {
      this.group.heard(message);
      return;
    }
    if (isPull(message)) throw protocolError(`${message.type} in a replicating session`);
    switch (message.type) {
      case 'hello':
        throw protocolError('a second hello');
      case 'cycle-begin':
        for (const disk of this.#disks) await disk.dropCycle();
        return;
      case 'segment-end':
        this.#nextSequence(message.sequence);
        await this.#endSegment(message);
        return;
      case 'commit':
        await this.#commit(message, owned);
        return;
      case 'hashes-request': {
        const disk = this.#diskOf(message.disk);
        disk.checkSegment(message.segment);
        const hashes = await this.#hashes.of(owned.manifest, disk, message.segment);
        await this.#send({ type: 'hashes', disk: disk.id, segment: message.segment, hashes });
        return;
      }
      case 'progress':
        this.#status.disks = message.disks;
        return;
      case 'bye':
        this.#log.info({ reason: message.reason }, 'agent says goodbye');
        return;
    }
  }

  #diskOf(id: string): DiskIngest {
    const disk = this.#disks.find((d) => d.id === id);
    if (disk === undefined) throw protocolError(`disk ${id} was not in hello`);
    return disk;
  }

  /** Makes the segment durable beside the next one's ingest; marks stay in order. */
  async #endSegment(message: Extract<AgentMessage, { type: 'segment-end' }>): Promise<void> {
    const disk = this.#diskOf(message.disk);
    const writer = disk.endSegment(message.segment, message.target);
    while (this.#finishing.length >= SEGMENTS_FINISHING_MAX) await this.#finishing[0];
    const before = this.#finishing.at(-1);
    const finishing = (async () => {
      const layer = writer === null ? null : await writer.finish();
      await before;
      if (layer !== null) {
        disk.staged.push(layer);
        this.#status.storedBytes += layer.sizeBytes;
      }
      failpoint('receiver.ingest.segment-staged');
      this.#stagedSequence = message.sequence;
      if (!this.#ended) await this.#acknowledge();
    })();
    this.#finishing.push(finishing);
    finishing
      .catch((error: unknown) => this.#fail(error))
      .finally(() => {
        this.#finishing = this.#finishing.filter((f) => f !== finishing);
      });
  }

  async #commit(message: Commit, owned: OwnedMachine): Promise<void> {
    if (message.lastSequence !== this.#lastSequence) {
      throw protocolError(`commit after message ${message.lastSequence}, received ${this.#lastSequence}`);
    }
    const commit = this.group.withRecord(message);
    await Promise.all(this.#finishing);
    const layers = new Map<string, DiskLayers>();
    const sizes = new Map<string, number>();
    for (const said of message.disks) {
      const disk = this.#diskOf(said.disk);
      if (layers.has(disk.id)) throw protocolError(`a commit names disk ${disk.id} twice`);
      layers.set(disk.id, await layersOf(this.#deps.store, disk, owned));
      sizes.set(disk.id, disk.geometry.sizeBytes);
    }
    failpoint('receiver.commit.layers-durable');
    // Upkeep may commit before this one: what the point is added to is known when its turn has come.
    const { tail } = await owned.commit((current) => {
      for (const { entry, bases } of layers.values()) if (bases !== null) mustStand(current, entry);
      return contentAfterCommit(current, commit, layers, sizes, this.#deps.clock.nowMs()).content;
    });
    const point = tail.points.at(-1);
    if (point === undefined) throw new Error('a commit without a point');
    failpoint('receiver.commit.manifest-written');
    for (const said of message.disks) this.#diskOf(said.disk).committed();
    this.#fleet.committed(this.#lastSequence);
    this.group.committed(point.number, commit.group);
    this.#status.lastPoint = point;
    this.#status.pointsCommitted++;
    this.#status.storedBytes += point.stats.storedBytes;
    failpoint('receiver.commit.before-ack');
    await this.#acknowledge();
    await this.#send({
      type: 'committed',
      cycle: message.cycle,
      point: asPoint(point.number),
      storedBytes: point.stats.storedBytes,
    });
    this.#log.info(
      {
        point: point.number,
        consistency: point.consistency,
        reason: point.reason,
        storedBytes: point.stats.storedBytes,
      },
      'recovery point committed',
    );
    await this.#policy.tell();
    await this.#handOverNow();
  }

  async #acknowledge(): Promise<void> {
    this.#acknowledgedBytes = this.#receivedBytes;
    await this.#send({
      type: 'ack',
      receivedBytes: this.#receivedBytes,
      stagedSequence: this.#stagedSequence,
      committedPoint: this.#owned?.manifest.lastPoint ?? 0,
    });
  }

  async #send(message: ReceiverMessage): Promise<void> {
    if (this.#ended) return;
    await this.#transport.send(encodeControl(message));
  }

  /** An order must not vanish unseen: it fails when the session is over. */
  async #tell(message: ReceiverMessage): Promise<void> {
    if (this.#ended) throw new AfterimageError('the session is over', { code: 'disconnected', kind: 'disconnected' });
    await this.#transport.send(encodeControl(message));
  }

  async #refuse(reason: CloseReason, text: string): Promise<void> {
    this.#status.lastRefusal = `${reason.name}: ${text}`;
    this.#log.warn({ code: reason.code, reason: text }, `agent refused: ${reason.name}`);
    await this.#endWith(reason, text);
  }

  async #fail(error: unknown): Promise<void> {
    if (this.#ended) {
      // The agent is gone and needs no answer; that this receiver has slept through a takeover, its operator should know.
      if (error instanceof AfterimageError && error.kind === 'fenced') {
        this.#status.lastError = messageOf(error);
        this.#log.warn({ err: error }, `a commit under way came too late: ${messageOf(error)}`);
      }
      return;
    }
    // The agent went away while it was being answered: no error of ours, and run() tells of it.
    if (error instanceof AfterimageError && error.kind === 'disconnected') return;
    const reason = closeReasonFor(error);
    this.#log.error({ err: error, code: reason.code }, `session ended: ${messageOf(error)}`);
    this.#status.lastError = messageOf(error);
    await this.#endWith(reason, messageOf(error));
  }

  async #endWith(reason: CloseReason, text: string): Promise<void> {
    const refused: ReceiverMessage = {
      type: 'refused',
      code: reason.code,
      reason: text.slice(0, 1000),
      hint: reason.hint,
    };
    // The peer may be gone already; the close code says the same in short.
    await this.#send(refused).catch(() => undefined);
    this.#end(reason);
  }

  #end(reason: CloseReason): void {
    this.#ended = true;
    // Nobody shall wait for, or ask, an agent that hears nothing any more: the socket may take its time to close.
    this.home.closed();
    this.group.closed();
    this.#transport.close(reason.code, reason.name);
  }
}
