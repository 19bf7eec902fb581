/**
 * What every verb needs: which store, opened; the clock; a signal that Ctrl-C aborts. The configuration file is read for its `store` only.
 */
import { readFile } from 'node:fs/promises';
import { parse } from 'yaml';
import { z } from 'zod';
import { systemClock, type Clock } from '../../shared/clock.js';
import { errnoOf, messageOf, usageError } from '../../shared/errors.js';
import { openStore } from '../store/open.js';
import type { ObjectStore } from '../store/store.js';

export const DEFAULT_CONFIG = '/etc/afterimage/receiver.yaml';
const configSchema = z.looseObject({ store: z.string().optional() });

export interface GlobalOptions {
  readonly store?: string;
  readonly config: string;
  readonly json?: boolean;
}

export interface CliIo {
  readonly out: NodeJS.WritableStream;
  readonly err: NodeJS.WritableStream & { readonly isTTY?: boolean };
  readonly env: NodeJS.ProcessEnv;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

export const systemIo = (signal: AbortSignal): CliIo => ({
  out: process.stdout,
  err: process.stderr,
  env: process.env,
  clock: systemClock,
  signal,
});

const WHERE = 'Give --store file:/path, set AFTERIMAGE_STORE, or set `store:` in the configuration file.';

async function storeOfConfig(path: string): Promise<string | undefined> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT' && path === DEFAULT_CONFIG) return undefined;
    throw usageError(`configuration ${path}: ${messageOf(error)}`, WHERE);
  });
  if (text === undefined) return undefined;
  try {
    return configSchema.parse(parse(text) ?? {}).store;
  } catch (error) {
    throw usageError(`configuration ${path} is not valid: ${messageOf(error)}`, WHERE);
  }
}

/** --store wins over AFTERIMAGE_STORE, which wins over the file. */
export async function openConfiguredStore(options: GlobalOptions, io: CliIo): Promise<ObjectStore> {
  const url = options.store ?? io.env['AFTERIMAGE_STORE'] ?? (await storeOfConfig(options.config));
  if (url === undefined || url === '') throw usageError('no store is given', WHERE);
  return openStore(url, { clock: io.clock });
}
