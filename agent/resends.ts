/**
 * Blocks that the receiver asked for once more, since what the store holds of them is damaged: they go with the next point, changed or not. Lives as long
 * as a session: what was not sent in it is asked for again.
 */
import type { Logger } from 'pino';
import type { OpenedDisk } from './open-disk.js';
import type { Order, ReceiverSession } from './session/session.js';

type Resend = Extract<Order, { type: 'resend' }>;

export class Resends {
  /** Not begun yet, and with the next point. */
  readonly #waiting: Resend[] = [];
  #sending: Resend[] = [];

  heard(order: Resend): void {
    this.#waiting.push(order);
  }

  /** Between cycles: what a running one has taken is its own. True: a point is due for it. */
  begin(disks: readonly OpenedDisk[], log: Logger): boolean {
    let isDue = false;
    for (const order of this.#waiting.splice(0)) {
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
      isDue = true;
      log.info({ disk: disk.id, blocks: disk.resend.size }, 'the receiver asks for blocks once more');
    }
    return isDue;
  }

  /** What was asked for is in a point of these disks. */
  async made(ready: readonly OpenedDisk[], point: number, say: ReceiverSession['say']): Promise<void> {
    const ids = new Set<string>(ready.map(({ disk }) => disk.id));
    for (const { disk } of ready) disk.resend.clear();
    const done = this.#sending.filter((order) => ids.has(order.disk));
    this.#sending = this.#sending.filter((order) => !ids.has(order.disk));
    for (const { request } of done) await say({ type: 'resent', request, point });
  }
}
