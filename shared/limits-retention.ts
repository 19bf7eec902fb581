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
/** A receiver looks for a changed policy of a machine this often: one listing. */
export const POLICY_RECHECK_MS = 60_000;
/** A new hold waits this long for the manifest after which nobody can drop its point any more: two or three points of a machine. */
export const HOLD_CONFIRM_MS = 15_000;
export const HOLD_CONFIRM_POLL_MS = 500;
/** What a preview takes upkeep to let be: this part of the image is superseded before its bases are rebuilt. */
export const PREVIEW_SUPERSEDED_SHARE = 0.25;
/** ... and so many reads of each layer that is merged: its index, its chunks. */
export const PREVIEW_READS_PER_LAYER = 2;
/** Points that a preview for people names one by one; the rest is counted (with --json all are there). */
export const PREVIEW_LINES_MAX = 20;
/** An open point whose pin was lost and that could not be planned anew is tried again after this. */
export const REPLAN_RETRY_MS = 10_000;
