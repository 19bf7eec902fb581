/**
 * `encryption:` of the receiver's configuration, and what follows from it: the keys of a store. Used by the receiver and by `afterimage`.
 *
 * Nothing is encrypted unless a provider is set: a key that the receiver would make unasked would die with its host, and with it all that it
 * encrypted. Whoever sets one has been told to keep a copy of it elsewhere (`keys init` says so), or has a service that does.
 */
import { randomBytes } from 'node:crypto';
import { z } from 'zod';
import { absolutePath } from '../../shared/config/values.js';
import type { Clock } from '../../shared/clock.js';
import { loadKeyFile } from '../../shared/crypto/key-file.js';
import type { MachineId } from '../../shared/units.js';
import { attachKeys } from '../catalog/store-keys.js';
import type { ObjectStore } from '../store/store.js';
import { MachineKeys } from './machine-keys.js';
import { openProvider } from './provider.js';

export const encryptionSchema = z.strictObject({
  /** Key-encryption keys: a file of `afterimage-receiver keys init`, or a program (see keys/command-provider.ts). Absent: none. */
  provider: z
    .union([
      z.strictObject({ file: absolutePath }),
      z.strictObject({ command: z.array(z.string().min(1)).min(1).max(100) }),
    ])
    .optional(),
  /** Whether machines that aren't encrypted yet are from now on, when there is a provider. What is encrypted stays so. */
  atRest: z.boolean('expected true or false').default(true),
  /** Key files of agents that encrypt, so that their machines can be failed over here. */
  machineKeys: z.array(absolutePath).default([]),
});
export type Encryption = z.infer<typeof encryptionSchema>;

export interface OpenKeysOptions {
  readonly clock: Clock;
  /** Key files given for this run, beside those of the configuration. */
  readonly files?: readonly string[];
  readonly warn?: (machine: MachineId, message: string) => void;
}

/** Gives a store its keys. A key file that can't be read is an error at once; a provider that fails is one when it is needed. */
export async function openKeys(store: ObjectStore, config: Encryption, options: OpenKeysOptions): Promise<MachineKeys> {
  const files = [];
  for (const path of [...(options.files ?? []), ...config.machineKeys]) files.push(await loadKeyFile(path));
  const provider = config.provider === undefined ? null : openProvider(config.provider, randomBytes);
  const keys = new MachineKeys({
    store,
    clock: options.clock,
    randomBytes,
    provider,
    atRest: config.atRest && provider !== null,
    files,
    ...(options.warn === undefined ? {} : { warn: options.warn }),
  });
  attachKeys(store, keys);
  return keys;
}
