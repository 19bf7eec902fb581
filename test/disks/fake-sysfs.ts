/**
 * A /sys of a machine that isn't there: folders, links and files as the kernel lays them out.
 */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Sysfs } from '../../agent/disks/sysfs.js';

export class FakeSysfs {
  readonly root = mkdtempSync(join(tmpdir(), 'afterimage-sysfs-'));
  readonly sysfs = new Sysfs(this.root);
  readonly #places = new Map<string, string>();
  #minor = 0;

  write(path: string, text: string): void {
    mkdirSync(dirname(join(this.root, path)), { recursive: true });
    writeFileSync(join(this.root, path), `${text}\n`);
  }

  /** `slot`: path of its parent below /sys/devices. `files`: more files of its folder. */
  disk(name: string, sectors: number, slot = `virtual/block`, files: Record<string, string> = {}): void {
    this.#add(name, `devices/${slot}/${slot.endsWith('block') ? '' : 'block/'}${name}`, {
      size: String(sectors),
      ro: '0',
      ...files,
    });
  }

  partition(disk: string, name: string, number: number, start: number, sectors: number): void {
    const files = { partition: String(number), start: String(start), size: String(sectors), ro: '0' };
    this.#add(name, `${this.#places.get(disk)}/${name}`, files);
  }

  #add(name: string, place: string, files: Record<string, string>): void {
    const number = `8:${this.#minor++}`;
    this.#places.set(name, place);
    for (const [file, text] of Object.entries({ dev: number, ...files })) this.write(`${place}/${file}`, text);
    for (const link of [`class/block/${name}`, `dev/block/${number}`]) {
      mkdirSync(dirname(join(this.root, link)), { recursive: true });
      symlinkSync(join(this.root, place), join(this.root, link));
    }
  }

  /** `upper` is made of `lower`. */
  stack(lower: string, upper: string): void {
    for (const [of, folder, name] of [
      [lower, 'holders', upper],
      [upper, 'slaves', lower],
    ] as const) {
      mkdirSync(join(this.root, this.#places.get(of) ?? '', folder, name), { recursive: true });
    }
  }

  remove(): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}
