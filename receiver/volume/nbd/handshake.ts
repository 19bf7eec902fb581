/**
 * The negotiation of one connection (fixed newstyle), as a state machine without a socket: bytes in, answers out, until the client has chosen an
 * export, wants TLS, or is to be cut off. With TLS required, nothing but STARTTLS and ABORT is answered in the clear.
 */
import { NBD_NAME_BYTES_MAX, NBD_OPTION_BYTES_MAX, NBD_OPTIONS_MAX } from '../../../shared/limits.js';
import { blockSizes, findExport, transmissionFlags, type NbdExport } from './export.js';
import {
  encodeBlockSizeInfo,
  encodeExportInfo,
  encodeExportNameReply,
  encodeGreeting,
  encodeListEntry,
  encodeMetaContext,
  encodeOptionReply,
  encodeTextInfo,
  parseInfoRequest,
  parseMetaRequest,
} from './options.js';
import {
  ALLOCATION_CONTEXT,
  ALLOCATION_CONTEXT_ID,
  HANDSHAKE_FLAG,
  INFO,
  OPTION,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC,
  OPTION_REPLY as REPLY,
} from './protocol.js';

const CLIENT_FLAGS_BYTES = 4;
const KNOWN_CLIENT_FLAGS = HANDSHAKE_FLAG.fixedNewstyle | HANDSHAKE_FLAG.noZeroes;

/** What was agreed upon. */
export interface Session {
  readonly export: NbdExport;
  readonly structured: boolean;
  /** `base:allocation` was selected: BLOCK_STATUS may be used. */
  readonly allocation: boolean;
}

export type HandshakeOutcome =
  | { readonly kind: 'more' }
  /** The answer was sent; TLS begins with the next byte. */
  | { readonly kind: 'tls' }
  /** `rest`: the first bytes of the transmission phase. */
  | { readonly kind: 'ready'; readonly session: Session; readonly rest: Buffer }
  /** The client took its leave, or broke the protocol (`violation`). */
  | { readonly kind: 'end'; readonly violation: string | null };

export interface HandshakeOptions {
  readonly exports: () => readonly NbdExport[];
  readonly tls: 'none' | 'required';
  readonly send: (bytes: Buffer) => void;
}

const MORE: HandshakeOutcome = { kind: 'more' };
const end = (violation: string | null): HandshakeOutcome => ({ kind: 'end', violation });

export class Handshake {
  readonly #options: HandshakeOptions;
  #input: Buffer = Buffer.alloc(0);
  #clientFlags: number | null = null;
  #tlsPending: boolean;
  #optionsSeen = 0;
  #structured = false;
  /** For which export `base:allocation` was selected. */
  #allocationOf: NbdExport | null = null;

  constructor(options: HandshakeOptions) {
    this.#options = options;
    this.#tlsPending = options.tls === 'required';
  }

  start(): void {
    this.#options.send(encodeGreeting());
  }

  /** TLS holds: the negotiation goes on inside it, from the next option. */
  secured(): void {
    this.#tlsPending = false;
  }

  push(chunk: Buffer): HandshakeOutcome {
    // A copy: the chunk's memory is read into again.
    this.#input = Buffer.concat([this.#input, chunk]);
    if (this.#clientFlags === null) {
      if (this.#input.length < CLIENT_FLAGS_BYTES) return MORE;
      const flags = this.#take(CLIENT_FLAGS_BYTES).readUInt32BE(0);
      if ((flags & ~KNOWN_CLIENT_FLAGS) !== 0) return end(`unknown client flags 0x${flags.toString(16)}`);
      this.#clientFlags = flags;
    }
    for (;;) {
      const outcome = this.#nextOption();
      if (outcome !== null) return outcome;
    }
  }

  /** null: the option was answered, look for the next. */
  #nextOption(): HandshakeOutcome | null {
    if (this.#input.length < OPTION_HEADER_BYTES) return MORE;
    if (this.#input.readBigUInt64BE(0) !== OPTION_MAGIC) return end('wrong magic of an option');
    const option = this.#input.readUInt32BE(8);
    const length = this.#input.readUInt32BE(12);
    if (length > NBD_OPTION_BYTES_MAX) return end(`option ${option} of ${length} bytes`);
    if (this.#input.length < OPTION_HEADER_BYTES + length) return MORE;
    if (++this.#optionsSeen > NBD_OPTIONS_MAX) return end(`more than ${NBD_OPTIONS_MAX} options`);
    this.#take(OPTION_HEADER_BYTES);
    return this.#answer(option, this.#take(length));
  }

  #take(length: number): Buffer {
    const taken = this.#input.subarray(0, length);
    this.#input = this.#input.subarray(length);
    return taken;
  }

  #answer(option: number, data: Buffer): HandshakeOutcome | null {
    if (option === OPTION.abort) {
      this.#reply(option, REPLY.ack);
      return end(null);
    }
    if (option === OPTION.startTls) return this.#startTls(data);
    if (this.#tlsPending) {
      // This option has no way to say so.
      if (option === OPTION.exportName) return end('no TLS, which is required here');
      return this.#reply(option, REPLY.errorTlsRequired, 'TLS is required here');
    }
    switch (option) {
      case OPTION.exportName:
        return this.#exportName(data);
      case OPTION.info:
      case OPTION.go:
        return this.#info(option, data);
      case OPTION.list:
        return this.#list(data);
      case OPTION.structuredReply:
        if (data.length > 0) return this.#reply(option, REPLY.errorInvalid, 'this option has no data');
        this.#structured = true;
        return this.#reply(option, REPLY.ack);
      case OPTION.listMetaContext:
      case OPTION.setMetaContext:
        return this.#metaContext(option, data);
      default:
        return this.#reply(option, REPLY.errorUnsupported);
    }
  }

  #startTls(data: Buffer): HandshakeOutcome | null {
    const option = OPTION.startTls;
    if (this.#options.tls === 'none') return this.#reply(option, REPLY.errorPolicy, 'TLS is not configured');
    if (data.length > 0) return this.#reply(option, REPLY.errorInvalid, 'this option has no data');
    if (!this.#tlsPending) return this.#reply(option, REPLY.errorInvalid, 'TLS has begun already');
    // Someone in between may have put bytes there that would count as sent inside TLS.
    if (this.#input.length > 0) return end('bytes between STARTTLS and its answer');
    this.#reply(option, REPLY.ack);
    return { kind: 'tls' };
  }

  #exportName(data: Buffer): HandshakeOutcome {
    const chosen = data.length > NBD_NAME_BYTES_MAX ? null : this.#find(data.toString('utf8'));
    if (chosen === null) return end('unknown export');
    const padded = ((this.#clientFlags ?? 0) & HANDSHAKE_FLAG.noZeroes) === 0;
    const flags = transmissionFlags(chosen.device, this.#structured);
    this.#options.send(encodeExportNameReply(chosen.device.sizeBytes, flags, padded));
    return this.#ready(chosen);
  }

  #info(option: number, data: Buffer): HandshakeOutcome | null {
    const request = parseInfoRequest(data);
    if (request === null) return this.#reply(option, REPLY.errorInvalid, 'malformed');
    const chosen = this.#find(request.name);
    if (chosen === null) return this.#reply(option, REPLY.errorUnknown, 'there is no such export');
    const { device } = chosen;
    const flags = transmissionFlags(device, this.#structured);
    this.#reply(option, REPLY.info, encodeExportInfo(device.sizeBytes, flags));
    if (request.wanted.has(INFO.blockSize)) {
      this.#reply(option, REPLY.info, encodeBlockSizeInfo(blockSizes(device)));
    }
    if (request.wanted.has(INFO.name)) this.#reply(option, REPLY.info, encodeTextInfo(INFO.name, chosen.name));
    if (request.wanted.has(INFO.description)) {
      this.#reply(option, REPLY.info, encodeTextInfo(INFO.description, chosen.description));
    }
    this.#reply(option, REPLY.ack);
    return option === OPTION.go ? this.#ready(chosen) : null;
  }

  #list(data: Buffer): null {
    const option = OPTION.list;
    if (data.length > 0) return this.#reply(option, REPLY.errorInvalid, 'this option has no data');
    for (const { name, description } of this.#options.exports()) {
      this.#reply(option, REPLY.server, encodeListEntry(name, description));
    }
    return this.#reply(option, REPLY.ack);
  }

  #metaContext(option: number, data: Buffer): null {
    const isSet = option === OPTION.setMetaContext;
    if (isSet) this.#allocationOf = null;
    const request = this.#structured ? parseMetaRequest(data) : null;
    if (request === null) return this.#reply(option, REPLY.errorInvalid, 'malformed, or before structured replies');
    const chosen = this.#find(request.name);
    if (chosen === null) return this.#reply(option, REPLY.errorUnknown, 'there is no such export');
    // Listing knows wildcards: no query at all, or a namespace.
    const matches =
      request.queries.includes(ALLOCATION_CONTEXT) ||
      (!isSet && (request.queries.length === 0 || request.queries.includes('base:')));
    if (matches) {
      if (isSet) this.#allocationOf = chosen;
      this.#reply(option, REPLY.metaContext, encodeMetaContext(isSet ? ALLOCATION_CONTEXT_ID : 0, ALLOCATION_CONTEXT));
    }
    return this.#reply(option, REPLY.ack);
  }

  #find(name: string): NbdExport | null {
    return findExport(this.#options.exports(), name);
  }

  #ready(chosen: NbdExport): HandshakeOutcome {
    const allocation = this.#structured && this.#allocationOf?.device === chosen.device;
    return { kind: 'ready', session: { export: chosen, structured: this.#structured, allocation }, rest: this.#input };
  }

  #reply(option: number, type: number, data: Buffer | string = ''): null {
    this.#options.send(encodeOptionReply(option, type, data));
    return null;
  }
}
