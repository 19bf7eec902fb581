/**
 * Tells systemd how the service is (sd_notify(3)): one datagram to the socket in NOTIFY_SOCKET. Node has no datagram Unix sockets, so
 * libc is called. Without NOTIFY_SOCKET nothing happens. A failure is never the service's: it is returned, not thrown.
 */
import { closeSync } from 'node:fs';
import koffi from 'koffi';
import type { Clock } from './clock.js';

const AF_UNIX = 1;
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
/** Never wait for systemd, never a signal when it is gone. */
const MSG_DONTWAIT_NOSIGNAL = 0x40 | 0x4000;
const PATH_BYTES_MAX = 107;

const libc = koffi.load(null);
const socket = libc.func('int socket(int domain, int type, int protocol)');
const sendto = libc.func(
  'long sendto(int fd, const void *bytes, size_t length, int flags, const void *address, uint32_t addressLength)',
);

/** struct sockaddr_un; a leading `@` stands for the abstract namespace (a zero byte). Null for what is no address. */
export function unixAddress(path: string): Buffer | null {
  const bytes = Buffer.from(path, 'utf8');
  const isAbstract = path.startsWith('@');
  if ((!isAbstract && !path.startsWith('/')) || bytes.length > PATH_BYTES_MAX) return null;
  if (isAbstract) bytes[0] = 0;
  const family = Buffer.alloc(2);
  new Uint16Array(family.buffer, family.byteOffset, 1)[0] = AF_UNIX;
  // A path ends with a zero byte; an abstract name ends where the length says.
  return Buffer.concat(isAbstract ? [family, bytes] : [family, bytes, Buffer.alloc(1)]);
}

function sendDatagram(address: Buffer, text: string): boolean {
  const fd = Number(socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0));
  if (fd < 0) return false;
  try {
    const bytes = Buffer.from(text, 'utf8');
    return Number(sendto(fd, bytes, bytes.length, MSG_DONTWAIT_NOSIGNAL, address, address.length)) === bytes.length;
  } finally {
    closeSync(fd);
  }
}

export interface ServiceNotifier {
  /** How often systemd wants to hear that we live: half of what it waits. Null when it doesn't ask. */
  readonly watchdogIntervalMs: number | null;
  /** The service is up. Each returns whether systemd was told. */
  ready(): boolean;
  /** One line for `systemctl status`. */
  status(text: string): boolean;
  alive(): boolean;
  stopping(): boolean;
}

export function createNotifier(env: NodeJS.ProcessEnv = process.env, pid = process.pid): ServiceNotifier {
  const address = unixAddress(env['NOTIFY_SOCKET'] ?? '');
  const send = (text: string): boolean => address !== null && sendDatagram(address, text);
  return {
    watchdogIntervalMs: address === null ? null : watchdogIntervalMs(env, pid),
    ready: () => send('READY=1\n'),
    status: (text) => send(`STATUS=${text.replace(/\s+/g, ' ')}\n`),
    alive: () => send('WATCHDOG=1\n'),
    stopping: () => send('STOPPING=1\n'),
  };
}

function watchdogIntervalMs(env: NodeJS.ProcessEnv, pid: number): number | null {
  const microseconds = Number(env['WATCHDOG_USEC']);
  const isOurs = env['WATCHDOG_PID'] === undefined || Number(env['WATCHDOG_PID']) === pid;
  return isOurs && microseconds > 0 ? Math.floor(microseconds / 2000) : null;
}

/**
 * Tells systemd that we live, as long as `isHealthy` says so: a service that only looks alive is killed and started again.
 * Ends when the signal is aborted.
 */
export async function keepWatchdog(
  notifier: ServiceNotifier,
  clock: Clock,
  isHealthy: () => boolean,
  signal: AbortSignal,
): Promise<void> {
  const intervalMs = notifier.watchdogIntervalMs;
  if (intervalMs === null) return;
  while (!signal.aborted) {
    if (isHealthy()) notifier.alive();
    await clock.sleep(intervalMs, signal);
  }
}
