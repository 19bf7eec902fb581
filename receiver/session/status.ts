/**
 * What the receiver knows of a machine right now, for status and metrics. Plain data, written by the session, read by the daemon.
 */
import type { AgentMessage } from '../../shared/wire/messages.js';
import type { RecoveryPoint } from '../catalog/manifest.js';

export interface MachineStatus {
  machine: string;
  name: string;
  connected: boolean;
  /** Of the session that stands: what the agent may do; null before it was welcomed. */
  mode: 'replicate' | 'restore' | null;
  remote: string;
  connectedAtMs: number | null;
  epoch: number;
  queuedBytes: number;
  receivedBytes: number;
  storedBytes: number;
  pointsCommitted: number;
  lastPoint: RecoveryPoint | null;
  lastRefusal: string | null;
  lastError: string | null;
  disks: Extract<AgentMessage, { type: 'progress' }>['disks'];
}

export const newMachineStatus = (machine: string, name: string): MachineStatus => ({
  machine,
  name,
  connected: false,
  mode: null,
  remote: '',
  connectedAtMs: null,
  epoch: 0,
  queuedBytes: 0,
  receivedBytes: 0,
  storedBytes: 0,
  pointsCommitted: 0,
  lastPoint: null,
  lastRefusal: null,
  lastError: null,
  disks: [],
});
