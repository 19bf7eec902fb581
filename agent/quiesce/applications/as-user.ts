/**
 * Opens a socket as a user of this machine: PostgreSQL (`peer`) and MariaDB (`unix_socket`) ask the kernel who connects, so that no password is needed.
 */
import { messageOf } from '../../../shared/errors.js';
import { applicationError } from './application.js';

/**
 * Calls `open` under the user's id. Only what it does at once counts, so it must begin to connect before it returns: the kernel keeps for the other
 * side who we were in that moment.
 */
export function asUser<T>(name: string, user: string | undefined, open: () => T): T {
  if (user === undefined || user === 'root' || process.geteuid?.() !== 0) return open();
  try {
    process.seteuid?.(user);
  } catch (error) {
    const hint =
      'Set `osUser` to a user of this machine, or `password`. Inside a sandbox the process also needs CAP_SETUID.';
    throw applicationError(name, `can't connect as user ${user}: ${messageOf(error)}`, hint);
  }
  try {
    return open();
  } finally {
    process.seteuid?.(0);
  }
}

/** Who opens the socket: as configured, else the user of the same name as the database's where no password proves who we are. */
export const osUserOf = (settings: {
  readonly user?: string | undefined;
  readonly osUser?: string | undefined;
  readonly password?: unknown;
  readonly host?: string | undefined;
}): string | undefined =>
  settings.osUser ?? (settings.password === undefined && settings.host === undefined ? settings.user : undefined);
