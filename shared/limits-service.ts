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
