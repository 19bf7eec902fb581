/**
 * The journal of one generation: a header and records, appended. Every change of the store is here before it is made.
 * After a crash the last record may be torn; opening cuts it off, and says so.
 */
import { invalid } from './errors.js';
import { closingOnFailure, type StateFile, type StateFolder } from './files.js';
import { decodeRecord, encodeRecord, recordBytes, RECORD_HEADER_BYTES, type JournalRecord } from './records.js';

/** "AIHJRNL1": the last character is the version of the format. */
const MAGIC = 0x4149484a524e4c31n;
const HEADER_BYTES = 16;

export const journalName = (generation: number): string => `journal-${generation}`;

/** A buffer at the start of its own memory, so that typed arrays fit into it. */
const alignedBuffer = (bytes: number): Buffer => Buffer.from(new ArrayBuffer(bytes));

export class Journal {
  readonly generation: number;
  readonly #file: StateFile;
  #bytes = HEADER_BYTES;

  private constructor(file: StateFile, generation: number) {
    this.#file = file;
    this.generation = generation;
  }

  static async create(folder: StateFolder, generation: number): Promise<Journal> {
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeBigUInt64LE(MAGIC, 0);
    header.writeBigUInt64LE(BigInt(generation), 8);
    const file = await folder.create(journalName(generation));
    await closingOnFailure(file, () => file.append(header, 0));
    return new Journal(file, generation);
  }

  static async open(folder: StateFolder, generation: number): Promise<Journal> {
    const file = await folder.open(journalName(generation));
    if (file === null) throw invalid('the journal is missing');
    return closingOnFailure(file, async () => {
      const header = Buffer.alloc(HEADER_BYTES);
      const whole = file.readAt(header, HEADER_BYTES, 0) === HEADER_BYTES;
      const valid = whole && header.readBigUInt64LE(0) === MAGIC && header.readBigUInt64LE(8) === BigInt(generation);
      if (!valid) throw invalid('the journal has no valid header');
      return new Journal(file, generation);
    });
  }

  /** Bytes so far. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Hands over all whole records in order, cuts off what follows them. True when there was something to cut. */
  async replay(onRecord: (record: JournalRecord, offset: number) => Promise<void>): Promise<boolean> {
    const fileBytes = await this.#file.sizeBytes();
    this.#bytes = HEADER_BYTES;
    for (;;) {
      const found = this.#readAt(this.#bytes);
      if (found === null) break;
      await onRecord(found.record, this.#bytes);
      this.#bytes += found.bytes;
    }
    if (fileBytes === this.#bytes) return false;
    await this.#file.truncate(this.#bytes);
    return true;
  }

  /** Appends a record and returns its offset. Not durable before `sync`. */
  async append(record: JournalRecord): Promise<number> {
    const offset = this.#bytes;
    const bytes = encodeRecord(record, { generation: this.generation, offset });
    await this.#file.append(bytes, offset);
    this.#bytes = offset + bytes.length;
    return offset;
  }

  /** Reads a record that was appended or replayed. */
  read(offset: number): JournalRecord {
    const found = this.#readAt(offset);
    if (found === null) throw invalid('a record of the journal can no longer be read');
    return found.record;
  }

  sync(): Promise<void> {
    return this.#file.sync();
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  #readAt(offset: number): { record: JournalRecord; bytes: number } | null {
    const header = Buffer.alloc(RECORD_HEADER_BYTES);
    if (this.#file.readAt(header, RECORD_HEADER_BYTES, offset) !== RECORD_HEADER_BYTES) return null;
    const bytes = recordBytes(header);
    if (bytes === null) return null;
    const whole = alignedBuffer(bytes);
    if (this.#file.readAt(whole, bytes, offset) !== bytes) return null;
    const record = decodeRecord(whole, { generation: this.generation, offset });
    return record === null ? null : { record, bytes };
  }
}
