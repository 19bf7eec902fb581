/**
 * A loop device that a "reboot" can take away and bring back as the kernel does with a real disk: under the same name, with its counts at zero.
 */
import { truncateSync, writeFileSync } from 'node:fs';
import { OwnLoop } from '../helpers/own-loop.js';

export class FreshLoop {
  readonly #loop = new OwnLoop();
  readonly device = this.#loop.device;
  readonly name = this.#loop.name;

  constructor(
    readonly file: string,
    sizeBytes: number,
  ) {
    writeFileSync(file, '');
    truncateSync(file, sizeBytes);
    this.#attach();
  }

  /** Away and back: nothing of what the kernel knew of it is left. `meanwhile`: done to its file by another system. */
  reboot(meanwhile: () => void = () => undefined): void {
    this.remove();
    meanwhile();
    this.#loop.create();
    this.#attach();
  }

  remove(): void {
    this.#loop.detach();
    this.#loop.remove();
  }

  #attach(): void {
    this.#loop.attach(this.file, '--direct-io=on');
  }
}
