/**
 * The session server's certificate over several starts: the same while it fits, another when names or CA change or the file is damaged.
 */
import { X509Certificate } from 'node:crypto';
import { readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openAuthority, type CertificateAuthority } from '../../receiver/session/ca.js';
import { keepingServer } from '../../receiver/session/kept-server.js';
import { systemClock } from '../../shared/clock.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';

removeTempFolders();

const warned: string[] = [];
const opened = async (stateDir: string, clock = systemClock): Promise<CertificateAuthority> =>
  keepingServer(await openAuthority(stateDir, systemClock), stateDir, clock, (message) => warned.push(message));

test('it is kept while names and CA are the same, for its owner alone', async () => {
  const stateDir = await tempFolder('kept');
  const first = await (await opened(stateDir)).issueServer(['dr.example.com']);
  const certificate = new X509Certificate(first.chainPem);
  expect(certificate.subjectAltName).toContain('DNS:dr.example.com');
  expect(await (await opened(stateDir)).issueServer(['dr.example.com'])).toMatchObject(first);
  expect((await stat(join(stateDir, 'server.json'))).mode & 0o777).toBe(0o600);
  const other = await (await opened(stateDir)).issueServer(['dr2.example.com']);
  expect(other.keyPem).not.toBe(first.keyPem);
  expect(new X509Certificate(other.chainPem).subjectAltName).toContain('DNS:dr2.example.com');
  expect(warned).toEqual([]);
});

test('one of another CA, a damaged one and one that has ended are made anew', async () => {
  const stateDir = await tempFolder('kept');
  const path = join(stateDir, 'server.json');
  const first = await (await opened(stateDir)).issueServer([]);
  await rm(join(stateDir, 'ca'), { recursive: true });
  const ca = await opened(stateDir);
  const second = await ca.issueServer([]);
  expect(second.keyPem).not.toBe(first.keyPem);
  expect(second.chainPem.endsWith(ca.certificatePem)).toBe(true);

  const text = await readFile(path, 'utf8');
  const swapped = { ...(JSON.parse(text) as object), keyPem: first.keyPem };
  for (const bad of ['', '{}', text.slice(0, -20), JSON.stringify(swapped), text.replace('BEGIN CERT', 'BEGIN CORT')]) {
    await writeFile(path, bad);
    const made = await ca.issueServer([]);
    const certificate = new X509Certificate(made.chainPem);
    expect(certificate.verify(new X509Certificate(ca.certificatePem).publicKey)).toBe(true);
    expect(made.keyPem).not.toBe(second.keyPem);
    expect(await ca.issueServer([])).toMatchObject(made);
  }
  const afterItsEnd = { ...systemClock, nowMs: () => Date.parse(new X509Certificate(ca.certificatePem).validTo) + 1 };
  const kept = await ca.issueServer([]);
  expect((await (await opened(stateDir, afterItsEnd)).issueServer([])).keyPem).not.toBe(kept.keyPem);
});

test('where it can not be kept, it is used all the same, and that is said', async () => {
  const stateDir = await tempFolder('kept');
  const authority = await openAuthority(stateDir, systemClock);
  const ca = keepingServer(authority, join(stateDir, 'missing'), systemClock, (message) => warned.push(message));
  expect((await ca.issueServer([])).chainPem).toContain(authority.certificatePem);
  expect(warned.at(-1)).toContain('could not be kept');
});
