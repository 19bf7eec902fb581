/**
 * What verbs work on: the configured store, opened; the control socket. Of the configuration file only `store`, `stateDir`, `controlSocket` and
 * `encryption` are looked at.
 */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { errnoOf, messageOf, usageError } from '../../shared/errors.js';
import type { MachinePolicy } from '../catalog/policy.js';
import { DEFAULT_CONTROL_SOCKET, DEFAULT_STATE_DIR } from '../default-paths.js';
import type { RecoveryService } from '../failover/operations.js';
import { encryptionSchema, openKeys } from '../keys/config.js';
import type { MachineKeys } from '../keys/machine-keys.js';
import { openStore } from '../store/open.js';
import type { ObjectStore } from '../store/store.js';
import { DEFAULT_CONFIG, type CliIo, type GlobalOptions } from './io.js';

const configSchema = z.looseObject({
  store: z.string().optional(),
  stateDir: z.string().optional(),
  controlSocket: z.string().optional(),
  encryption: encryptionSchema.optional(),
});
type CliConfig = z.infer<typeof configSchema>;

const WHERE = 'Give --store file:/path, set AFTERIMAGE_STORE, or set `store:` in the configuration file.';

async function readConfig(path: string): Promise<CliConfig> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT' && path === DEFAULT_CONFIG) return undefined;
    throw usageError(`configuration ${path}: ${messageOf(error)}`, WHERE);
  });
  if (text === undefined) return {};
  // Loaded where it is needed, as below: most verbs need neither a configuration nor the receiver.
  const { parse } = await import('yaml');
  try {
    return configSchema.parse(parse(text) ?? {});
  } catch (error) {
    throw usageError(`configuration ${path} is not valid: ${messageOf(error)}`, WHERE);
  }
}

/** --store wins over AFTERIMAGE_STORE, which wins over the file. */
export async function openConfiguredStore(options: GlobalOptions, io: CliIo): Promise<ObjectStore> {
  const url = options.store ?? io.env['AFTERIMAGE_STORE'] ?? (await readConfig(options.config)).store;
  if (url === undefined || url === '') throw usageError('no store is given', WHERE);
  const store = await openStore(url, { clock: io.clock });
  await openConfiguredKeys(store, options, io);
  return store;
}

/** Keys of the store's machines: those of --key or AFTERIMAGE_KEY_FILE, and what the configuration says. */
export async function openConfiguredKeys(store: ObjectStore, options: GlobalOptions, io: CliIo): Promise<MachineKeys> {
  const fromEnv = io.env['AFTERIMAGE_KEY_FILE'];
  const files = options.key ?? (fromEnv === undefined || fromEnv === '' ? [] : [fromEnv]);
  const { encryption } = await readConfig(options.config);
  return openKeys(store, encryption ?? encryptionSchema.parse({}), { clock: io.clock, files });
}

/** The folder with the receiver's CA. */
export const configuredStateDir = async (options: GlobalOptions): Promise<string> =>
  (await readConfig(options.config)).stateDir ?? DEFAULT_STATE_DIR;

/** That of machines without one of their own. */
export async function configuredPolicy({ config }: GlobalOptions): Promise<MachinePolicy> {
  const { loadConfigOrDefaults } = await import('../../shared/config/load.js');
  const { policySchema } = await import('../catalog/policy.js');
  const schema = z.looseObject({ policy: policySchema.prefault({}) });
  return (await loadConfigOrDefaults(config === DEFAULT_CONFIG ? undefined : config, DEFAULT_CONFIG, schema)).policy;
}

/** --socket wins over the file. */
export const configuredSocket = async (options: GlobalOptions): Promise<string> =>
  options.socket ?? (await readConfig(options.config)).controlSocket ?? DEFAULT_CONTROL_SOCKET;

/** The running receiver; it is asked when its methods are called. */
export async function openReceiver(options: GlobalOptions, io: CliIo): Promise<RecoveryService> {
  const { controlClient } = await import('./control-client.js');
  return controlClient(await configuredSocket(options), io.signal);
}
