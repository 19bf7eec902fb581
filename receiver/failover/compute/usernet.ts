/**
 * Whether a connection to a forwarded port has reached the guest. QEMU's user network accepts it on the host at once, also when nobody in the guest
 * listens yet or the guest hangs: only its table of connections tells.
 */
import { z } from 'zod';
import { guestShape, servedForwards, type Forward } from './guest-shape.js';
import type { LaunchSpec } from './provider.js';
import { guestFiles } from './qemu-arguments.js';
import { withQmp } from './qmp.js';

/** The forward that a check of this address goes through; null for others. Pure. */
export function forwardOf(spec: LaunchSpec, host: string, port: number): Forward | null {
  const local = (name: string): boolean => /^(127\.|localhost$|0\.0\.0\.0$)/.test(name);
  return (
    servedForwards(guestShape(spec).nics).find(
      (forward) => forward.hostPort === port && (forward.host === host || (local(forward.host) && local(host))),
    ) ?? null
  );
}

/**
 * From the answer to `info usernet`: lines such as `  TCP[ESTABLISHED]  15  127.0.0.1 18080  10.0.2.15    80  0  0`; a listening one is
 * HOST_FORWARD, one that the guest hasn't answered SYN_SENT. Pure.
 */
export const hasEstablished = (table: string, { hostPort, guestPort }: Forward): boolean =>
  table.split('\n').some((line) => {
    const match = /^\s*TCP\[(\w+)\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)\s/.exec(line);
    return match?.[1] === 'ESTABLISHED' && Number(match[2]) === hostPort && Number(match[3]) === guestPort;
  });

/** Ask while the connection is open. */
export async function reachesGuest(spec: LaunchSpec, forward: Forward): Promise<boolean> {
  const table = await withQmp(guestFiles(spec.folder).qmp, (qmp) =>
    qmp.execute('human-monitor-command', { 'command-line': 'info usernet' }),
  );
  return hasEstablished(z.string().parse(table), forward);
}
