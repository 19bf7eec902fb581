/**
 * Limits of encryption and keys, each with its reason.
 */
import { MIB } from './units.js';

/** A key file: a hundred bytes per key, one more for each rotation. */
export const KEY_FILE_BYTES_MAX = 1 * MIB;
/** A machine's keys object holds the same keys, wrapped. */
export const KEYS_OBJECT_BYTES_MAX = 1 * MIB;
/** A writer looks this often whether a machine's keys were rotated (one listing). */
export const KEYS_RECHECK_MS = 5 * 60_000;
/** A program that wraps or unwraps a key asks a service in the network. */
export const KEY_COMMAND_TIMEOUT_MS = 30_000;
/** A check of a key file proves a chunk of so many layers of each disk: some seconds on a far store. */
export const KEY_SAMPLE_UNITS = 16;
