/**
 * The certificate of the session server, kept in `<stateDir>/server.json` with its key: a start signs a new one only when the host's names have
 * changed or the CA has. Beside the CA's key, it gives nobody more than they have. It can be thrown away at any time; one that can't be read,
 * or isn't the CA's, is made anew.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock } from '../../shared/clock.js';
import { ownerFor, replaceFileDurably } from '../../shared/durable-file.js';
import { messageOf } from '../../shared/errors.js';
import type { CertificateAuthority, ServerCredentials } from './ca.js';
import { serverNames } from './server-names.js';

const FILE = 'server.json';
const MODE = 0o600;

const keptSchema = z.strictObject({ names: z.array(z.string()).readonly(), keyPem: z.string(), chainPem: z.string() });
type Kept = z.infer<typeof keptSchema>;

/** The same CA, with a server's certificate that is kept. */
export const keepingServer = (
  ca: CertificateAuthority,
  stateDir: string,
  clock: Clock,
  warn: (message: string) => void,
): CertificateAuthority => ({
  ...ca,
  issueServer: async (further) => {
    const names = serverNames(further);
    const path = join(stateDir, FILE);
    const kept = await load(path);
    if (kept !== null && isUsable(kept, names, ca, clock.nowMs())) return kept;
    const issued = await ca.issueServer(further);
    // A full disk must not keep agents out.
    await keep(stateDir, path, { names, ...issued }).catch((error: unknown) =>
      warn(`the server's certificate could not be kept for the next start: ${messageOf(error)}`),
    );
    return issued;
  },
});

async function keep(stateDir: string, path: string, kept: Kept): Promise<void> {
  await replaceFileDurably(path, `${JSON.stringify(kept)}\n`, { mode: MODE, owner: await ownerFor(stateDir) });
}

/** Whatever is wrong with it, another is made. */
async function load(path: string): Promise<Kept | null> {
  try {
    return keptSchema.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch {
    return null;
  }
}

function isUsable(kept: Kept, names: readonly string[], ca: CertificateAuthority, nowMs: number): boolean {
  if ([...kept.names].sort().join() !== [...names].sort().join()) return false;
  return belongsTo(kept, ca) && nowMs < Date.parse(new X509Certificate(kept.chainPem).validTo);
}

function belongsTo({ keyPem, chainPem }: ServerCredentials, ca: CertificateAuthority): boolean {
  try {
    const certificate = new X509Certificate(chainPem);
    const isIssued = certificate.verify(new X509Certificate(ca.certificatePem).publicKey);
    return isIssued && chainPem.endsWith(ca.certificatePem) && certificate.checkPrivateKey(createPrivateKey(keyPem));
  } catch {
    return false;
  }
}
