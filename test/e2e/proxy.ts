/**
 * A TCP proxy on loopback that a test can let fail: it stops forwarding, slows down, or resets what goes through it.
 */
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';

interface Pair {
  readonly inbound: Socket;
  readonly outbound: Socket;
}

export class Proxy {
  readonly #server: Server;
  readonly #pairs = new Set<Pair>();
  #held = false;
  #refusing = false;
  /** Bytes per second in each direction of each connection; null for no limit. */
  #rate: number | null = null;
  forwardedBytes = 0;

  private constructor(target: number) {
    this.#server = createServer((inbound) => {
      if (this.#refusing) {
        inbound.resetAndDestroy();
        return;
      }
      const outbound = connect({ host: '127.0.0.1', port: target });
      const pair = { inbound, outbound };
      this.#pairs.add(pair);
      this.#forward(inbound, outbound);
      this.#forward(outbound, inbound);
      if (this.#held) this.#pause(pair);
      inbound.once('close', () => this.#pairs.delete(pair));
    });
  }

  /** `port`: where it listens; any that is free unless given. */
  static async open(target: number, port = 0): Promise<Proxy> {
    const proxy = new Proxy(target);
    await new Promise<void>((resolve) => proxy.#server.listen(port, '127.0.0.1', resolve));
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Nothing goes through from now on, but nobody is told: as when packets are lost. */
  hold(): void {
    this.#held = true;
    for (const pair of this.#pairs) this.#pause(pair);
  }

  release(): void {
    this.#held = false;
    for (const { inbound, outbound } of this.#pairs) {
      inbound.resume();
      outbound.resume();
    }
  }

  /** Ends every connection with a reset. */
  reset(): void {
    for (const { inbound, outbound } of this.#pairs) {
      inbound.resetAndDestroy();
      outbound.resetAndDestroy();
    }
  }

  /** While true, new connections are reset as well. */
  refuse(refusing: boolean): void {
    this.#refusing = refusing;
    if (refusing) this.reset();
  }

  throttle(bytesPerSecond: number | null): void {
    this.#rate = bytesPerSecond;
  }

  close(): Promise<void> {
    this.reset();
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }

  #pause({ inbound, outbound }: Pair): void {
    inbound.pause();
    outbound.pause();
  }

  #forward(from: Socket, to: Socket): void {
    from.on('data', (bytes) => {
      this.forwardedBytes += bytes.length;
      const waitMs = this.#rate === null ? 0 : (bytes.length / this.#rate) * 1000;
      const room = to.write(bytes);
      if (room && waitMs < 1) return;
      from.pause();
      const goOn = (): void => {
        if (!this.#held) from.resume();
      };
      if (waitMs >= 1) setTimeout(goOn, waitMs);
      else to.once('drain', goOn);
    });
    from.on('error', () => to.destroy());
    from.on('close', () => to.destroy());
  }
}
