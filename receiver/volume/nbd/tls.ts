/**
 * TLS of the NBD port: from the answer to STARTTLS on. A client must show a certificate that the receiver's CA signed, and it must not be the
 * certificate of a source machine's agent: a source has no business in the volumes of others.
 */
import { constants } from 'node:crypto';
import type { Socket } from 'node:net';
import { createServer, type TLSSocket } from 'node:tls';
import { messageOf } from '../../../shared/errors.js';
import { isUuid } from '../../../shared/units.js';

export interface NbdTls {
  readonly keyPem: string;
  readonly certificatePem: string;
  readonly caPem: string;
}

export interface TlsUpgrade {
  onSecure(socket: TLSSocket): void;
  onRefused(reason: string): void;
}

/**
 * Hands a connection, from its next byte on, to TLS. (Through a TLS server of its own that never listens: that way Node itself checks the client's
 * certificate; a TLSSocket made by hand takes any certificate and leaves the check to its user.)
 */
export function startTls(socket: Socket, tls: NbdTls, handshakeTimeoutMs: number, upgrade: TlsUpgrade): void {
  const server = createServer({
    key: tls.keyPem,
    cert: tls.certificatePem,
    ca: tls.caPem,
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: 'TLSv1.3',
    handshakeTimeout: handshakeTimeoutMs,
    // A resumed TLS session would stand for a certificate that nobody has shown on this connection.
    secureOptions: constants.SSL_OP_NO_TICKET,
  });
  server.once('secureConnection', (secure) => {
    const refusal = refusalOfClient(secure);
    if (refusal === null) upgrade.onSecure(secure);
    else upgrade.onRefused(refusal);
  });
  server.once('tlsClientError', (error) => upgrade.onRefused(`TLS failed: ${messageOf(error)}`));
  server.emit('connection', socket);
}

function refusalOfClient(secure: TLSSocket): string | null {
  if (!secure.authorized) return 'its certificate is not of this receiver';
  const names: unknown = secure.getPeerCertificate().subject?.CN;
  const isAgent = [names].flat().some((name) => typeof name === 'string' && isUuid(name.toLowerCase()));
  return isAgent ? "its certificate is that of a machine's agent, which is not for volumes" : null;
}
