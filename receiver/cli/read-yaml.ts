/**
 * What an operator gives to `--set` or `--policy`: a YAML file, or standard input with `-`, checked as a whole before anything is looked up or changed.
 */
import type { z } from 'zod';
import { loadConfig, parseConfig } from '../../shared/config/load.js';
import { usageError } from '../../shared/errors.js';
import { CONFIG_BYTES_MAX } from '../../shared/limits.js';
import type { CliIo } from './io.js';

export async function readYaml<T>(file: string, schema: z.ZodType<T>, io: CliIo): Promise<T> {
  if (file !== '-') return loadConfig(file, schema);
  const parts: Buffer[] = [];
  let sizeBytes = 0;
  for await (const part of io.in ?? []) {
    const bytes = Buffer.from(part);
    sizeBytes += bytes.length;
    if (sizeBytes > CONFIG_BYTES_MAX) throw usageError(`standard input has more than ${CONFIG_BYTES_MAX} bytes`);
    parts.push(bytes);
  }
  return parseConfig('standard input', Buffer.concat(parts).toString('utf8'), schema);
}
