/**
 * Certificates of volume clients as files, named as libnbd and QEMU look for them. Nothing is written over; on a crash the folder may lack the
 * certificate, which is written last: remove it and make a new one.
 */
import { join, resolve } from 'node:path';
import { createFileDurably, makeFolderDurably } from '../../shared/durable-file.js';
import { usageError } from '../../shared/errors.js';
import type { CertificateAuthority } from './ca.js';

const FOLDER_MODE = 0o700;
const KEY_MODE = 0o600;
const CERTIFICATE_MODE = 0o644;

export async function writeVolumeCertificate(
  ca: CertificateAuthority,
  name: string,
  lifetimeMs: number,
  folder: string,
): Promise<void> {
  const { keyPem, certificatePem } = await ca.issueVolumeClient(name, lifetimeMs);
  const path = resolve(folder);
  await makeFolderDurably(path, FOLDER_MODE);
  const create = async (file: string, text: string, mode: number): Promise<void> => {
    if ((await createFileDurably(join(path, file), text, { mode })) === 'created') return;
    throw usageError(`there is a ${file} in ${path} already`, 'Choose another folder, or remove its files first.');
  };
  await create('client-key.pem', keyPem, KEY_MODE);
  await create('ca-cert.pem', ca.certificatePem, CERTIFICATE_MODE);
  await create('client-cert.pem', certificatePem, CERTIFICATE_MODE);
}
