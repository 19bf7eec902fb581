/**
 * Reading a socket into memory of ours. Node gives each read a new buffer of 64 KiB; a server that takes in a gigabyte per second spends most of
 * its time on those (measured: three times the cost of the read itself). Node's remedy, `onread`, is offered to clients only, so the accepted
 * connection's handle moves into a socket that was made with it. That uses two names that Node doesn't document; where they are missing, and
 * for TLS, `data` events do the same, more slowly.
 */
import { Socket } from 'node:net';
import { NBD_RECEIVE_BYTES } from '../../../shared/limits.js';

export interface InputSink {
  /** Where the next bytes shall go, if not through receive(). Stays the sink's until received() or abandoned for good. */
  directBuffer(): Buffer | null;
  /** So many bytes stand in the buffer that directBuffer() gave last. */
  receivedDirectly(bytes: number, buffer: Buffer): void;
  /** Valid until the next call, and while the socket is paused. */
  receive(chunk: Buffer): void;
}

interface Handled {
  _handle?: object | null;
}

/** The socket to go on with; `accepted` must not have begun to read (pauseOnConnect). */
export function readInto(accepted: Socket, sink: InputSink): Socket {
  const shell = accepted as unknown as Handled;
  const handle = shell._handle ?? null;
  if (handle === null) return readByEvents(accepted, sink);
  const common = Buffer.allocUnsafeSlow(NBD_RECEIVE_BYTES);
  let isOpen = false;
  const options = {
    handle,
    onread: {
      buffer: () => (isOpen ? sink.directBuffer() : null) ?? common,
      callback: (bytes: number, buffer: Uint8Array) => {
        if (buffer === common) sink.receive(common.subarray(0, bytes));
        else sink.receivedDirectly(bytes, buffer as Buffer);
        return true;
      },
    },
  };
  shell._handle = null;
  const socket = new Socket(options as object);
  isOpen = true;
  // The server counts the shell as its connection.
  socket.once('close', () => accepted.destroy());
  socket.resume();
  return socket;
}

export function readByEvents<S extends Socket>(socket: S, sink: InputSink): S {
  socket.on('data', (chunk: Buffer) => sink.receive(chunk));
  socket.resume();
  return socket;
}
