/**
 * What the certificate of this receiver's servers holds: the name that agents expect, and all that this host is reached by. For other clients
 * than our agents, which pin the CA and look at the first alone.
 */
import { hostname, networkInterfaces } from 'node:os';
import { RECEIVER_TLS_NAME } from '../../shared/wire/enroll.js';

export function serverNames(further: readonly string[]): readonly string[] {
  const addresses = Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map((i) => i.address));
  const all = [RECEIVER_TLS_NAME, 'localhost', hostname(), '127.0.0.1', '::1', ...addresses, ...further];
  // A link-local address carries its interface (`fe80::1%eth0`), which no certificate can hold.
  return [...new Set(all)].filter((name) => name !== '' && !name.includes('%'));
}
