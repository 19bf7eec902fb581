/**
 * Sealed JSON: an object for people (`jq` reads it) and for programs that must know that it is whole.
 * Text: one line of JSON, newline, `#` and the XXH64 of the line as 16 hex digits, newline.
 */
import { z } from 'zod';
import { checksum64, digestToText } from '../../shared/blocks/hash.js';
import { corrupt, versionNewer } from '../../shared/errors.js';

export function sealJson(value: unknown): Buffer {
  const line = JSON.stringify(value);
  return Buffer.from(`${line}\n#${digestToText(checksum64(Buffer.from(line, 'utf8')))}\n`, 'utf8');
}

/** Opens sealed JSON and validates it. `name` is for the error. A version newer than ours is refused, not guessed at. */
export function openSealedJson<T>(bytes: Buffer, schema: z.ZodType<T>, version: number, name: string): T {
  const text = bytes.toString('utf8');
  const match = /^([^\n]*)\n#([0-9a-f]{16})\n$/.exec(text);
  const line = match?.[1];
  if (line === undefined) throw corrupt('sealed-json', `object ${name} is truncated or not sealed JSON`);
  if (digestToText(checksum64(Buffer.from(line, 'utf8'))) !== match?.[2]) {
    throw corrupt('sealed-json', `object ${name} does not match its checksum`);
  }
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw corrupt('sealed-json', `object ${name} is not JSON`);
  }
  const found = typeof value === 'object' && value !== null && 'version' in value ? value.version : undefined;
  if (typeof found === 'number' && found > version) {
    throw versionNewer(`object ${name}`, found, version);
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw corrupt('sealed-json', `object ${name} is not valid: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}
