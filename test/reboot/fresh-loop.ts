/**
 * A loop device that a "reboot" can take away and bring back as the kernel does with a real disk: under the same name, with its counts at zero.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, openSync, truncateSync, writeFileSync } from 'node:fs';
import { ioctl } from '../../shared/native/libc.js';

const LOOP_CTL = { add: 0x4c80, remove: 0x4c81 };
/** Higher than what `losetup -f` hands out to others. */
let nextNumber = 400 + (process.pid % 400);

function control(request: number, number: number): void {
  const fd = openSync('/dev/loop-control', 'r+');
  try {
    const result = ioctl(fd, request, number);
    if (result < 0) throw new Error(`loop-control ${request} ${number}: ${result}`);
  } finally {
    closeSync(fd);
  }
}

export class FreshLoop {
  readonly number = nextNumber++;
  readonly device = `/dev/loop${this.number}`;
  readonly name = `loop${this.number}`;

  constructor(
    readonly file: string,
    sizeBytes: number,
  ) {
    writeFileSync(file, '');
    truncateSync(file, sizeBytes);
    control(LOOP_CTL.add, this.number);
    execFileSync('losetup', ['--direct-io=on', this.device, file]);
  }

  /** Away and back: nothing of what the kernel knew of it is left. `meanwhile`: done to its file by another system. */
  reboot(meanwhile: () => void = () => undefined): void {
    this.remove();
    meanwhile();
    control(LOOP_CTL.add, this.number);
    execFileSync('losetup', ['--direct-io=on', this.device, this.file]);
  }

  remove(): void {
    execFileSync('losetup', ['-d', this.device]);
    // The last one to close it may be a moment late.
    for (let attempt = 0; ; attempt++) {
      try {
        return control(LOOP_CTL.remove, this.number);
      } catch (error) {
        if (attempt === 100) throw error;
        execFileSync('sleep', ['0.05']);
      }
    }
  }
}
