/**
 * A qcow2 image as the target of a restore. Its layout follows from the plan, so every byte has its place before the first is written: units
 * are written in any order and by many workers, a run of blocks is one write, an interrupted restore goes on as on a raw file, and the image is
 * in the order of the disk. Until the disk is proven, the first cluster says that the file is unfinished, and no program takes it for an image:
 * the header is written last.
 */
import { corrupt } from '../../shared/errors.js';
import { dataClusters, type LayOutContext } from './data-clusters.js';
import type { FileTarget } from './file-target.js';
import { CLUSTER_BYTES, Qcow2Layout } from './qcow2-layout.js';
import type { RestoreTarget, TargetOutlet } from './target.js';

const UNFINISHED =
  'Afterimage: this restore to a qcow2 image is not finished. Run the same command again: it continues.\n';

export class Qcow2Target implements RestoreTarget {
  readonly path: string;
  readonly kind = 'file';
  readonly knownZero = true;
  readonly #file: FileTarget;
  readonly #sizeBytes: number;
  #layout: Qcow2Layout | undefined;

  constructor(file: FileTarget, sizeBytes: number) {
    this.path = file.path;
    this.#file = file;
    this.#sizeBytes = sizeBytes;
  }

  /** A journal of a restore to a raw file of the same name doesn't speak of this. */
  get identity(): string {
    return `qcow2 ${this.#file.identity}`;
  }

  checkEmpty(): Promise<void> {
    return this.#file.checkEmpty();
  }

  async layOut(context: LayOutContext): Promise<void> {
    this.#layout = new Qcow2Layout(this.#sizeBytes, await dataClusters(context, CLUSTER_BYTES));
    context.progress.finish();
  }

  async prepare(): Promise<void> {
    const layout = this.#use();
    await this.#file.prepare(layout.fileBytes);
    const first = Buffer.alloc(CLUSTER_BYTES);
    first.write(UNFINISHED, 'latin1');
    await this.#file.writeCached(0, first);
    for (const { offset, bytes } of layout.tables()) await this.#file.writeCached(offset, bytes);
    await this.#file.sync();
  }

  async write(offset: number, bytes: Buffer, isReserved = false): Promise<void> {
    let done = 0;
    for (const place of this.#places(offset, bytes.length)) {
      await this.#file.write(place.offset, bytes.subarray(done, done + place.lengthBytes), isReserved);
      done += place.lengthBytes;
    }
  }

  zero(): Promise<void> {
    return Promise.resolve();
  }

  sync(): Promise<void> {
    return this.#file.sync();
  }

  async finish(): Promise<void> {
    await this.#file.writeCached(0, this.#use().header());
    await this.#file.sync();
  }

  forgetCached(): Promise<void> {
    return this.#file.forgetCached();
  }

  async read(offset: number, into: Buffer): Promise<number> {
    const layout = this.#use();
    for (let done = 0; done < into.length;) {
      const run = layout.nextData(offset + done);
      const dataAt = Math.min(run?.[0] ?? Infinity, offset + into.length) - offset;
      into.fill(0, done, dataAt);
      done = dataAt;
      const host = layout.hostOffset(offset + done);
      if (run === null || host === undefined || done === into.length) continue;
      const n = Math.min(into.length - done, run[1] - offset - done);
      const got = await this.#file.read(host, into.subarray(done, done + n));
      done += got;
      if (got < n) return done;
    }
    return into.length;
  }

  nextData(offset: number): readonly [number, number] | null {
    return this.#use().nextData(offset);
  }

  outlet(): TargetOutlet {
    return { outlet: this.#file.outlet().outlet, places: (offset, lengthBytes) => this.#places(offset, lengthBytes) };
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  /** Where a range of the disk lies in the file. */
  *#places(offset: number, lengthBytes: number): Generator<{ offset: number; lengthBytes: number }> {
    const layout = this.#use();
    for (let done = 0; done < lengthBytes;) {
      const run = layout.nextData(offset + done);
      const host = layout.hostOffset(offset + done);
      if (run === null || host === undefined) {
        // The layout is made of the same indexes that the restore follows.
        throw corrupt('layout-mismatch', `${this.path} has no place for data at byte ${offset + done} of the disk`);
      }
      const n = Math.min(lengthBytes - done, run[1] - offset - done);
      yield { offset: host, lengthBytes: n };
      done += n;
    }
  }

  #use(): Qcow2Layout {
    if (this.#layout === undefined) throw new Error(`target ${this.path} is used before it was laid out`);
    return this.#layout;
  }
}
