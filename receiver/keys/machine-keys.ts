/**
 * The keys of a store's machines: what their keys objects say, opened by the provider or by key files that an operator gave.
 *
 * Promises: keys are made only where `atRest` is set or an agent says that it encrypts; once a machine is encrypted by the receiver it stays so, whatever the
 * configuration says later, and without its keys nobody writes, also where the keys object itself is lost. A new keys object holds all that the one before it
 * holds. One that this process knows is never lost while it runs. One that is lost before the machine's first point, and before a scrub saw it, is not
 * missed: new keys are made then, and a session doesn't go on from layers that they don't open (session/staging.ts).
 * On a crash between making keys and the first chunk: keys that nothing uses. No state but what was opened.
 */
import { isHiddenDigest, MachineCipher } from '../../shared/crypto/machine-cipher.js';
import { keyCheckOf, newKeySet, withNewDataKey, type KeySet, type RandomBytes } from '../../shared/crypto/keys.js';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import { KEYS_RECHECK_MS } from '../../shared/limits-keys.js';
import type { MachineId } from '../../shared/units.js';
import { createKeys, KEYS_VERSION, loadKeys, type KeysObject, type WrappedKey } from '../catalog/keys-io.js';
import { readHighestAsStored } from '../catalog/manifest-io.js';
import { loadScrubNote } from '../catalog/damage-io.js';
import { keysName, keysPrefix } from '../catalog/names.js';
import type { AgentKeys, StoreKeys } from '../catalog/store-keys.js';
import type { ObjectStore } from '../store/store.js';
import type { KeyProvider } from './provider.js';

/** Tries against others that write a keys object at the same time. */
const CREATE_TRIES = 8;

export interface MachineKeysDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly randomBytes: RandomBytes;
  readonly provider: KeyProvider | null;
  /** Encrypt machines that aren't yet. */
  readonly atRest: boolean;
  /** Contents of key files, of any machines. */
  readonly files: readonly KeySet[];
  /** Something that an operator should know: once per machine and change. */
  readonly warn?: (machine: MachineId, message: string) => void;
}

interface Known {
  readonly object: KeysObject | null;
  readonly cipher: MachineCipher;
  readonly lookedAtMs: number;
  /** Whether it was looked whether keys objects, or newer ones, were lost. */
  readonly isProven: boolean;
}

const contextOf = (machine: MachineId, use: string): string => `afterimage ${machine} ${use}`;

export class MachineKeys implements StoreKeys {
  readonly #deps: MachineKeysDeps;
  readonly #known = new Map<MachineId, Known>();

  constructor(deps: MachineKeysDeps) {
    this.#deps = deps;
  }

  async cipherOf(machine: MachineId, look: 'cached' | 'now' = 'cached'): Promise<MachineCipher> {
    const known = this.#known.get(machine);
    const nowMs = this.#deps.clock.monotonicMs();
    if (known !== undefined && look === 'cached' && nowMs - known.lookedAtMs < KEYS_RECHECK_MS) return known.cipher;
    return (await this.#load(machine)).cipher;
  }

  async cipherForWriting(machine: MachineId): Promise<MachineCipher> {
    for (;;) {
      const cipher = await this.cipherOf(machine);
      const known = this.#known.get(machine);
      if (known === undefined || known.isProven) return cipher;
      await this.#mustNotBeLost(machine, known.object);
      // Keys may have been made or added meanwhile: those count.
      if (this.#known.get(machine) !== known) continue;
      this.#known.set(machine, { ...known, isProven: true });
      return known.cipher;
    }
  }

  async beginWriting(machine: MachineId, agent: AgentKeys | null): Promise<MachineCipher> {
    const { object, cipher } = await this.#change(machine, async (current) => this.#onHello(machine, current, agent));
    // Proves that the keys are here: without them nothing may be written. The source's are not ours to have.
    if (object?.writesAs === 'receiver') cipher.sealer('-');
    return cipher;
  }

  /** The keys object that counts; null for a machine that was never encrypted. */
  async objectOf(machine: MachineId): Promise<KeysObject | null> {
    return (await this.#load(machine)).object;
  }

  /** The receiver's keys of a machine, for a recovery file. Throws when they can't be had. */
  async exportKeys(machine: MachineId): Promise<KeySet> {
    const object = await loadKeys(this.#deps.store, machine);
    const set = object === null ? null : await this.#receiverSet(machine, object);
    if (set !== null) return set;
    throw new AfterimageError(
      object?.receiver == null
        ? `the receiver has no keys of machine ${machine}`
        : `the keys of machine ${machine} are not at hand`,
      {
        code: 'key-missing',
        kind: 'refused',
        hint:
          object?.writesAs === 'agent'
            ? 'Its source encrypts: the key file of its agent is the recovery key file.'
            : 'Set `encryption:` in the receiver’s configuration to where its key-encryption keys are.',
      },
    );
  }

  /** A new data key for what is written from now on; old ones stay readable. Returns the new key's id. */
  async rotate(machine: MachineId): Promise<number> {
    const { object } = await this.#change(machine, async (current) => {
      if (current?.receiver == null) throw notOurs(machine, current);
      const set = await this.exportKeys(machine);
      const next = withNewDataKey(set, this.#deps.randomBytes, this.#deps.clock.nowMs());
      const added = next.data[next.data.length - 1];
      if (added === undefined) throw new Error('a key was to be added');
      const wrapped = await this.#wrapData(machine, added);
      const receiver = { ...current.receiver, data: [...current.receiver.data, wrapped] };
      return { ...current, receiver, reason: 'rotated: a new data key' };
    });
    return object?.receiver?.data.at(-1)?.id ?? 0;
  }

  /** Wraps all keys of a machine under the provider's present key-encryption key. Data isn't touched. False: they are already. */
  async rewrap(machine: MachineId): Promise<boolean> {
    const kek = await this.#provider(machine).currentKek();
    let changed = false;
    await this.#change(machine, async (current) => {
      if (current?.receiver == null) throw notOurs(machine, current);
      const { digests, data } = current.receiver;
      if (kek !== null && [digests, ...data].every((k) => k.kek === kek)) return current;
      changed = true;
      const set = await this.exportKeys(machine);
      const receiver = {
        digests: await this.#wrap(set.hash, contextOf(machine, 'digests')),
        data: await Promise.all(set.data.map((d) => this.#wrapData(machine, d))),
      };
      return { ...current, receiver, reason: 'wrapped anew' };
    });
    return changed;
  }

  /** What the keys object is to be when an agent begins to write; the same object when nothing changes. */
  async #onHello(machine: MachineId, current: KeysObject | null, agent: AgentKeys | null): Promise<KeysObject | null> {
    if (agent !== null) return withAgent(machine, current, agent);
    const wanted = current?.receiver != null || this.#deps.atRest ? 'receiver' : 'plain';
    if (current === null && wanted === 'plain') return null;
    if (current?.writesAs === wanted) return current;
    if (current?.writesAs === 'agent')
      this.#deps.warn?.(
        machine,
        `the source of machine ${machine} does not encrypt any more: ${wanted === 'plain' ? 'its data is stored in the clear' : 'the receiver does'}`,
      );
    const base = current ?? emptyKeys(machine);
    const receiver = base.receiver ?? (wanted === 'receiver' ? await this.#newReceiverKeys(machine) : null);
    return {
      ...base,
      writesAs: wanted,
      receiver,
      reason: wanted === 'receiver' ? 'encryption at rest' : 'the source does not encrypt any more',
    };
  }

  /**
   * A keys object that a scrub has seen is gone, or there is none and points have digests that the receiver's keys hide: new keys in the place of the old
   * would hide that these are gone, and with an older number newer ones would be.
   */
  async #mustNotBeLost(machine: MachineId, current: KeysObject | null): Promise<void> {
    const { store } = this.#deps;
    const note = await loadScrubNote(store, machine).catch((error: unknown) => {
      // The scrub tells of it; points are the other witness.
      if (error instanceof AfterimageError && error.kind === 'corrupt') return null;
      throw error;
    });
    const seen = Math.max(0, ...(note?.records ?? []).flatMap(([name]) => keysNumberOf(name) ?? []));
    if (seen > (current?.number ?? 0)) throw keysLost(machine, `an earlier scrub has read ${keysName(machine, seen)}`);
    if (current !== null) return;
    const manifest = await readHighestAsStored(store, machine);
    const hidden = manifest?.tail.points.find((point) => point.disks.some(({ digest }) => isHiddenDigest(digest)));
    if (hidden !== undefined) throw keysLost(machine, `it is encrypted by the receiver (point ${hidden.number})`);
  }

  /**
   * The keys object that counts. One that this process has read or written, and that is lost since with its second copy, is put back as it was; where its
   * name is taken by what can't be read, its content goes on under the next number.
   */
  async #object(machine: MachineId): Promise<KeysObject | null> {
    const { store, clock, warn } = this.#deps;
    const known = this.#known.get(machine)?.object ?? null;
    const found = await loadKeys(store, machine).catch((error: unknown) => {
      if (known !== null && error instanceof AfterimageError && error.kind === 'corrupt') return 'damaged' as const;
      throw error;
    });
    if (known === null) return found === 'damaged' ? null : found;
    if (found !== 'damaged' && found !== null && found.number >= known.number) return found;
    const again =
      found === 'damaged'
        ? { ...known, number: known.number + 1, writtenAtMs: clock.nowMs(), reason: 'the one before is damaged' }
        : known;
    // Somebody else came first: what there is now counts.
    if (!(await createKeys(store, again))) return loadKeys(store, machine);
    warn?.(machine, `keys object ${known.number} of machine ${machine} was lost or damaged; it is written again`);
    return again;
  }

  async #newReceiverKeys(machine: MachineId): Promise<KeysObject['receiver']> {
    const set = newKeySet('receiver', machine, this.#deps.randomBytes, this.#deps.clock.nowMs());
    return {
      digests: await this.#wrap(set.hash, contextOf(machine, 'digests')),
      data: await Promise.all(set.data.map((d) => this.#wrapData(machine, d))),
    };
  }

  /** Writes the next keys object, as `decide` says; several tries against others. */
  async #change(
    machine: MachineId,
    decide: (current: KeysObject | null) => Promise<KeysObject | null>,
  ): Promise<Known> {
    for (let attempt = 0; attempt < CREATE_TRIES; attempt++) {
      const current = await this.#object(machine);
      await this.#mustNotBeLost(machine, current);
      const next = await decide(current);
      if (next === null || next === current) return this.#remember(machine, current, true);
      const object = {
        ...next,
        number: (current?.number ?? 0) + 1,
        writtenAtMs: this.#deps.clock.nowMs(),
      };
      if (await createKeys(this.#deps.store, object)) return this.#remember(machine, object, true);
    }
    throw new AfterimageError(`the keys of machine ${machine} are changed by others all the time`, {
      code: 'keys-contended',
      kind: 'io',
      hint: 'Try again.',
    });
  }

  async #load(machine: MachineId): Promise<Known> {
    return this.#remember(machine, await this.#object(machine));
  }

  async #remember(machine: MachineId, object: KeysObject | null, isProven = false): Promise<Known> {
    const before = this.#known.get(machine);
    // Looked up before the newer one was written, by this process.
    if ((before?.object?.number ?? 0) > (object?.number ?? 0)) return before as Known;
    const lookedAtMs = this.#deps.clock.monotonicMs();
    const isSame = before !== undefined && before.object?.number === object?.number;
    const cipher = isSame ? before.cipher : await this.#cipher(machine, object);
    const known = { object, cipher, lookedAtMs, isProven: isProven || (isSame && before.isProven) };
    this.#known.set(machine, known);
    return known;
  }

  async #cipher(machine: MachineId, object: KeysObject | null): Promise<MachineCipher> {
    const receiver = object === null ? this.#recoveryFile(machine) : await this.#receiverSet(machine, object);
    const agents = this.#deps.files.filter(
      (f) => f.holder === 'agent' && (f.machine === null || f.machine === machine),
    );
    return new MachineCipher({
      machine,
      sets: receiver === null ? agents : [...agents, receiver],
      writesAs: object?.writesAs ?? 'plain',
      hashCheck: object?.writesAs === 'agent' ? (object.agent.at(-1)?.hashCheck ?? '') : '',
      randomBytes: this.#deps.randomBytes,
    });
  }

  /** Of a machine whose keys object is lost: what its recovery file has. It may be older than a rotation. */
  #recoveryFile(machine: MachineId): KeySet | null {
    return this.#deps.files.find((f) => f.holder === 'receiver' && f.machine === machine) ?? null;
  }

  /** The receiver's keys, from a recovery file that has all of them, else from the provider; null when there is neither. */
  async #receiverSet(machine: MachineId, object: KeysObject): Promise<KeySet | null> {
    const { receiver } = object;
    if (receiver === null) return null;
    const { provider, files } = this.#deps;
    const file = files.find((f) => f.holder === 'receiver' && keyCheckOf(f.hash) === receiver.digests.check);
    // A recovery file that is older than a rotation lacks the newest keys: what it has is better than nothing.
    if (provider === null) return file ?? null;
    const hash = await this.#unwrap(receiver.digests, contextOf(machine, 'digests'));
    const data = [];
    for (const wrapped of receiver.data) {
      const key = await this.#unwrap(wrapped, contextOf(machine, `data ${wrapped.id}`));
      data.push({ id: wrapped.id, key, madeAtMs: wrapped.madeAtMs });
    }
    return { holder: 'receiver', machine, hash, data };
  }

  async #wrapData(machine: MachineId, { id, key, madeAtMs }: KeySet['data'][number]) {
    return { id, madeAtMs, ...(await this.#wrap(key, contextOf(machine, `data ${id}`))) };
  }

  async #wrap(key: Buffer, context: string): Promise<WrappedKey> {
    return { ...(await this.#provider(context).wrap(key, context)), check: keyCheckOf(key) };
  }

  async #unwrap(wrapped: WrappedKey, context: string): Promise<Buffer> {
    const provider = this.#provider(context);
    const key = await provider.unwrap(wrapped, context);
    if (keyCheckOf(key) === wrapped.check) return key;
    throw new AfterimageError(`key provider ${provider.name} gave another key than ${context}`, {
      code: 'key-missing',
      kind: 'refused',
      hint: 'See `encryption:` in the receiver’s configuration, or use a recovery key file (--key FILE).',
    });
  }

  #provider(what: string): KeyProvider {
    if (this.#deps.provider !== null) return this.#deps.provider;
    throw new AfterimageError(`no key provider is configured, and ${what} needs one`, {
      code: 'key-missing',
      kind: 'refused',
      hint: 'Set `encryption:` in the receiver’s configuration.',
    });
  }
}

/** Of a record's name below its machine's folder; null for what is no keys object. */
function keysNumberOf(short: string): number | null {
  const number = /^keys\/(\d+)$/.exec(short)?.[1];
  return number === undefined ? null : Number(number);
}

const keysLost = (machine: MachineId, why: string): AfterimageError =>
  new AfterimageError(`machine ${machine}: ${why}, and its keys are not in the store any more`, {
    code: 'key-missing',
    kind: 'refused',
    hint: `Bring the objects under ${keysPrefix(machine)} back from a copy of the store. With its recovery key file, points can be restored meanwhile (--key FILE).`,
  });

const emptyKeys = (machine: MachineId): KeysObject => ({
  version: KEYS_VERSION,
  number: 0,
  machine,
  writtenAtMs: 0,
  reason: '',
  writesAs: 'plain',
  receiver: null,
  agent: [],
});

/** The source encrypts with these keys: they are noted, the newest last. */
function withAgent(machine: MachineId, current: KeysObject | null, agent: AgentKeys): KeysObject {
  const base = current ?? emptyKeys(machine);
  const noted = base.agent.at(-1);
  const dataKeys = [...agent.dataKeys];
  const isKnown =
    base.writesAs === 'agent' &&
    noted?.hashCheck === agent.hashCheck &&
    dataKeys.every((id, i) => noted.dataKeys[i] === id) &&
    dataKeys.length === noted.dataKeys.length;
  if (isKnown && current !== null) return current;
  const others = base.agent.filter((a) => a.hashCheck !== agent.hashCheck);
  const entry = { hashCheck: agent.hashCheck, dataKeys };
  return { ...base, writesAs: 'agent', agent: [...others, entry], reason: 'the source encrypts' };
}

const notOurs = (machine: MachineId, current: KeysObject | null): AfterimageError =>
  new AfterimageError(
    current?.writesAs === 'agent'
      ? `machine ${machine} is encrypted by its source`
      : `machine ${machine} is not encrypted by the receiver`,
    {
      code: 'keys-not-ours',
      kind: 'usage',
      hint:
        current?.writesAs === 'agent'
          ? 'Run `afterimage-agent keys rotate` there.'
          : 'Set `encryption:` in the receiver’s configuration; its keys are made when its agent connects next.',
    },
  );
