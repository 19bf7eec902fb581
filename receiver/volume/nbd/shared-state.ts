/**
 * What the connections of one server have in common, and the limits that they keep.
 */
import type { Clock } from '../../../shared/clock.js';
import {
  NBD_ADMITTED_BYTES,
  NBD_CONNECTION_BYTES_MAX,
  NBD_CONNECTIONS_MAX,
  NBD_HANDSHAKE_TIMEOUT_MS,
  NBD_POOL_BYTES_MAX,
  NBD_REPLY_QUEUE_BYTES_MAX,
  NBD_REQUESTS_IN_FLIGHT_MAX,
  NBD_SERVER_BYTES_MAX,
  NBD_STALL_MS,
  NBD_STOP_TIMEOUT_MS,
} from '../../../shared/limits.js';
import type { Logger } from '../../../shared/log.js';
import { BufferPool } from './buffer-pool.js';
import { DeviceErrorLog } from './device-errors.js';
import { FlushGates } from './flush-gate.js';
import { MemoryBudget, type BudgetLimits } from './memory-budget.js';

export interface NbdLimits extends BudgetLimits {
  readonly connections: number;
  readonly handshakeTimeoutMs: number;
  readonly requestsInFlight: number;
  readonly replyQueueBytes: number;
  readonly stopTimeoutMs: number;
}

export const NBD_LIMITS: NbdLimits = {
  serverBytes: NBD_SERVER_BYTES_MAX,
  connectionBytes: NBD_CONNECTION_BYTES_MAX,
  admittedBytes: NBD_ADMITTED_BYTES,
  stallMs: NBD_STALL_MS,
  connections: NBD_CONNECTIONS_MAX,
  handshakeTimeoutMs: NBD_HANDSHAKE_TIMEOUT_MS,
  requestsInFlight: NBD_REQUESTS_IN_FLIGHT_MAX,
  replyQueueBytes: NBD_REPLY_QUEUE_BYTES_MAX,
  stopTimeoutMs: NBD_STOP_TIMEOUT_MS,
};

/** Counted since the start; `heldBytes` and `inFlight` are what is held now. */
export interface NbdStats {
  requests: number;
  bytesRead: number;
  bytesWritten: number;
  /** Requests that were answered with an error. */
  errors: number;
  /** Connections that were cut off: hostile, broken or too many. */
  cutOff: number;
  inFlight: number;
  readonly heldBytes: number;
}

export interface SharedState {
  readonly limits: NbdLimits;
  readonly budget: MemoryBudget;
  readonly pool: BufferPool;
  readonly gates: FlushGates;
  readonly stats: NbdStats;
  readonly deviceErrors: DeviceErrorLog;
  readonly log: Logger;
  readonly clock: Clock;
}

export function createSharedState(limits: Partial<NbdLimits>, log: Logger, clock: Clock): SharedState {
  const all = { ...NBD_LIMITS, ...limits };
  const budget = new MemoryBudget(all, clock);
  const counts = { requests: 0, bytesRead: 0, bytesWritten: 0, errors: 0, cutOff: 0, inFlight: 0 };
  const stats = Object.defineProperty(counts, 'heldBytes', {
    get: () => budget.usedBytes,
    enumerable: true,
  }) as unknown as NbdStats;
  return {
    limits: all,
    budget,
    pool: new BufferPool(NBD_POOL_BYTES_MAX),
    gates: new FlushGates(),
    stats,
    deviceErrors: new DeviceErrorLog(log, clock),
    log,
    clock,
  };
}
