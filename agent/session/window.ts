/**
 * The byte window: how much may be on its way beyond what the receiver has acknowledged. Holds numbers and waiting callers, no data.
 */
import { AfterimageError } from '../../shared/errors.js';
import { protocolError } from '../../shared/wire/messages.js';

interface Waiting {
  readonly bytes: number;
  readonly resolve: () => void;
  readonly reject: (error: AfterimageError) => void;
}

export class ByteWindow {
  readonly #limitBytes: number;
  #reservedBytes = 0;
  #acknowledgedBytes = 0;
  #waiting: Waiting[] = [];
  #failure: AfterimageError | null = null;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  get inFlightBytes(): number {
    return this.#reservedBytes - this.#acknowledgedBytes;
  }

  /** Resolves when so many more bytes may be sent, in the order of the calls. Rejects once the window has failed. */
  reserve(bytes: number): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) return reject(this.#failure);
      if (bytes > this.#limitBytes) {
        return reject(protocolError(`a message of ${bytes} bytes doesn't fit the window of ${this.#limitBytes}`));
      }
      this.#waiting.push({ bytes, resolve, reject });
      this.#grant();
    });
  }

  /** The receiver has taken in so many bytes since the session began. */
  acknowledge(cumulativeBytes: number): void {
    if (cumulativeBytes < this.#acknowledgedBytes || cumulativeBytes > this.#reservedBytes) {
      throw protocolError(
        `${cumulativeBytes} bytes acknowledged, after ${this.#acknowledgedBytes}, of ${this.#reservedBytes} sent`,
      );
    }
    this.#acknowledgedBytes = cumulativeBytes;
    this.#grant();
  }

  /** The session has ended: everybody who waits or will wait gets the error. */
  fail(error: AfterimageError): void {
    this.#failure ??= error;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { reject } of waiting) reject(this.#failure);
  }

  #grant(): void {
    for (;;) {
      const [next] = this.#waiting;
      if (next === undefined || this.inFlightBytes + next.bytes > this.#limitBytes) return;
      this.#waiting.shift();
      this.#reservedBytes += next.bytes;
      next.resolve();
    }
  }
}
