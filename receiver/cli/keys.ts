/**
 * `afterimage keys …`: shows, changes, exports and checks the keys of a machine. Prints ids and check values, never a key.
 */
import { keyCheckOf, keyIdText, formatKeyFile, wipe, type KeySet } from '../../shared/crypto/keys.js';
import { loadKeyFile, writeNewSecretFile } from '../../shared/crypto/key-file.js';
import { AfterimageError } from '../../shared/errors.js';
import { formatBytes, type MachineId } from '../../shared/units.js';
import { loadKeys, type KeysObject } from '../catalog/keys-io.js';
import { resolveMachine } from '../catalog/machines.js';
import { parsePointSelector } from '../catalog/point-selector.js';
import { MachineReader } from '../catalog/reader.js';
import { encryptionSchema, openKeys } from '../keys/config.js';
import type { ObjectStore } from '../store/store.js';
import { IndexCache } from '../volume/index-cache.js';
import { sampleDisk } from '../volume/sample.js';
import { verifyDisk } from '../volume/verify.js';
import { openConfiguredKeys, openConfiguredStore } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { planDisk } from './disk-at-point.js';
import { printJson } from './output.js';

export type KeysOptions = GlobalOptions;

async function withStore<T>(
  word: string,
  options: GlobalOptions,
  io: CliIo,
  use: (store: ObjectStore, machine: MachineId) => Promise<T>,
): Promise<T> {
  const store = await openConfiguredStore(options, io);
  try {
    return await use(store, await resolveMachine(store, word));
  } finally {
    await store.close();
  }
}

export async function showCommand(word: string, options: KeysOptions, io: CliIo): Promise<void> {
  await withStore(word, options, io, async (store, machine) => {
    const keys = await loadKeys(store, machine);
    if (options.json === true) printJson(io, { machine, keys: keys === null ? null : viewOf(keys) });
    else io.out.write(keys === null ? 'not encrypted\n' : textOf(keys));
  });
}

const isoOf = (ms: number): string => new Date(ms).toISOString();

function viewOf({ writesAs, receiver, agent, number, writtenAtMs, reason }: KeysObject): object {
  return {
    writesAs,
    number,
    writtenAt: isoOf(writtenAtMs),
    reason,
    receiver:
      receiver === null
        ? null
        : receiver.data.map((k) => ({ id: keyIdText(k.id), madeAt: isoOf(k.madeAtMs), kek: k.kek })),
    source: agent.map((a) => ({ hashCheck: a.hashCheck, dataKeys: a.dataKeys.map(keyIdText) })),
  };
}

function textOf({ writesAs, receiver, agent, writtenAtMs, reason }: KeysObject): string {
  const who = { plain: 'nobody encrypts now', receiver: 'encrypted by the receiver', agent: 'encrypted by its source' };
  const lines = [`${who[writesAs]} (since ${isoOf(writtenAtMs)}: ${reason})`];
  for (const key of receiver?.data ?? [])
    lines.push(`receiver's data key ${keyIdText(key.id)}, made ${isoOf(key.madeAtMs)}, wrapped under ${key.kek}`);
  for (const a of agent)
    lines.push(`source's keys: hash key ${a.hashCheck}, data keys ${a.dataKeys.map(keyIdText).join(', ')}`);
  return `${lines.join('\n')}\n`;
}

export async function rotateCommand(word: string, options: KeysOptions, io: CliIo): Promise<void> {
  await withStore(word, options, io, async (store, machine) => {
    const id = keyIdText(await (await openConfiguredKeys(store, options, io)).rotate(machine));
    if (options.json === true) printJson(io, { machine, dataKey: id });
    else
      io.out.write(
        `data key ${id} is added: a running receiver uses it within some minutes. Export the recovery key file anew.\n`,
      );
  });
}

export async function rewrapCommand(word: string, options: KeysOptions, io: CliIo): Promise<void> {
  await withStore(word, options, io, async (store, machine) => {
    const changed = await (await openConfiguredKeys(store, options, io)).rewrap(machine);
    if (options.json === true) printJson(io, { machine, changed });
    else io.out.write(changed ? 'all keys are wrapped under the newest key-encryption key\n' : 'they were already\n');
  });
}

export async function exportCommand(
  word: string,
  options: KeysOptions & { readonly out: string },
  io: CliIo,
): Promise<void> {
  await withStore(word, options, io, async (store, machine) => {
    const set = await (await openConfiguredKeys(store, options, io)).exportKeys(machine);
    await writeNewSecretFile(options.out, formatKeyFile(set));
    const dataKeys = set.data.map((d) => keyIdText(d.id));
    wipe(set);
    if (options.json === true) printJson(io, { machine, file: options.out, dataKeys });
    else
      io.err.write(
        `${options.out} opens all that the receiver encrypted of this machine (data keys ${dataKeys.join(', ')}). Keep it away from the store; see \`afterimage keys check\`.\n`,
      );
  });
}

interface Checked {
  readonly disk: string;
  readonly provenBytes: number;
  readonly encryptedChunks: number;
}

export async function checkCommand(
  word: string,
  options: KeysOptions & { readonly all?: boolean },
  io: CliIo,
): Promise<void> {
  await withStore(word, options, io, async (store, machine) => {
    const [path = ''] = options.key ?? [];
    const set = await loadKeyFile(path);
    fits(set, await loadKeys(store, machine), path, machine);
    // This file and nothing else: no provider, no other file may help out.
    await openKeys(store, encryptionSchema.parse({}), { clock: io.clock, files: [path] });
    const view = await MachineReader.open(store, machine);
    const point = await view.findPoint(parsePointSelector('latest'));
    const checked: Checked[] = [];
    for (const disk of point.disks) {
      const planned = await planDisk(store, view, point, disk, new IndexCache(), io.signal);
      const sample = await sampleDisk(planned.reader, planned.plan, io.signal);
      const whole = options.all === true ? await verifyDisk({ ...planned, signal: io.signal, clock: io.clock }) : null;
      const provenBytes = whole?.readBytes ?? sample.readBytes;
      checked.push({ disk: disk.disk, provenBytes, encryptedChunks: sample.encryptedChunks });
    }
    if (options.json === true)
      printJson(io, { machine, point: point.number, all: options.all === true, disks: checked });
    else io.out.write(checkedText(path, point.number, checked, options.all === true));
  });
}

function checkedText(path: string, point: number, checked: readonly Checked[], all: boolean): string {
  const lines = checked.map(
    ({ disk, provenBytes, encryptedChunks }) =>
      `disk ${disk}: ${formatBytes(provenBytes)} ${all ? 'proven, digest and all' : `of a sample proven, ${encryptedChunks} encrypted chunks`}`,
  );
  return `${path} opens point ${point}\n${lines.join('\n')}\n`;
}

/** The file must be that of this machine, and hold every key that is in use. */
function fits(set: KeySet, keys: KeysObject | null, path: string, machine: MachineId): void {
  const wrong = (what: string, hint: string): AfterimageError =>
    new AfterimageError(`key file ${path} ${what}`, { code: 'key-wrong', kind: 'refused', hint });
  if (keys === null) throw wrong(`is not needed: machine ${machine} is not encrypted`, 'Every restore works without.');
  const check = keyCheckOf(set.hash);
  const known =
    set.holder === 'receiver'
      ? keys.receiver?.digests.check === check
        ? keys.receiver.data.map((d) => d.id)
        : null
      : (keys.agent.find((a) => a.hashCheck === check)?.dataKeys ?? null);
  if (known === null)
    throw wrong(`is not one of machine ${machine}`, 'Look for the one that is; see `afterimage keys show`.');
  const missing = known.filter((id) => !set.data.some((d) => d.id === id)).map(keyIdText);
  if (missing.length > 0)
    throw wrong(
      `is older than the last rotation: it lacks ${missing.join(', ')}`,
      'Write it anew: `afterimage keys export`, or copy the agent’s key file again.',
    );
}
