/** Work that is done one piece after the other, in the order in which it is asked for. A piece that fails doesn't stop those behind it. In memory only. */
export class InTurn {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#last.then(work);
    this.#last = run.catch(() => undefined);
    return run;
  }

  /** When all that was asked for so far has ended, well or not. */
  async settled(): Promise<void> {
    await this.#last;
  }
}
