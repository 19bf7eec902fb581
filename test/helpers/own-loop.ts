/**
 * Loop devices with a number of their own, for tests that detach one and attach it again under the same name: `losetup -f` of tests in other lanes takes
 * the lowest free device, which a detached one would soon be.
 */
import { closeSync, openSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import { ioctl } from '../../shared/native/libc.js';

/** `linux/loop.h`. */
const LOOP_CTL = { add: 0x4c80, remove: 0x4c81 };
const EEXIST = 17;
const ENODEV = 19;
/** Free devices below all own ones, more than are ever looked for at a time: while one is free, no own number is handed out. */
const SPARES = [200, 201, 202, 203, 204, 205, 206, 207];
const FIRST_OWN = 400;
/** Test processes that run at a time begin at different numbers. */
let nextNumber = FIRST_OWN + 4 * (process.pid % 400);
const REMOVE_TRIES = 100;

function control(request: number, number: number): number {
  const fd = openSync('/dev/loop-control', 'r+');
  try {
    return ioctl(fd, request, number);
  } finally {
    closeSync(fd);
  }
}

/** Makes loop device `number`; false when there is one already. */
function add(number: number): boolean {
  const result = control(LOOP_CTL.add, number);
  if (result < 0 && result !== -EEXIST) throw new Error(`loop device ${number} can't be made: error ${-result}`);
  return result >= 0;
}

export class OwnLoop {
  readonly number: number;
  readonly name: string;
  readonly device: string;

  constructor() {
    for (const spare of SPARES) add(spare);
    while (!add(nextNumber)) nextNumber++;
    this.number = nextNumber++;
    this.name = `loop${this.number}`;
    this.device = `/dev/${this.name}`;
  }

  attach(file: string, ...options: readonly string[]): void {
    execFileSync('losetup', [...options, this.device, file], { stdio: ['ignore', 'ignore', 'pipe'] });
  }

  detach(): void {
    execFileSync('losetup', ['-d', this.device]);
  }

  /** Takes the detached device out of the kernel, with all that was known of it. */
  remove(): void {
    // The last one to close it may be a moment late.
    for (let attempt = 1; ; attempt++) {
      const result = control(LOOP_CTL.remove, this.number);
      if (result >= 0 || result === -ENODEV) return;
      if (attempt === REMOVE_TRIES) throw new Error(`${this.device} can't be removed: error ${-result}`);
      execFileSync('sleep', ['0.05']);
    }
  }

  /** Brings it back after `remove`, under its old name. */
  create(): void {
    if (!add(this.number)) throw new Error(`${this.device} is there already`);
  }
}
