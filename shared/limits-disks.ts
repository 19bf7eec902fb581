/**
 * Limits of looking after disks that come and go. Each with its reason.
 */

/** Disks that are away or can't be read are looked for this often: soon enough for people, and a look costs some hundred small reads of sysfs. */
export const DISK_LOOK_MS = 2_000;
/** Paths to disks are looked for anew this often, where no device came or went: a multipath device may have got or lost one. */
export const DISK_PATHS_LOOK_MS = 30_000;
/** An agent lets go of its disks in so long when their list was changed, or whoever changed it is told that it didn't: a disk that hangs must not hang a command. */
export const DISKS_LET_GO_MS = 60_000;
/** New disks are compared with the rules this often. */
export const DISK_RULES_LOOK_MS = 5_000;
/** Rules of each kind. */
export const DISK_RULES_MAX = 100;
/** Whoever changes the list of protected disks is waited for this long: inspecting a hundred disks takes a second, a tracker that ends some more. */
export const PROTECTION_LOCK_WAIT_MS = 30_000;
/** ... looking this often. */
export const PROTECTION_LOCK_POLL_MS = 10;
