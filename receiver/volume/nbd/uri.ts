/**
 * Addresses of exports as NBD clients take them (the NBD URI specification): for QEMU, libnbd and people.
 */
export type NbdAddress =
  { readonly socketPath: string } | { readonly host: string; readonly port: number; readonly tls: boolean };

export const NBD_PORT = 10809;

export function nbdUri(address: NbdAddress, exportName: string): string {
  const name = encodeURIComponent(exportName);
  if ('socketPath' in address) {
    // Slashes may stand in a query as they are, which people can read.
    const path = encodeURIComponent(address.socketPath).replaceAll('%2F', '/');
    return `nbd+unix:///${name}?socket=${path}`;
  }
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  const port = address.port === NBD_PORT ? '' : `:${address.port}`;
  return `${address.tls ? 'nbds' : 'nbd'}://${host}${port}/${name}`;
}
