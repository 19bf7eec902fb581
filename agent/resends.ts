/**
 * Blocks that the receiver asks for once more, because it can't read its own copy: they go out with the next point although their hashes have not changed.
 * Known to one session; what was not sent by its end is asked for again by the next.
 */
import type { Logger } from 'pino';
import type { OpenedDisk } from './open-disk.js';
import type { Order } from './session/session.js';

export type ResendOrder = Extract<Order, { type: 'resend' }>;

export class Resends {
  /** Not begun yet. */
  #asked: ResendOrder[] = [];
  /** With the next point. */
  #sending: ResendOrder[] = [];

  ask(order: ResendOrder): void {
    this.#asked.push(order);
  }

  /** Between cycles: what a running one has taken is its own. Returns whether there is something new to send. */
  begin(disks: readonly OpenedDisk[], log: Logger): boolean {
    let isNew = false;
    for (const order of this.#asked.splice(0)) {
      const disk = disks.find((d) => d.disk.id === order.disk)?.disk;
      const isOutside = order.extents.some(([first, count]) => first + count > (disk?.geometry.blockCount ?? 0));
      // Its state changed since: the receiver asks again if it still needs them.
      if (disk === undefined || isOutside) {
        log.warn({ disk: order.disk }, 'the receiver asks for blocks that this machine does not have');
        continue;
      }
      for (const [first, count] of order.extents) {
        disk.resend.addRange(first, count);
        if (disk.isReady) disk.carry.addRange(first, count);
      }
      this.#sending.push(order);
      isNew = true;
      log.info({ disk: disk.id, blocks: disk.resend.size }, 'the receiver asks for blocks once more');
    }
    return isNew;
  }

  /** A point holds what these disks were asked for; returns the orders that it answers. */
  sent(ready: readonly OpenedDisk[]): ResendOrder[] {
    const ids = new Set<string>(ready.map(({ disk }) => disk.id));
    for (const { disk } of ready) disk.resend.clear();
    const done = this.#sending.filter((order) => ids.has(order.disk));
    this.#sending = this.#sending.filter((order) => !ids.has(order.disk));
    return done;
  }
}
