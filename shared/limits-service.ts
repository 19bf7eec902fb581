/**
 * Limits of the agent as a system service: what `doctor` complains about, and what is believed after a reboot. Each with its reason.
 */
import { MIB } from './units.js';

/** A clock that differs by more than this from the receiver's shows wrong ages of points; NTP keeps it well below. */
export const CLOCK_OFF_WARN_MS = 5_000;
/** ... and by more than this, points stand in the list at times at which nobody would look for them. */
export const CLOCK_OFF_FAIL_MS = 5 * 60_000;
/** Certificates that end sooner than this are named: enrolling machines again is a plan, not a minute's work. */
export const CERTIFICATE_ENDING_MS = 30 * 24 * 60 * 60 * 1000;
/** Free space that is left beside the hash stores: journals of two generations, notes, what others write. */
export const STATE_SPACE_MARGIN_BYTES = 256 * MIB;
/** `doctor` asks each receiver for at most this long: it is a person who waits. */
export const DOCTOR_CONNECT_TIMEOUT_MS = 5_000;
/** ... and systemd. */
export const SYSTEMCTL_TIMEOUT_MS = 5_000;

/** A reboot takes minutes, the longest self-tests a quarter of an hour; who was away for longer may have been anywhere. */
export const REBOOT_WITHIN_MS = 15 * 60_000;
/** Disks that were closed are waited for this long at boot: mounts wait meanwhile, and what is not there by then is compared. */
export const ARM_DISK_WAIT_MS = 10_000;
/** ... looking this often. */
export const ARM_DISK_POLL_MS = 50;
/** Between two looks at a disk that is to be untouched: much longer than a write waits in a plug or for its CPU. */
export const UNTOUCHED_LOOK_MS = 50;
/** Tries of an audit at shutdown that hears of writes still landing. */
export const CLOSE_AUDITS_MAX = 10;
/** A note of a disk: for each 64 blocks at most a bit, before compression, as base64; 2^29 blocks need 1.4 MiB. */
export const NOTE_BYTES_MAX = 4 * MIB;
/** What is looked at on a disk before it is believed: superblocks and heads of logs of a few hundred volumes; more takes too long at boot. */
export const TRACE_BYTES_MAX = 64 * MIB;
