/**
 * Options of a negotiation, between bytes and values. Pure. What a client sends is parsed to the last byte: anything missing or left over is `null`.
 */
import { NBD_NAME_BYTES_MAX } from '../../../shared/limits.js';
import type { BlockSizes } from './export.js';
import {
  EXPORT_NAME_PADDING_BYTES,
  GREETING_MAGIC,
  HANDSHAKE_FLAG,
  INFO,
  OPTION_MAGIC,
  OPTION_REPLY_MAGIC,
} from './protocol.js';

export interface InfoRequest {
  readonly name: string;
  /** Kinds of information that the client asks for. */
  readonly wanted: ReadonlySet<number>;
}

export interface MetaRequest {
  readonly name: string;
  readonly queries: readonly string[];
}

/** Reads fields one after the other; once something is missing, `failed` stays true and values are empty. */
class Fields {
  failed = false;
  #at = 0;

  constructor(private readonly bytes: Buffer) {}

  get whole(): boolean {
    return !this.failed && this.#at === this.bytes.length;
  }

  number(size: 2 | 4): number {
    if (!this.#has(size)) return 0;
    const value = this.bytes.readUIntBE(this.#at, size);
    this.#at += size;
    return value;
  }

  text(): string {
    const length = this.number(4);
    if (length > NBD_NAME_BYTES_MAX) this.failed = true;
    if (!this.#has(length)) return '';
    const text = this.bytes.toString('utf8', this.#at, this.#at + length);
    this.#at += length;
    return text;
  }

  #has(length: number): boolean {
    if (this.#at + length > this.bytes.length) this.failed = true;
    return !this.failed;
  }
}

/** Data of INFO and GO. */
export function parseInfoRequest(data: Buffer): InfoRequest | null {
  const fields = new Fields(data);
  const name = fields.text();
  const count = fields.number(2);
  const wanted = new Set<number>();
  for (let i = 0; i < count && !fields.failed; i++) wanted.add(fields.number(2));
  return fields.whole ? { name, wanted } : null;
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function parseMetaRequest(data: Buffer): MetaRequest | null {
  const fields = new Fields(data);
  const name = fields.text();
  const count = fields.number(4);
  const queries: string[] = [];
  for (let i = 0; i < count && !fields.failed; i++) queries.push(fields.text());
  return fields.whole ? { name, queries } : null;
}

export function encodeGreeting(): Buffer {
  const bytes = Buffer.alloc(18);
  bytes.writeBigUInt64BE(GREETING_MAGIC, 0);
  bytes.writeBigUInt64BE(OPTION_MAGIC, 8);
  bytes.writeUInt16BE(HANDSHAKE_FLAG.fixedNewstyle | HANDSHAKE_FLAG.noZeroes, 16);
  return bytes;
}

export function encodeOptionReply(option: number, type: number, data: Buffer | string = ''): Buffer {
  const header = Buffer.alloc(20);
  const body = typeof data === 'string' ? Buffer.from(data) : data;
  header.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(type, 12);
  header.writeUInt32BE(body.length, 16);
  return Buffer.concat([header, body]);
}

/** Answer to EXPORT_NAME, which has no header. */
export function encodeExportNameReply(sizeBytes: number, flags: number, padded: boolean): Buffer {
  const bytes = Buffer.alloc(10 + (padded ? EXPORT_NAME_PADDING_BYTES : 0));
  bytes.writeBigUInt64BE(BigInt(sizeBytes), 0);
  bytes.writeUInt16BE(flags, 8);
  return bytes;
}

export function encodeExportInfo(sizeBytes: number, flags: number): Buffer {
  const bytes = Buffer.alloc(12);
  bytes.writeUInt16BE(INFO.export, 0);
  bytes.writeBigUInt64BE(BigInt(sizeBytes), 2);
  bytes.writeUInt16BE(flags, 10);
  return bytes;
}

export function encodeBlockSizeInfo({ minimum, preferred, maximum }: BlockSizes): Buffer {
  const bytes = Buffer.alloc(14);
  bytes.writeUInt16BE(INFO.blockSize, 0);
  bytes.writeUInt32BE(minimum, 2);
  bytes.writeUInt32BE(preferred, 6);
  bytes.writeUInt32BE(maximum, 10);
  return bytes;
}

export function encodeTextInfo(kind: number, text: string): Buffer {
  const number = Buffer.alloc(2);
  number.writeUInt16BE(kind, 0);
  return Buffer.concat([number, Buffer.from(text)]);
}

export const encodeListEntry = (name: string, description: string): Buffer =>
  Buffer.concat([numbered(Buffer.byteLength(name), name), Buffer.from(description)]);

export const encodeMetaContext = (id: number, name: string): Buffer => numbered(id, name);

function numbered(number: number, text: string): Buffer {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(number, 0);
  return Buffer.concat([head, Buffer.from(text)]);
}
