/**
 * The object store as everything above it sees it. Objects are immutable: nothing is ever overwritten,
 * and create-if-absent of one object is the only conditional write (design, section 4).
 * Names are `/`-separated, relative to the store's prefix, characters [A-Za-z0-9._-].
 */
export type CreateResult = 'created' | 'exists';

export interface ObjectInfo {
  readonly name: string;
  readonly sizeBytes: number;
}

export interface ListOptions {
  /** Only names strictly greater than this one, which need not exist. */
  readonly after?: string;
}

/** Streams one object. It appears under its name, complete and durable, when finish() resolves; before that it doesn't exist. */
export interface ObjectWriter {
  /** Appends. Resolves when the bytes have left our memory; buffers may be reused then. Calls must not overlap. */
  write(buffers: readonly Buffer[]): Promise<void>;
  /** Makes the object durable and visible, unless the name is taken. */
  finish(): Promise<CreateResult>;
  /** Throws everything away. Safe to call after a failure; never throws. */
  abort(): Promise<void>;
}

export interface ObjectStore {
  /** For people: `file:/var/lib/…`. Holds no secret. */
  readonly url: string;
  /** Creates a small object (up to a few MiB), durable when it resolves, unless the name is taken. */
  createIfAbsent(name: string, bytes: Buffer): Promise<CreateResult>;
  openWriter(name: string): Promise<ObjectWriter>;
  /** Whole object; null when absent. Throws AfterimageError kind `corrupt` when larger than `maxBytes`. */
  get(name: string, maxBytes: number): Promise<Buffer | null>;
  /**
   * Exactly `lengthBytes` at `offset`. Throws kind `corrupt` (code `object-short`) when the object is shorter, `not-found` when absent.
   * `room`: memory of at least that length that the store may read into, instead of taking its own for each read.
   */
  read(name: string, offset: number, lengthBytes: number, room?: Buffer): Promise<Buffer>;
  /**
   * Lends a descriptor of an object to `use`, which reads `lengthBytes` of it on another thread. Absent where objects aren't files of this host. Throws
   * what read() throws when it can't be opened, and what `use` throws.
   */
  readonly lend?: (<T>(name: string, lengthBytes: number, use: (fd: number) => Promise<T>) => Promise<T>) | undefined;
  /** Null when absent. */
  head(name: string): Promise<ObjectInfo | null>;
  /** All objects whose name starts with `prefix` (a folder, ending in `/`), ascending by name. */
  list(prefix: string, options?: ListOptions): AsyncIterable<ObjectInfo>;
  /** Immediate sub-folders of a folder prefix, ascending. */
  listFolders(prefix: string): Promise<string[]>;
  /**
   * Resolves when all are gone, durably; names that are absent are fine. Else throws a DeleteError (delete-error.ts) that names what is still
   * there and why, after the others have been deleted. Not for what somebody may still need: that is upkeep's to decide.
   */
  deleteMany(names: readonly string[]): Promise<void>;
  /** How far the server's clock is ahead of ours, by its last answer; null when none is known. Absent where there is no server. */
  serverClockMs?(): number | null;
  /** Bytes that can still be stored, when the backend knows; null when unbounded or unknown. */
  freeBytes(): Promise<number | null>;
  close(): Promise<void>;
}
