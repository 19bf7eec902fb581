/**
 * An HTTP proxy on loopback in front of a store's server, which a test lets lose requests, lose answers, refuse, cut or double them.
 */
import { createServer, request, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';

export type Fate =
  | 'pass'
  /** Never reaches the server; the connection breaks. */
  | 'lost'
  /** Carried out; the connection breaks instead of an answer. */
  | 'answer-lost'
  /** Not carried out: the server asks for fewer requests. */
  | 'busy'
  /** Half of the answer's body, then the connection breaks. */
  | 'cut'
  /** Carried out, and the same once more before it is answered (with the first answer). */
  | 'twice';

export interface Seen {
  readonly method: string;
  /** Path and query. */
  readonly path: string;
  /** How many like it came before: the same method and path. */
  readonly nth: number;
}

interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
}

const bodyOf = async (stream: IncomingMessage): Promise<Buffer> => {
  const pieces: Buffer[] = [];
  for await (const piece of stream) pieces.push(piece as Buffer);
  return Buffer.concat(pieces);
};

export class HttpProxy {
  readonly endpoint: string;
  readonly seen: Seen[] = [];
  /** What becomes of a request. */
  fate: (request: Seen) => Fate = () => 'pass';
  readonly #server: Server;
  readonly #target: URL;

  private constructor(server: Server, target: string, scheme: 'http' | 'https') {
    this.#server = server;
    this.#target = new URL(target);
    this.endpoint = `${scheme}://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  /** With `tls` it is asked by https. */
  static async open(target: string, tls?: { readonly key: Buffer; readonly cert: Buffer }): Promise<HttpProxy> {
    const server = tls === undefined ? createServer() : createTlsServer(tls);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const proxy = new HttpProxy(server, target, tls === undefined ? 'http' : 'https');
    server.on('request', (incoming, answer) => {
      proxy.#serve(incoming, answer).catch(() => answer.destroy());
    });
    return proxy;
  }

  /** A clean record, and everything passes. */
  reset(): void {
    this.seen.length = 0;
    this.fate = () => 'pass';
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #serve(incoming: IncomingMessage, answer: ServerResponse): Promise<void> {
    const body = await bodyOf(incoming);
    const { method = 'GET', url: path = '/' } = incoming;
    const seen = { method, path, nth: this.seen.filter((s) => s.method === method && s.path === path).length };
    this.seen.push(seen);
    const fate = this.fate(seen);
    if (fate === 'lost') return void incoming.socket.destroy();
    if (fate === 'busy') {
      answer.writeHead(503, { 'content-type': 'application/xml' });
      return void answer.end(
        '<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>fewer, please</Message></Error>',
      );
    }
    const got = await this.#forward(incoming, body);
    if (fate === 'twice') await this.#forward(incoming, body);
    if (fate === 'answer-lost') return void incoming.socket.destroy();
    answer.writeHead(got.status, got.headers);
    if (fate === 'cut')
      return void answer.write(got.body.subarray(0, got.body.length / 2), () => incoming.socket.destroy());
    answer.end(got.body);
  }

  #forward(incoming: IncomingMessage, body: Buffer): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const { hostname, port } = this.#target;
      const { method, url: path, headers } = incoming;
      // The host stays what the client signed.
      const outgoing = request({ hostname, port, method, path, headers, agent: false }, (response) => {
        bodyOf(response).then(
          (bytes) => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: bytes }),
          reject,
        );
      });
      outgoing.once('error', reject).end(body);
    });
  }
}
