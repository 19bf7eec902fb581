/**
 * Limits of pins, holds and retention, as in limits.ts.
 */
import { KIB, MIB } from './units.js';

/** A pin that isn't renewed is worth nothing after this (and honoured once more as long): renewals are two small requests per third of it. */
export const PIN_TTL_MS = 10 * 60_000;
/** Pins, holds and policies of a machine: a few short texts each. */
export const PIN_BYTES_MAX = 64 * KIB;
export const HOLDS_BYTES_MAX = 1 * MIB;
export const POLICY_BYTES_MAX = 64 * KIB;
/** Points of a machine that are held by name at a time: each keeps its changes for good, and a person has to know what they are. */
export const HOLDS_MAX = 500;
/** Steps of a retention grid; five cover a hundred years. */
export const RETENTION_TIERS_MAX = 16;
/** Longest a grid may reach: beyond it somebody has mistyped. */
export const RETENTION_DAYS_MAX = 36_500;
/** A cut that lies further before its commit than this, or after it, is of a clock that isn't believed: retention counts the commit's time. */
export const RETENTION_SKEW_MS = 15 * 60_000;
