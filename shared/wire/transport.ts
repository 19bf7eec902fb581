/**
 * What the session protocol needs from a connection to the receiver: ordered binary messages, back-pressure, one end.
 */
export interface TransportClosed {
  /** WebSocket close code; 1006 when the connection was lost. */
  readonly code: number;
  /** What the peer said, or what happened to the connection. */
  readonly reason: string;
}

export interface Transport {
  /** Queues one binary message. Resolves when the buffer may be reused; waits while the socket holds too much. Rejects once closed. */
  send(bytes: Buffer): Promise<void>;
  /** At most one handler; called in order. */
  onMessage(handler: (bytes: Buffer) => void): void;
  /** Resolves once, when the connection has ended for whatever reason. */
  readonly closed: Promise<TransportClosed>;
  close(code: number, reason: string): void;
}
