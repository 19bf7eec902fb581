/** Counts requests under way, and says when there are none. In memory only. */
export class InFlight {
  #count = 0;
  #drained: (() => void)[] = [];

  get count(): number {
    return this.#count;
  }

  enter(): void {
    this.#count++;
  }

  leave(): void {
    this.#count--;
    if (this.#count > 0) return;
    for (const go of this.#drained.splice(0)) go();
  }

  /** Resolves when there are none. */
  async drained(): Promise<void> {
    if (this.#count > 0) await new Promise<void>((go) => this.#drained.push(go));
  }
}
