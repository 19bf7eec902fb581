/**
 * One object in several parts (multipart upload). Its id is in the metadata from the beginning, so that a completion whose answer was lost is
 * recognised. Real servers don't all honour a condition on the completion (Ceph's gateway ignores it): the name is looked at before.
 */
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  UploadPartCommand,
  type CompletedPart,
} from '@aws-sdk/client-s3';
import { protocolError } from '../body.js';
import type { PartSink } from '../parted-writer.js';
import type { CreateResult } from '../store.js';
import { codeOf, statusOf } from './errors.js';
import { ensureLocked, lockFields } from './lock.js';
import { ID_KEY, type S3Parts, type S3Store } from './s3-store.js';

export class S3Upload implements PartSink {
  readonly #name: string;
  readonly #store: S3Store;
  readonly #parts: S3Parts;
  readonly #id: string;
  readonly #at: { readonly Bucket: string; readonly Key: string };
  #upload: Promise<string> | null = null;
  readonly #done: CompletedPart[] = [];
  #bytes = 0;

  constructor(name: string, store: S3Store, parts: S3Parts) {
    this.#name = name;
    this.#store = store;
    this.#parts = parts;
    this.#id = parts.newId();
    this.#at = { Bucket: parts.location.bucket, Key: parts.location.prefix + name };
  }

  whole(bytes: Buffer): Promise<CreateResult> {
    return this.#store.createIfAbsent(this.#name, bytes);
  }

  async part(number: number, bytes: Buffer): Promise<void> {
    const { client, requests, watch } = this.#parts;
    const UploadId = await (this.#upload ??= this.#begin());
    const command = new UploadPartCommand({
      ...this.#at,
      UploadId,
      PartNumber: number,
      Body: bytes,
      ContentLength: bytes.length,
    });
    const request = { kind: 'part', what: `writing part ${number} of ${this.#name}`, bytes: bytes.length } as const;
    const { ETag, ChecksumCRC32 } = await requests.run(request, (abortSignal) => client.send(command, { abortSignal }));
    if (ETag === undefined) throw protocolError(`no tag for a part of ${this.#name}`);
    this.#done.push({ PartNumber: number, ETag, ...(ChecksumCRC32 === undefined ? {} : { ChecksumCRC32 }) });
    this.#bytes += bytes.length;
    watch?.moved('written', bytes.length);
  }

  async complete(): Promise<CreateResult> {
    const { client, requests } = this.#parts;
    if ((await this.#store.headOf(this.#name)) !== null) return 'exists';
    const UploadId = await (this.#upload ??= this.#begin());
    const command = new CompleteMultipartUploadCommand({
      ...this.#at,
      UploadId,
      IfNoneMatch: '*',
      MultipartUpload: { Parts: [...this.#done].sort((a, b) => (a.PartNumber ?? 0) - (b.PartNumber ?? 0)) },
    });
    const ended = await requests.run({ kind: 'part', what: `completing ${this.#name}` }, async (abortSignal) => {
      try {
        await client.send(command, { abortSignal });
        return true;
      } catch (error) {
        // Taken, or completed (or given up) by a try whose answer was lost.
        if (statusOf(error) === 412 || codeOf(error) === 'NoSuchUpload') return false;
        throw error;
      }
    });
    const found = await this.#store.headOf(this.#name);
    if (found?.id === this.#id && found.sizeBytes === this.#bytes) {
      await ensureLocked(this.#name, this.#store, this.#parts);
      return 'created';
    }
    if (found !== null && !ended) return 'exists';
    throw protocolError(`${this.#name} was completed and is not there`);
  }

  async abandon(): Promise<void> {
    const { client, requests } = this.#parts;
    try {
      const UploadId = await this.#upload;
      if (UploadId === null) return;
      const command = new AbortMultipartUploadCommand({ ...this.#at, UploadId });
      await requests.run({ kind: 'part', what: `giving up ${this.#name}` }, (abortSignal) =>
        client.send(command, { abortSignal }),
      );
    } catch {
      // Promised never to throw. What is left has no name; it is removed at a later open.
    }
  }

  async #begin(): Promise<string> {
    const { client, requests } = this.#parts;
    const command = new CreateMultipartUploadCommand({
      ...this.#at,
      ChecksumAlgorithm: 'CRC32',
      Metadata: { [ID_KEY]: this.#id },
      ...lockFields(this.#parts),
    });
    const { UploadId } = await requests.run({ kind: 'part', what: `beginning ${this.#name}` }, (abortSignal) =>
      client.send(command, { abortSignal }),
    );
    if (UploadId === undefined) throw protocolError(`no id for the parts of ${this.#name}`);
    return UploadId;
  }
}
