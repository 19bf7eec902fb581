/** The system's authorities and the operator's own (`ca=/path.pem` in a store's URL). */
import { readFile } from 'node:fs/promises';
import { rootCertificates } from 'node:tls';
import { messageOf, usageError } from '../../shared/errors.js';

export async function trusted(path: string | undefined): Promise<{ ca?: string[] }> {
  if (path === undefined) return {};
  const own = await readFile(path, 'utf8').catch((error: unknown) => {
    throw usageError(`the certificates in ${path} can't be read: ${messageOf(error)}`);
  });
  return { ca: [...rootCertificates, own] };
}
