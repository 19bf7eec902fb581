/**
 * Credentials from a file that a store URL names (`credentials=/path`): YAML or JSON, for its owner alone. What is in it never comes into a message.
 */
import { open } from 'node:fs/promises';
import { parse } from 'yaml';
import type { z } from 'zod';
import { messageOf, usageError } from '../../shared/errors.js';
import { CREDENTIALS_BYTES_MAX } from '../../shared/limits-store.js';

export async function readCredentials<T>(path: string, schema: z.ZodType<T>, keys: string): Promise<T> {
  const text = await readPrivate(path);
  let value: unknown;
  try {
    value = parse(text, { logLevel: 'silent' });
  } catch {
    // The parser's message quotes the text.
    throw usageError(`credentials ${path} are not YAML`, `The file holds ${keys}.`);
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const wrong = parsed.error.issues.map((issue) => issue.path.join('.') || issue.code).join(', ');
  throw usageError(`credentials ${path} are not complete: ${wrong}`, `The file holds ${keys}.`);
}

async function readPrivate(path: string): Promise<string> {
  const file = await open(path, 'r').catch((error: unknown) => {
    throw usageError(`credentials ${path} can't be read: ${messageOf(error)}`);
  });
  try {
    const { mode, size } = await file.stat();
    if ((mode & 0o077) !== 0) {
      throw usageError(`credentials ${path} can be read by others`, `Run: chmod 600 ${path}`);
    }
    if (size > CREDENTIALS_BYTES_MAX) throw usageError(`credentials ${path} are too large to be any`);
    return await file.readFile('utf8');
  } finally {
    await file.close();
  }
}
