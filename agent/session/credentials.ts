/**
 * Who this agent is: `<stateDir>/identity.json`, which names a folder `credentials-<certificate>/` with key.pem, cert.pem and ca.pem.
 *
 * Promise: key, certificate and identity always belong together. A new enrolment writes a folder of its own, then replaces identity.json:
 * that replacement is the moment at which it counts. After a crash a folder may remain that nothing names; the next enrolment removes it.
 */
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import {
  createFileDurably,
  makeFolderDurably,
  ownerFor,
  replaceFileDurably,
  syncFolder,
} from '../../shared/durable-file.js';
import { AfterimageError, corrupt, errnoOf, messageOf } from '../../shared/errors.js';
import { fingerprintOf } from '../../shared/fingerprint.js';
import { isUuid, type MachineId } from '../../shared/units.js';
import { parseHostPort } from '../../shared/wire/host-port.js';

const FOLDER_MODE = 0o700;
const SECRET_MODE = 0o600;
const FOLDER_PREFIX = 'credentials-';
const ENROLL_HINT =
  'Enrol this machine: `afterimage-receiver token` at the receiver, `afterimage-agent enroll TOKEN` here.';

const identityFileSchema = z.strictObject({
  version: z.literal(1),
  machine: z.custom<MachineId>((v) => typeof v === 'string' && isUuid(v), 'not a machine id'),
  name: z.string(),
  generation: z.number().int().min(1),
  receiver: z.string().refine((text) => parseHostPort(text) !== null, 'not host:port'),
  folder: z.string().regex(/^credentials-[0-9a-f]{16}$/),
});

export interface Credentials {
  readonly machine: MachineId;
  readonly name: string;
  readonly generation: number;
  /** host:port of the receiver. */
  readonly receiver: string;
  readonly keyPem: string;
  readonly certificatePem: string;
  /** The only CA that this agent believes. */
  readonly caPem: string;
}

/** Null when this machine was never enrolled. */
export async function loadCredentials(stateDir: string): Promise<Credentials | null> {
  const path = join(stateDir, 'identity.json');
  const text = await readText(path);
  if (text === null) return null;
  const { folder, version: _version, ...identity } = parseIdentity(path, text);
  const [keyPem, certificatePem, caPem] = await Promise.all(
    ['key.pem', 'cert.pem', 'ca.pem'].map((file) => readText(join(stateDir, folder, file))),
  );
  if (keyPem == null || certificatePem == null || caPem == null) {
    throw corrupt('credentials-damaged', `a file is missing in ${join(stateDir, folder)}`, ENROLL_HINT);
  }
  return { ...identity, keyPem, certificatePem, caPem };
}

/** The same for who can't go on without. */
export async function requireCredentials(stateDir: string): Promise<Credentials> {
  const credentials = await loadCredentials(stateDir);
  if (credentials !== null) return credentials;
  throw new AfterimageError('this machine is not enrolled', { code: 'not-enrolled', kind: 'usage', hint: ENROLL_HINT });
}

export async function saveCredentials(stateDir: string, credentials: Credentials): Promise<void> {
  const { keyPem, certificatePem, caPem, ...identity } = credentials;
  const folder = `${FOLDER_PREFIX}${fingerprintOf(certificatePem).slice(0, 16)}`;
  try {
    await makeFolderDurably(join(stateDir, folder), FOLDER_MODE);
    const options = { mode: SECRET_MODE, owner: await ownerFor(stateDir) };
    await createFileDurably(join(stateDir, folder, 'key.pem'), keyPem, options);
    await createFileDurably(join(stateDir, folder, 'cert.pem'), certificatePem, options);
    await createFileDurably(join(stateDir, folder, 'ca.pem'), caPem, options);
    const text = `${JSON.stringify({ version: 1, ...identity, folder }, null, 2)}\n`;
    await replaceFileDurably(join(stateDir, 'identity.json'), text, options);
    await removeOtherFolders(stateDir, folder);
  } catch (error) {
    throw ioError(stateDir, error);
  }
}

/** Keeps a higher generation that the receiver granted. Survives a power cut when it resolves; an older one is never written over a newer. */
export async function keepGeneration(stateDir: string, generation: number): Promise<void> {
  const path = join(stateDir, 'identity.json');
  const text = await readText(path);
  if (text === null) throw corrupt('credentials-damaged', `${path} is missing`, ENROLL_HINT);
  const identity = parseIdentity(path, text);
  if (identity.generation >= generation) return;
  try {
    const options = { mode: SECRET_MODE, owner: await ownerFor(stateDir) };
    await replaceFileDurably(path, `${JSON.stringify({ ...identity, generation }, null, 2)}\n`, options);
  } catch (error) {
    throw ioError(stateDir, error);
  }
}

async function removeOtherFolders(stateDir: string, keep: string): Promise<void> {
  for (const name of await readdir(stateDir)) {
    if (name.startsWith(FOLDER_PREFIX) && name !== keep)
      await rm(join(stateDir, name), { recursive: true, force: true });
  }
  await syncFolder(stateDir);
}

function parseIdentity(path: string, text: string): z.infer<typeof identityFileSchema> {
  try {
    return identityFileSchema.parse(JSON.parse(text));
  } catch (error) {
    throw corrupt('credentials-damaged', `${path} can't be read: ${messageOf(error)}`, ENROLL_HINT);
  }
}

async function readText(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw ioError(path, error);
  }
}

const ioError = (path: string, error: unknown): AfterimageError =>
  new AfterimageError(`the agent's state in ${path} can't be used: ${messageOf(error)}`, {
    code: 'state-dir',
    kind: 'io',
    hint: 'Run as root, and check the directory and its filesystem.',
    cause: error,
  });
