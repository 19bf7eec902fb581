/**
 * Lets writes through, or holds them back while a cut is taken. Counts those in flight. In memory only.
 */
import { InFlight } from './in-flight.js';

export class WriteGate {
  readonly #inFlight = new InFlight();
  #held = false;
  #waiting: (() => void)[] = [];

  get count(): number {
    return this.#inFlight.count;
  }

  /** Held, and nothing under way. */
  get isStill(): boolean {
    return this.#held && this.#inFlight.count === 0;
  }

  /** Undefined: go on at once. Followed by leave(). */
  enter(): Promise<void> | undefined {
    if (this.#held) return this.#enterLater();
    this.#inFlight.enter();
    return undefined;
  }

  leave(): void {
    this.#inFlight.leave();
  }

  /** Resolves when no write is in flight. */
  hold(): Promise<void> {
    this.#held = true;
    return this.drained();
  }

  drained(): Promise<void> {
    return this.#inFlight.drained();
  }

  resume(): void {
    this.#held = false;
    for (const go of this.#waiting.splice(0)) go();
  }

  async #enterLater(): Promise<void> {
    while (this.#held) await new Promise<void>((go) => this.#waiting.push(go));
    this.#inFlight.enter();
  }
}
